"""Attempts that ended otherwise than by returning, judged in the transaction that writes the end.

Only there is it known whether an effect of the job is in doubt, and who else knows its task.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.ledger import effects, losses, registry, restarts
from failbetter.ledger.claims import Claimed
from failbetter.ledger.endings import Error, Settlement, own_error
from failbetter.lifecycle.decide import Outcome, decide
from failbetter.lifecycle.states import Cause, State
from failbetter.worker.wire import Ended

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx
    from failbetter.worker.outages import Outages

# Seconds until a job that only another worker can run is claimable again.
_ELSEWHERE = 1.0

# What a job that may not run twice failed of, when its process was killed through no fault of its.
_NO_OUTCOME = {
    Cause.INTERRUPTED: (
        "failbetter.Interrupted",
        "its worker stopped and could wait no longer for the body",
    ),
    Cause.BYSTANDER: (
        "failbetter.ProcessDied",
        "its process was killed because of another body in it",
    ),
}

# Attempts that ended before their bodies could: how far they had come tells what is left.
_WITHOUT_OUTCOME = frozenset(
    {Cause.CRASHED, Cause.TIMED_OUT, Cause.STALLED, Cause.INTERRUPTED, Cause.BYSTANDER}
)


class Undecided(msgspec.Struct, frozen=True):
    """An attempt's end before it is judged. Times in microseconds since the epoch.

    `begun_at` None: its body had not begun. `code`: the version of the code it ran.
    """

    job: Claimed
    outcome: Outcome
    begun_at: int | None
    ended_at: int
    code: str | None
    error: Error | None = None
    evidence: dict[str, Any] = {}
    result: str | None = None
    note: str | None = None
    outage: bool = False
    """Whether it is a failure that the task's breaker counts."""
    newer: str | None = None
    """The version of the code that was on disk by then, if it was other than what it ran."""


def told(job: Claimed, message: Ended, code: str | None) -> Undecided:
    """What a child tells of an end."""
    cause = Cause(message.cause)
    outcome = Outcome(
        cause,
        verdict=message.verdict,  # type: ignore[arg-type]  # the child's own Verdict
        delay=message.delay,
        at_least=message.at_least,
        begun=message.begun_at is not None,
        uncertain=message.uncertain,
        missing=message.missing,
    )
    error = None
    if message.error_type is not None:
        text = message.error_message or _default_message(cause, job)
        # What no child has looked at closer is of one cause for each task and type.
        mark = message.fingerprint or own_error(job.task, message.error_type, "").fingerprint
        error = Error(message.error_type, text, message.traceback, mark, message.bases)
    return Undecided(
        job,
        outcome,
        message.begun_at,
        message.ended_at,
        code,
        error,
        outage=message.outage,
        newer=message.newer,
    )


def judge(tx: Tx, one: Undecided, worker: str, outages: Outages) -> Settlement:
    """Decide what becomes of the job; `worker` is the name under which its attempt ran."""
    job, outcome, error, begun_at = one.job, one.outcome, one.error, one.begun_at
    evidence = one.evidence
    if one.outage and (breaker := outages.seen(job, error)) is not None:
        outcome = msgspec.structs.replace(outcome, held_back=True)
        evidence = {**evidence, "held_back": breaker}
    if one.newer is not None and one.code is not None:
        if not restarts.failed_on_older(tx, job.id, one.code):
            outcome = msgspec.structs.replace(outcome, outdated=True)
        evidence = {**evidence, restarts.NEWER_CODE: one.newer}
    if outcome.cause is Cause.UNLOADABLE and outcome.outdated:
        begun_at = begun_at or one.ended_at
    elif outcome.cause is Cause.UNLOADABLE and begun_at is None:
        if _is_known_elsewhere(tx, job):
            # A rolling deploy: in a while another worker, or a newer child of ours, claims it.
            outcome, error = Outcome(Cause.UNLOADABLE, delay=_ELSEWHERE, begun=False), None
        else:
            begun_at = one.ended_at  # an attempt all the same: its evidence must be kept
    elif begun_at is not None and not outcome.uncertain and effects.in_doubt(tx, job.id):
        outcome = msgspec.structs.replace(outcome, uncertain=True)
    transition = decide(job.facts(), outcome, one.ended_at, random)
    if outcome.outdated and transition.state is State.PENDING:
        evidence = {**evidence, "not_charged": transition.attempts == job.attempts}
    if begun_at is not None and outcome.cause in _WITHOUT_OUTCOME:
        checkpoint = losses.checkpoint(tx, job.id)
        if checkpoint is not None:
            evidence = {**evidence, "checkpoint": checkpoint}
    if error is None and transition.state is State.FAILED and outcome.cause in _NO_OUTCOME:
        error = own_error(job.task, *_NO_OUTCOME[outcome.cause])
    succeeded = transition.state is State.SUCCEEDED
    return Settlement(
        job.id,
        job.fence,
        job.worker,
        job.starts + 1,
        job.priority,
        transition,
        outcome.cause,
        begun_at,
        one.ended_at,
        worker,
        one.code,
        result=one.result if succeeded and one.result != "null" else None,
        note=one.note if succeeded else None,
        error=error,
        evidence=msgspec.json.encode(evidence).decode() if evidence else None,
        mirror_key=job.mirror_key,
        about=job.about if succeeded else None,
    )


def _is_known_elsewhere(tx: Tx, job: Claimed) -> bool:
    now = tx.now()
    return any(
        job.task in msgspec.json.decode(worker.tasks, type=list[str])
        for worker in registry.all_workers(tx)
        if not worker.lease_expired(now)
    )


def _default_message(cause: Cause, job: Claimed) -> str:
    if cause is Cause.TIMED_OUT:
        return f"the body ran longer than its timeout of {job.policy.timeout:g} s"
    if cause is Cause.STALLED:
        return f"the body made no progress for {job.policy.stalled_after:g} s"
    return ""
