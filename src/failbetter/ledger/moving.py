"""The steps of an operation: a batch of its list looked at, decided on, and moved if unchanged.

What moves a job also writes into the list that it was moved, in one transaction: a crash leaves
no job moved and not noted, and none noted and not moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, case, literal_column, null, select, update

from failbetter.ledger import acts, adopted, events
from failbetter.ledger.lists import (
    CHANGED,
    DUPLICATE,
    EXPIRED,
    MOVED,
    RETURNED,
    SKIPPED,
    UNCERTAIN,
    Looked,
    is_entry,
)
from failbetter.ledger.mirrors import follow_all
from failbetter.ledger.prepared import ONE, Prepared, b, listing
from failbetter.ledger.schema import jobs, selected
from failbetter.ledger.selection import Past
from failbetter.lifecycle.replay import CONFIRMABLE, KEY_IS_TAKEN, NEVER_AGAIN, Verdict
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.kinds import Kind, Tx


Skipped: TypeAlias = tuple[Looked, str, str | None]
"""A job that was not moved, what became of it instead, and why."""


class Ask(msgspec.Struct, frozen=True):
    """How a batch is to be moved.

    `confirm`: also what needs confirmation. `aside`: the jobs wait behind others of their
    priority. `gap`: microseconds between two jobs' times.
    """

    confirm: bool = False
    aside: bool = False
    gap: int = 0


# In the order in which whoever ends jobs locks them, too.
LOCK = Prepared(
    lambda kind: (
        select(jobs.c.id, jobs.c.fence)
        .where(kind.numbered(jobs.c.id, b("ids")))
        .order_by(jobs.c.id)
        .with_for_update()
    ),
    "ids",
)


def _as_listed(kind: Kind) -> tuple[ColumnElement[bool], ...]:
    """Those of the list that are as they were when it was made."""
    fence = select(selected.c.fence).where(
        selected.c.operation_id == b("operation"), selected.c.job_id == jobs.c.id
    )
    return kind.numbered(jobs.c.id, b("ids")), jobs.c.fence == fence.scalar_subquery()


RETRY = Prepared(
    lambda kind: (
        update(jobs)
        .values(
            rank=case((acts.is_ours, -jobs.c.priority + b("aside"))),
            run_at=b("run_at"),
            **acts.fresh,
        )
        .where(*_as_listed(kind))
    ),
    "aside run_at ids operation",
)
# Of jobs that were moved as one: each at its own time.
STAGGER = Prepared(update(jobs).values(run_at=b("run_at")).where(jobs.c.id == b("id")), "run_at id")
STAND_BACK = Prepared(
    update(jobs)
    .values(rank=jobs.c.rank + b("aside"), run_at=b("run_at"))
    .where(jobs.c.id == b("id"), jobs.c.rank.is_not(None)),
    "aside run_at id",
)
DISCARD = Prepared(
    lambda kind: (
        update(jobs)
        .values(
            state=acts.is_(State.DISCARDED),
            reason=acts.is_(Reason.BY_OPERATOR),
            ended_at=b("now"),
            fence=jobs.c.fence + ONE,
        )
        .where(*_as_listed(kind))
    ),
    "now ids operation",
)
# Of jobs that are locked as they were seen.
_locked = jobs.c.id == b("id")
RESTORE = Prepared(
    update(jobs)
    .values(
        state=acts.is_(State.FAILED),
        reason=b("reason"),
        ended_at=b("ended_at"),
        fence=jobs.c.fence + ONE,
    )
    .where(_locked),
    "reason ended_at id",
)
RETURN = Prepared(
    update(jobs)
    .values(
        state=b("state"),
        rank=null(),
        live=null(),
        cancel=null(),
        held=null(),
        fence=jobs.c.fence + ONE,
        **{name: b(name) for name in Past.__struct_fields__},
    )
    .where(_locked),
    f"state {' '.join(Past.__struct_fields__)} id",
)
NOTE_MOVED = Prepared(
    lambda kind: (
        update(selected)
        .values(
            outcome=literal_column(f"'{MOVED}'"),
            moved_fence=selected.c.fence + ONE,
            moved_at=b("moved_at"),
        )
        .where(selected.c.operation_id == b("operation"))
        .where(kind.numbered(selected.c.job_id, b("ids")))
    ),
    "moved_at operation ids",
)
NOTE = Prepared(
    update(selected).values(outcome=b("outcome"), why=b("why")).where(*is_entry),
    "why outcome operation job_id",
)
_AS_SAID = {
    KEY_IS_TAKEN: DUPLICATE,
    acts.EXPIRED: EXPIRED,
    acts.IN_DOUBT: UNCERTAIN,
}


def retry(tx: Tx, operation: int, looked: Sequence[Looked], ask: Ask, now: int) -> int:
    """Make jobs wait again with fresh budgets; of each that is not, why. How many it were."""
    plain: list[Looked] = []
    keyed: list[Looked] = []
    skipped: list[Skipped] = []
    run_at = {one.job_id: now + at * ask.gap for at, one in enumerate(looked)}
    for one in looked:
        refused = _refusal(one, ask, now)
        if refused is not None:
            skipped.append((one, *refused))
        else:
            (keyed if one.keyed else plain).append(one)
    moved, changed = _move(tx, RETRY, (int(ask.aside), now), operation, plain)
    skipped += changed
    adopted.retried(tx, moved)
    if ask.gap and moved:
        tx.many(STAGGER, [(run_at[number], number) for number in moved])
    for one in keyed:
        refused = _retry_carefully(tx, one, ask, run_at[one.job_id])
        if refused is None:
            moved.append(one.job_id)
        else:
            skipped.append((one, *refused))
    _note(tx, operation, moved, skipped, now)
    return len(moved)


def _move(
    tx: Tx,
    statement: Prepared,
    values: tuple[int, ...],
    operation: int,
    looked: Sequence[Looked],
) -> tuple[list[int], list[Skipped]]:
    """Move jobs that are as they are listed, in one statement; which did, and which have changed.

    They are not locked before: that costs a server nearly as much as to move them, and hardly
    ever has one changed since it was looked at.
    """
    if not looked:
        return [], []
    numbers = [one.job_id for one in looked]
    tx.savepoint()
    if tx.run(statement, *values, listing(numbers), operation) == len(numbers):
        tx.keep()
        return numbers, []
    tx.undo()
    same, changed = _lock(tx, looked)
    numbers = [one.job_id for one in same]
    _all_of(tx.run(statement, *values, listing(numbers), operation), numbers)
    return numbers, changed


def _lock(tx: Tx, looked: Sequence[Looked]) -> tuple[list[Looked], list[Skipped]]:
    """Lock jobs; those that are as they were seen, and those that have changed since."""
    fences = dict(tx.rows(LOCK, listing([one.job_id for one in looked])))
    same = [one for one in looked if fences.get(one.job_id) == one.fence_now]
    changed = [one for one in looked if fences.get(one.job_id) != one.fence_now]
    return same, [(one, CHANGED, "it has changed this very moment") for one in changed]


def _refusal(one: Looked, ask: Ask, now: int) -> tuple[str, str | None] | None:
    """What keeps a job from being retried, by what is known of it: the outcome and why."""
    verdict = one.verdict
    if one.state != State.FAILED:
        return CHANGED, f"not failed but {one.state}"
    if one.fence_now != one.fence:
        return CHANGED, "it has failed again since"
    if verdict not in CONFIRMABLE or (verdict == Verdict.NEEDS_CONFIRMATION and not ask.confirm):
        return SKIPPED, one.why
    if one.expires_at is not None and one.expires_at <= now:
        return EXPIRED, acts.EXPIRED
    if not one.can_be_retried:
        # Never again, its verdict says why; else it is an effect.
        return (SKIPPED, one.why) if one.why == NEVER_AGAIN else (UNCERTAIN, acts.IN_DOUBT)
    return None


def _retry_carefully(tx: Tx, one: Looked, ask: Ask, run_at: int) -> tuple[str, str | None] | None:
    """Retry a job with a unique key or a mirror; else the outcome and why."""
    why = acts.retry(tx, one.job_id, tx.now())
    if why is not None:
        return _AS_SAID.get(why, CHANGED), why
    if ask.aside or ask.gap:
        tx.run(STAND_BACK, int(ask.aside), run_at, one.job_id)
    return None


def discard(tx: Tx, operation: int, looked: Sequence[Looked], ask: Ask, now: int) -> int:
    """Put failed jobs aside for good, whatever their verdict. How many it were."""
    going, skipped = _as_seen(looked, State.FAILED)
    moved, changed = _move(tx, DISCARD, (now,), operation, going)
    keyed = {one.job_id for one in going if one.keyed}
    follow_all(tx, [number for number in moved if number in keyed])
    events.ended(tx, moved)
    _note(tx, operation, moved, skipped + changed, now)
    return len(moved)


def restore(tx: Tx, operation: int, looked: Sequence[Looked], ask: Ask, now: int) -> int:
    """Make discarded jobs failed again, as they were. How many it were.

    Their list keeps as their past what they are to be again.
    """
    seen, skipped = _as_seen(looked, State.DISCARDED)
    going, changed = _lock(tx, seen)
    rows = []
    for one in going:
        past = msgspec.json.decode(one.past, type=Past)
        rows.append((past.reason, past.ended_at, one.job_id))
    _all_of(tx.many(RESTORE, rows), going)
    follow_all(tx, [one.job_id for one in going if one.keyed])
    _note(tx, operation, [one.job_id for one in going], skipped + changed, now)
    return len(going)


def _as_seen(looked: Sequence[Looked], state: State) -> tuple[list[Looked], list[Skipped]]:
    going: list[Looked] = []
    skipped: list[Skipped] = []
    for one in looked:
        if state is State.DISCARDED and one.verdict != Verdict.READY:
            skipped.append((one, SKIPPED, one.why))
        elif one.state != state:
            skipped.append((one, CHANGED, f"not {state} but {one.state}"))
        elif one.fence_now != one.fence:
            skipped.append((one, CHANGED, f"it was {state} again since"))
        else:
            going.append(one)
    return going, skipped


def give_back(tx: Tx, operation: int, looked: Sequence[Looked]) -> int:
    """Make jobs that `look_back` has found failed as they were. How many it were.

    One that has changed since is no longer as the operation left it: it stays.
    """
    going, _ = _lock(tx, looked)
    rows = []
    for one in going:
        past = msgspec.structs.astuple(msgspec.json.decode(one.past, type=Past))
        rows.append((State.FAILED.value, *past, one.job_id))
    _all_of(tx.many(RETURN, rows), rows)
    adopted.taken_back(tx, [one.job_id for one in going])
    follow_all(tx, [one.job_id for one in going if one.keyed])
    tx.many(NOTE, [(one.why, RETURNED, operation, one.job_id) for one in going])
    return len(going)


def _note(
    tx: Tx,
    operation: int,
    moved: Sequence[int],
    skipped: Sequence[Skipped],
    now: int,
) -> None:
    if moved:
        tx.run(NOTE_MOVED, now, operation, listing(moved))
    if skipped:
        tx.many(NOTE, [(why, outcome, operation, one.job_id) for one, outcome, why in skipped])


def _all_of(matched: int, rows: Sequence[object]) -> None:
    """They were locked as they were seen, so that all of them have moved."""
    if matched != len(rows):
        raise AssertionError(f"{matched} of {len(rows)} locked jobs were as they had been seen")
