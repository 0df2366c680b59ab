"""The decision: what becomes of a job when one of its attempts has ended.

`decide` is pure. Everything it needs is in its arguments; whoever calls it writes what it
returns, under the attempt's fence.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from failbetter.durations import micros
from failbetter.lifecycle.backoff import Random
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause, Reason, State

# Seconds after which a job that failed on old code runs again: until then its worker, and those
# beside it, should have loaded the new code.
NEWER_CODE_WITHIN = 3.0

# Hand-backs (deploys, neighbours' kills) charge nothing, yet a job must reach an end.
MAX_HAND_BACKS = 100

Verdict = Literal["retry", "fail", "discard"]
Items = Literal["all", "some", "none"]


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What the job's row says before the decision. Times in microseconds since the epoch."""

    policy: Policy
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    hand_backs: int = 0
    suspect: bool = False
    released_since: int | None = None
    expires_at: int | None = None
    starts: int = 0
    """Attempts whose body had begun, ended before this one."""

    @property
    def tried(self) -> bool:
        """Whether some body of this job has begun before."""
        return self.starts > 0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended, as its child or, for a dead child, its supervisor tells it."""

    cause: Cause
    verdict: Verdict = "retry"
    delay: float | None = None
    """Seconds the body, or the service it called, asked to wait; None means the backoff's."""
    at_least: bool = False
    """Whether `delay` is only a lower bound for the backoff (a `Retry-After`)."""
    alone: bool = True
    """Whether this body was the only one in its process."""
    begun: bool = True
    """Whether the body had begun."""
    uncertain: bool = False
    """Whether an effect of this attempt was intended and nobody knows whether it happened."""
    items: Items = "all"
    """Which of the items that the body worked through came to a good end."""
    held_back: bool = False
    """Whether it failed of an outage that is known by now: its breaker is open."""
    missing: bool = False
    """Whether a record that the job refers to is not there."""
    outdated: bool = False
    """Whether other code than what it ran is on disk by now, and it has not failed on what it ran,
    beside newer code, before."""
    silent: float = 0.0
    """Seconds since the worker that was lost was last heard of."""


class Transition(msgspec.Struct, frozen=True, gc=False):
    """What the row becomes. Made by the constructors below, nowhere else."""

    state: State
    reason: Reason | None
    run_at: int | None
    attempts: int
    crashes: int
    losses: int
    hand_backs: int
    suspect: bool
    released_since: int | None


def _make(
    facts: Facts,
    state: State,
    reason: Reason | None = None,
    *,
    run_at: int | None = None,
    attempts: int = 0,
    crashes: int = 0,
    losses: int = 0,
    hand_backs: int = 0,
    suspect: bool | None = None,
    released_since: int | None = None,
) -> Transition:
    return Transition(
        state,
        reason,
        run_at,
        facts.attempts + attempts,
        max(facts.crashes + crashes, 0),
        facts.losses + losses,
        facts.hand_backs + hand_backs,
        facts.suspect if suspect is None else suspect,
        released_since,
    )


def partly_succeeded(facts: Facts) -> Transition:
    """The body returned, some of its items failed, and to its task that is good enough."""
    return _make(facts, State.SUCCEEDED, Reason.PARTIAL, crashes=_refund(facts), suspect=False)


# One object serves every job that succeeds at its first attempt: the commonest case by far.
_CLEAN_SUCCESS = Transition(State.SUCCEEDED, None, None, 0, 0, 0, 0, False, None)


def succeeded(facts: Facts) -> Transition:
    """The body returned."""
    if not facts.tried:
        return _CLEAN_SUCCESS
    return _make(facts, State.SUCCEEDED, crashes=_refund(facts), suspect=False)


def retry_later(facts: Facts, run_at: int) -> Transition:
    """The attempt is charged and another follows at `run_at`."""
    crashes = _refund(facts)
    return _make(facts, State.PENDING, run_at=run_at, attempts=1, crashes=crashes, suspect=False)


def released(facts: Facts, run_at: int, since: int) -> Transition:
    """Nothing is charged; the job waits until `run_at`."""
    return _make(
        facts,
        State.PENDING,
        run_at=run_at,
        crashes=_refund(facts),
        suspect=False,
        released_since=since,
    )


