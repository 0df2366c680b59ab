"""The ledger against the promises, and against what bodies wrote of themselves.

`check` knows nothing of how a test hurt the workers: what it demands holds after any faults, as
soon as no job is live.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from failbetter import ids
from failbetter.ledger.schema import attempts, effects, jobs
from failbetter.lifecycle.policy import from_json
from failbetter.lifecycle.states import ENDS, LIVE, REASONS, Cause, Reason, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.faults.harness import BodyLog, Entry

    from failbetter import App

CHARGED = frozenset({Cause.RAISED, Cause.TIMED_OUT, Cause.STALLED, Cause.FAILED_BY_TASK})
"""Causes that `max_attempts` counts (but for what was raised to discard the job)."""
UNTRIED = frozenset({Reason.EXPIRED, Reason.CANCELLED, Reason.BY_OPERATOR, Reason.SUPERSEDED})
"""Reasons for which a job may end without an attempt of its own."""
NEEDS_ERROR = frozenset(
    {Reason.ERROR, Reason.TIMEOUT, Reason.CRASHED, Reason.LOST, Reason.UNLOADABLE}
)


def check(
    app: App,
    log: BodyLog,
    *,
    accepted: Collection[str],
    retried: Collection[str] = (),
    lost_claims: bool = False,
) -> None:
    """Raise AssertionError with every violation, for a ledger in which no job should be live.

    `accepted`: the ids of all jobs whose `enqueue` returned. `retried`: those that a person
    retried, whose budgets began anew meanwhile. `lost_claims`: a server crashed, which may have
    lost claims that were not on its disk yet: such an attempt may begin again in another process.
    """
    rows = {row.id: row for row in app.database.query(select(jobs))}
    tried: dict[int, list[Any]] = defaultdict(list)
    for row in app.database.query(select(attempts).order_by(attempts.c.job_id, attempts.c.fence)):
        tried[row.job_id].append(row)
    done: dict[int, list[Any]] = defaultdict(list)
    for row in app.database.query(select(effects)):
        done[row.job_id].append(row)
    seen = log.by_job()
    wrong = [f"{id_}: lost (promise 1)" for id_ in accepted if ids.from_text(id_) not in rows]
    wrong += [f"{id_}: ran and is unknown" for id_ in seen if ids.from_text(id_) not in rows]
    for number, row in rows.items():
        text = ids.to_text(number)
        trouble = list(_ended(row))
        trouble += _attempts(row, tried[number], anew=text in retried)
        if text not in retried:
            trouble += _budgets(row, tried[number])
        trouble += _bodies(row, tried[number], seen[text], lost_claims=lost_claims)
        trouble += _effects(row, done[number], seen[text])
        wrong += [f"{text} ({row.task}, {row.state}/{row.reason}): {one}" for one in trouble]
    if wrong:
        shown = "\n  ".join(wrong[:20])
        raise AssertionError(f"{len(wrong)} broken promises:\n  {shown}")


def charged_without_body(app: App, log: BodyLog) -> list[str]:
    """Ids of jobs with a crash or a loss charged for an attempt that wrote no line.

    Promise 4 allows none but those killed in the instant between the worker's note that a body
    begins and the body's own first line: at most one for each body that a kill can have hit.
    """
    began = {(entry.job, entry.attempt) for entry in log.entries("start")}
    kept = select(attempts.c.job_id, attempts.c.number).where(
        attempts.c.cause.in_([Cause.CRASHED, Cause.LOST])
    )
    charged = [(ids.to_text(row.job_id), row.number) for row in app.database.query(kept)]
    return [job for job, number in charged if (job, number) not in began]


def _ended(row: Any) -> Iterator[str]:
    """Promises 2 and 4: every job reaches an end, and nothing holds it then."""
    if row.state in LIVE:
        yield f"is not over (worker {row.worker}, claimed {row.claimed})"
        return
    for name in ("worker", "claimed", "rank", "live", "cancel"):
        if getattr(row, name) is not None:
            yield f"is over, yet {name} is {getattr(row, name)!r}"
    if row.ended_at is None:
        yield "is over, yet nobody knows since when"
    reason = None if row.reason is None else Reason(row.reason)
    if reason is not None and reason not in REASONS[State(row.state)]:
        yield f"{reason} is no reason for {row.state}"
    if reason is None and row.state != State.SUCCEEDED:
        yield "has no reason"
    if row.state == State.FAILED and reason in NEEDS_ERROR and row.error_type is None:
        yield "keeps no error (promise 5)"


def _attempts(row: Any, tried: list[Any], *, anew: bool) -> Iterator[str]:
    """Promises 3 and 5: a row for each attempt, in order, and one of them led to the end."""
    numbers = [one.number for one in tried]
    if numbers != list(range(1, len(tried) + 1)):
        yield f"its attempts by fence are numbered {numbers}"
    if tried and row.fence <= tried[-1].fence:
        yield f"its fence {row.fence} is not beyond its last attempt's, {tried[-1].fence}"
    if row.starts != len(tried):
        yield f"counts {row.starts} starts and has {len(tried)} attempts"
    for one in tried:
        if one.begun_at is None or one.begun_at > one.ended_at:
            yield f"attempt {one.number} began at {one.begun_at}, ended at {one.ended_at}"
        returned = one.cause == Cause.RETURNED and one.reason != Reason.PARTIAL
        if returned and one.state != State.SUCCEEDED:
            yield f"attempt {one.number} returned, and made it {one.state}"
    endings = [one for one in tried if one.state in ENDS]
    if len(endings) > 1 and not anew:
        yield f"attempts {[one.number for one in endings]} each ended it"
    if endings and endings[-1] is tried[-1] and row.reason != Reason.BY_OPERATOR:
        if (row.state, row.reason) != (endings[-1].state, endings[-1].reason):
            yield f"its last attempt made it {endings[-1].state}/{endings[-1].reason}"
    elif row.state in ENDS and row.reason not in UNTRIED:
        yield "no attempt led to its end"
    if row.state == State.SUCCEEDED and (not tried or tried[-1].cause != Cause.RETURNED):
        yield "succeeded, and its last attempt did not return"


def _budgets(row: Any, tried: list[Any]) -> Iterator[str]:
    """Promise 4: each budget counts what is its own, and none is overdrawn."""
    policy = from_json(row.policy)
    causes = Counter(one.cause for one in tried)
    charged = sum(
        one.cause in CHARGED
        and one.state != State.DISCARDED
        and '"held_back"' not in (one.evidence or "")
        and '"not_charged":true' not in (one.evidence or "")
        for one in tried
    )
    if row.attempts != charged:
        yield f"was charged {row.attempts} attempts for {dict(causes)}"
    if row.attempts > policy.max_attempts:
        yield f"was charged {row.attempts} attempts of {policy.max_attempts}"
    if row.losses != causes[Cause.LOST]:
        yield f"was charged {row.losses} losses for {causes[Cause.LOST]}"
    if row.losses > policy.max_losses:
        yield f"was charged {row.losses} losses of {policy.max_losses}"
    shared = sum('"shared_with"' in (one.evidence or "") for one in tried)
    if not causes[Cause.CRASHED] - shared <= row.crashes <= causes[Cause.CRASHED]:
        yield f"was charged {row.crashes} crashes for {causes[Cause.CRASHED]}, {shared} shared"
    # A shared death ends nobody: it may be followed by one run alone.
    if row.crashes > policy.max_crashes + (1 if shared else 0):
        yield f"was charged {row.crashes} crashes of {policy.max_crashes}, {shared} shared"
    mine = policy.on_lost != "fail"
    if mine and row.reason == Reason.CRASHED and row.crashes < policy.max_crashes:
        yield f"failed after {row.crashes} crashes of {policy.max_crashes}"
    if mine and row.reason == Reason.LOST and row.losses < policy.max_losses:
        yield f"failed after {row.losses} losses of {policy.max_losses}"


def _bodies(row: Any, tried: list[Any], seen: list[Entry], *, lost_claims: bool) -> Iterator[str]:
    """Promises 3, 4 and 9: the attempts on record are those that really were."""
    began: dict[int, float] = {}
    places: set[tuple[int, int]] = set()
    for entry in seen:
        if entry.what == "start":
            same_place = (entry.attempt, entry.pid) in places
            places.add((entry.attempt, entry.pid))
            if entry.attempt in began and (same_place or not lost_claims):
                yield f"attempt {entry.attempt} began twice"
            began[entry.attempt] = entry.at
    finished = {entry.attempt: entry.at for entry in seen if entry.what == "end"}
    raised = {entry.attempt for entry in seen if entry.what.startswith("raise ")}
    cause = {one.number: one.cause for one in tried}
    for number in sorted(began.keys() - cause.keys()):
        yield f"attempt {number} began, and is not on record"
    for number, what in cause.items():
        if what == Cause.RETURNED and number not in finished:
            yield f"attempt {number} is said to have returned, and did not come to its end"
        if what == Cause.RAISED and number not in began:
            yield f"attempt {number} is said to have raised, and did not begin"
        if what == Cause.RAISED and number in finished and number not in raised:
            yield f"attempt {number} is said to have raised, and came to its end"
    for number, at in began.items():
        # Two at once only where the earlier one was out of everyone's reach: a zombie.
        before = finished.get(number - 1)
        if before is not None and at < before and cause.get(number - 1) != Cause.LOST:
            yield f"attempt {number} began while attempt {number - 1} ran"


def _effects(row: Any, done: list[Any], seen: list[Entry]) -> Iterator[str]:
    """Promise 9: an effect happened at most once, and what is said of it is true."""
    happened = Counter(entry.what[7:] for entry in seen if entry.what.startswith("effect "))
    for name, times in happened.items():
        if times > 1:
            yield f"its effect {name} happened {times} times"
    known = {one.name: one.done_at is not None for one in done}
    for name, said in known.items():
        if said and happened[name] != 1:
            yield f"its effect {name} is said to have happened, and did not"
        if not said and row.state == State.SUCCEEDED:
            yield f"succeeded with the effect {name} in doubt"
    for name in happened.keys() - known.keys():
        yield f"its effect {name} happened without having been intended"
    if any(not said for said in known.values()) and row.reason != Reason.UNCERTAIN:
        yield "an effect is in doubt, and its reason does not say so (promise 9)"