def failed(
    facts: Facts, reason: Reason, *, attempts: int = 0, crashes: int = 0, losses: int = 0
) -> Transition:
    """The job's end, kept with its evidence until a person decides otherwise."""
    return _make(
        facts,
        State.FAILED,
        reason,
        suspect=False,
        attempts=attempts,
        crashes=crashes,
        losses=losses,
    )


def discarded(facts: Facts, reason: Reason) -> Transition:
    """The job's end without anything left to do."""
    return _make(facts, State.DISCARDED, reason, suspect=False)


def handed_back(
    facts: Facts,
    run_at: int,
    *,
    suspect: bool | None = None,
    crashes: int = 0,
    losses: int = 0,
    hand_backs: int = 0,
) -> Transition:
    """Through no raising of its own the job runs again; what is charged, if anything, is named."""
    return _make(
        facts,
        State.PENDING,
        run_at=run_at,
        suspect=suspect,
        crashes=crashes,
        losses=losses,
        hand_backs=hand_backs,
        released_since=facts.released_since,
    )


def _refund(facts: Facts) -> int:
    """A suspect of a shared death that ran alone and did not kill its child gets the crash back."""
    return -1 if facts.suspect else 0


def expired(facts: Facts) -> Transition:
    """Waited too long: dropped when it never ran, a failure when it was tried."""
    if facts.tried:
        return failed(facts, Reason.EXPIRED)
    return discarded(facts, Reason.EXPIRED)


def decide(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    """Return what becomes of the job.

    `now` in microseconds since the epoch; `rng` gives the jitter. The first budget that is
    reached ends the job, with its real reason.
    """
    if outcome.uncertain:
        return _in_doubt(facts, outcome, now, rng)
    if outcome.cause is Cause.RETURNED:
        return succeeded(facts) if outcome.items == "all" else _partial(facts, outcome)
    return _DECISIONS[outcome.cause](facts, outcome, now, rng)


def _partial(facts: Facts, outcome: Outcome) -> Transition:
    if outcome.items == "some" and facts.policy.on_partial == "succeed":
        return partly_succeeded(facts)
    return failed(facts, Reason.PARTIAL)


def _in_doubt(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    """A task that can tell does so when the job next runs; no end is reached before that."""
    if facts.policy.verify:
        decision = _DECISIONS.get(outcome.cause, _raised)  # it returned with an effect in doubt
        transition = decision(facts, outcome, now, rng)
        if transition.state is State.PENDING:
            return transition
    return _uncertain(facts, outcome)


def _uncertain(facts: Facts, outcome: Outcome) -> Transition:
    cause = outcome.cause
    return failed(
        facts,
        Reason.UNCERTAIN,
        attempts=int(cause in (Cause.RAISED, Cause.TIMED_OUT, Cause.STALLED)),
        crashes=int(cause is Cause.CRASHED),
        losses=int(cause is Cause.LOST),
    )


def _raised(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    if outcome.held_back:
        return handed_back(facts, now, suspect=False, crashes=_refund(facts))
    if _is_for_newer_code(facts, outcome, now):
        return _to_newer_code(facts, outcome, now)
    if outcome.verdict == "discard":
        return discarded(facts, Reason.BY_TASK)
    if outcome.verdict == "fail":
        return failed(facts, Reason.ERROR, attempts=1)
    return _charge_attempt(facts, outcome, now, rng, Reason.ERROR)


def _is_for_newer_code(facts: Facts, outcome: Outcome, now: int) -> bool:
    """Whether a failure is to be seen again with the code that is on disk: it says little before.

    A body that may not run twice is not run once more than its own retries allow.
    """
    if not outcome.outdated or facts.hand_backs + 1 >= MAX_HAND_BACKS:
        return False
    if facts.expires_at is not None and now + micros(NEWER_CODE_WITHIN) >= facts.expires_at:
        return False
    return not outcome.begun or facts.policy.on_lost != "fail"


def _to_newer_code(facts: Facts, outcome: Outcome, now: int) -> Transition:
    run_at = now + micros(NEWER_CODE_WITHIN)
    if not outcome.begun:
        return handed_back(facts, run_at)
    return handed_back(facts, run_at, suspect=False, crashes=_refund(facts), hand_backs=1)


def _charge_attempt(
    facts: Facts, outcome: Outcome, now: int, rng: Random, reason: Reason
) -> Transition:
    charged = facts.attempts + 1
    if charged >= facts.policy.max_attempts:
        return failed(facts, reason, attempts=1)
    wait = outcome.delay
    if wait is None:
        wait = facts.policy.backoff.delay(charged, rng)
    elif outcome.at_least:
        wait = max(wait, facts.policy.backoff.delay(charged, rng))
    run_at = now + micros(wait)
    if facts.expires_at is not None and run_at >= facts.expires_at:
        return failed(facts, Reason.EXPIRED, attempts=1)
    return retry_later(facts, run_at)


def _timed_out(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    reason = Reason.STALLED if outcome.cause is Cause.STALLED else Reason.TIMEOUT
    if facts.policy.on_lost == "fail":
        return failed(facts, reason, attempts=1)
    return _charge_attempt(facts, outcome, now, rng, reason)


def _released(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    since = now if facts.released_since is None else facts.released_since
    run_at = now + micros(outcome.delay or 0.0)
    if run_at - since > micros(facts.policy.release_within):
        return failed(facts, Reason.GAVE_UP)
    if facts.expires_at is not None and run_at >= facts.expires_at:
        return failed(facts, Reason.EXPIRED)
    return released(facts, run_at, since)


def _failed_by_task(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    return failed(facts, Reason.BY_TASK, attempts=1)


def _discarded_by_task(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    return discarded(facts, Reason.BY_TASK)


def _crashed(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    if not outcome.begun:
        return handed_back(facts, now)
    if facts.policy.on_lost == "fail":
        return failed(facts, Reason.CRASHED, crashes=1)
    if not outcome.alone:
        # Several bodies shared the process: any of them may have killed it. None is ended by
        # this death; each runs alone next, and whoever survives that is refunded.
        return handed_back(facts, now, suspect=True, crashes=0 if facts.suspect else 1)
    if facts.crashes + 1 >= facts.policy.max_crashes:
        return failed(facts, Reason.CRASHED, crashes=1)
    # This death was the job's own, which settles an earlier suspicion: nothing is refunded later.
    return handed_back(facts, now, suspect=False, crashes=1)


def _lost(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    if not outcome.begun:
        return handed_back(facts, now)
    within = facts.policy.recover_within
    too_late = within is not None and outcome.silent > within
    if too_late or facts.policy.on_lost == "fail" or facts.losses + 1 >= facts.policy.max_losses:
        return failed(facts, Reason.LOST, losses=1)
    return handed_back(facts, now, losses=1)


def _innocent(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    if not outcome.begun:
        return handed_back(facts, now)
    if facts.policy.on_lost == "fail":
        return failed(facts, Reason.LOST)
    if facts.hand_backs + 1 >= MAX_HAND_BACKS:
        return failed(facts, Reason.GAVE_UP)
    return handed_back(facts, now, hand_backs=1)


def _cancelled(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    return discarded(facts, Reason.CANCELLED)


def _refused(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    """The last look before the body: its time was up, or ("discard") a newer job has succeeded.

    Or a record of it is missing: then its task has decided.
    """
    if outcome.missing:
        ended = discarded if outcome.verdict == "discard" else failed
        return ended(facts, Reason.MISSING_RECORD)
    if outcome.verdict == "discard":
        return discarded(facts, Reason.SUPERSEDED)
    return expired(facts)


def _unloadable(facts: Facts, outcome: Outcome, now: int, rng: Random) -> Transition:
    if _is_for_newer_code(facts, outcome, now):
        return _to_newer_code(facts, outcome, now)
    if outcome.verdict == "retry":
        # Another live worker knows the task (a rolling deploy): leave the job to it.
        return handed_back(facts, now + micros(outcome.delay or 0.0))
    return failed(facts, Reason.UNLOADABLE)


_DECISIONS = {
    Cause.RAISED: _raised,
    Cause.RELEASED: _released,
    Cause.FAILED_BY_TASK: _failed_by_task,
    Cause.DISCARDED_BY_TASK: _discarded_by_task,
    Cause.TIMED_OUT: _timed_out,
    Cause.STALLED: _timed_out,
    Cause.CRASHED: _crashed,
    Cause.BYSTANDER: _innocent,
    Cause.LOST: _lost,
    Cause.INTERRUPTED: _innocent,
    Cause.CANCELLED: _cancelled,
    Cause.REFUSED: _refused,
    Cause.UNLOADABLE: _unloadable,
}
