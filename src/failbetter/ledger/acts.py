"""What a person does to jobs: cancel, retry, discard. Compare-and-set, so two callers act once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import literal_column, null, or_, select, update

from failbetter.ledger.mirrors import follow, follow_all
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import effects, jobs
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement

    from failbetter.ledger.kinds import Kind, Tx


Batch: TypeAlias = "Sequence[tuple[int, bool]]"
"""Jobs by their ids, each with whether it has a unique key or a mirror."""


def _is(word: State | Reason) -> ColumnElement[str]:
    return literal_column(f"'{word}'")


_this = jobs.c.id == b("id")
# Whether a job waits is not asked of `rank`, here or in other statements on jobs known by their
# ids: on PostgreSQL, whose statistics may be of a time when nothing waited, a walk through the
# index of all that waits would seem to cost less than a seek.
_waits = (jobs.c.live == ONE, jobs.c.claimed.is_(None))
_end = {
    "rank": null(),
    "held": null(),
    "live": null(),
    "cancel": null(),
    "ended_at": b("now"),
    "fence": jobs.c.fence + ONE,
}
CANCEL_WAITING = Prepared(
    update(jobs)
    .values(state=_is(State.DISCARDED), reason=_is(Reason.CANCELLED), **_end)
    .where(_this, *_waits),
    "now id",
)
ASK_TO_CANCEL = Prepared(
    update(jobs).values(cancel=ONE).where(_this, jobs.c.claimed == ONE),
    "id",
)
CANCEL_AS_ASKED = Prepared(
    update(jobs)
    .values(state=_is(State.DISCARDED), reason=_is(Reason.CANCELLED), **_end)
    .where(_this, jobs.c.cancel == ONE, *_waits),
    "now id",
)


def _doubts_can_be_settled(kind: Kind) -> ColumnElement[bool]:
    """Whether nothing is in doubt about the job, or its task can tell when it runs."""
    in_doubt = select(ONE).where(effects.c.job_id == jobs.c.id, effects.c.done_at.is_(None))
    return or_(
        jobs.c.reason != _is(Reason.UNCERTAIN),
        kind.contains(jobs.c.policy, literal_column("'\"verify\":true'")),
        ~in_doubt.exists(),
    )


RETRY = Prepared(
    lambda kind: (
        update(jobs)
        .values(
            state=_is(State.PENDING),
            reason=null(),
            rank=-jobs.c.priority,
            run_at=b("now"),
            begun_at=null(),
            ended_at=null(),
            live=ONE,
            cancel=null(),
            fence=jobs.c.fence + ONE,
            attempts=ZERO,
            crashes=ZERO,
            losses=ZERO,
            hand_backs=ZERO,
            suspect=ZERO,
            released_since=null(),
        )
        .where(
            _this,
            jobs.c.state == _is(State.FAILED),
            jobs.c.expires_at.is_(None) | (jobs.c.expires_at > b("limit")),
            _doubts_can_be_settled(kind),
        )
    ),
    "now id limit",
)
DISCARD = Prepared(
    update(jobs)
    .values(state=_is(State.DISCARDED), reason=_is(Reason.BY_OPERATOR), **_end)
    .where(_this, jobs.c.state == _is(State.FAILED)),
    "now id",
)
KEYS_OF = Prepared(select(jobs.c.unique_key, jobs.c.mirror_key).where(_this), "id")
LIVE_OF = Prepared(
    select(jobs.c.id).where(jobs.c.unique_key == b("key"), jobs.c.live == ONE), "key"
)
_KEY_IS_TAKEN = "a live job has its unique key"
STATE_OF = Prepared(select(jobs.c.state).where(_this), "id")
TIME_IS_OVER = Prepared(select(jobs.c.id).where(_this, jobs.c.expires_at <= b("now")), "id now")
_IN_DOUBT = (
    "an effect of it is in doubt, and running it again could repeat that; find out and say so"
    " with `failbetter failed confirm`"
)


def cancel(tx: Tx, number: int, now: int) -> bool:
    """End a waiting job, or ask the worker of a claimed one to; False when it is over already."""
    if tx.run(CANCEL_WAITING, now, number):
        follow_all(tx, [number])
        return True
    return bool(tx.run(ASK_TO_CANCEL, number))


def cancel_as_asked(tx: Tx, numbers: Sequence[int], now: int) -> None:
    """End what has come back to waiting although a person cancelled it while it was claimed."""
    if tx.many(CANCEL_AS_ASKED, [(now, number) for number in numbers]):
        follow_all(tx, numbers)


def retry(tx: Tx, number: int, now: int, *, keyed: bool = True) -> str | None:
    """Make a failed job wait again with fresh budgets; else why not, in a few words.

    `keyed` False: the caller knows that the job has neither a unique key nor a mirror.
    """
    found = tx.row(KEYS_OF, number) if keyed else None
    unique, mirror = found or (None, None)
    if unique is not None:
        live = tx.row(LIVE_OF, unique)
        if live is not None and live[0] != number:
            return _KEY_IS_TAKEN
        # One with this key may be enqueued at this very moment.
        tx.savepoint()
        try:
            moved = tx.run(RETRY, now, number, now)
        except tx.kind.unique_violation:
            tx.undo()
            return _KEY_IS_TAKEN
        tx.keep()
    else:
        moved = tx.run(RETRY, now, number, now)
    if moved:
        if mirror is not None:
            follow(tx, [(number, mirror)])
        return None
    row = tx.row(STATE_OF, number)
    if row is None:
        return "not found"
    if row[0] != State.FAILED:
        return f"not failed but {row[0]}"
    return _IN_DOUBT if tx.row(TIME_IS_OVER, number, now) is None else "expired"


def discard(tx: Tx, number: int, now: int, *, keyed: bool = True) -> str | None:
    """Put a failed job aside for good; else why not, in a few words. `keyed`: as of `retry`."""
    if tx.run(DISCARD, now, number):
        if keyed:
            follow_all(tx, [number])
        return None
    row = tx.row(STATE_OF, number)
    return "not found" if row is None else f"not failed but {row[0]}"


def retry_all(tx: Tx, batch: Batch, now: int) -> dict[int, str]:
    """`retry` for each of a batch; of those that were refused, why."""
    return _all(tx, batch, now, RETRY, lambda number: (now, number, now), retry)


def discard_all(tx: Tx, batch: Batch, now: int) -> dict[int, str]:
    """`discard` for each of a batch; of those that were refused, why."""
    return _all(tx, batch, now, DISCARD, lambda number: (now, number), discard)


def _all(
    tx: Tx,
    batch: Batch,
    now: int,
    statement: Prepared,
    values: Callable[[int], tuple[object, ...]],
    act: Callable[..., str | None],
) -> dict[int, str]:
    """All plain ones at once, if none of them is refused; the others one by one."""
    plain = [number for number, careful in batch if not careful]
    one_by_one: Batch = [one for one in batch if one[1]]
    if plain:
        tx.savepoint()
        if tx.many(statement, [values(number) for number in plain]) == len(plain):
            tx.keep()
        else:
            # Some have moved meanwhile, and a batch does not say which.
            tx.undo()
            one_by_one = batch
    answers = ((number, act(tx, number, now, keyed=careful)) for number, careful in one_by_one)
    return {number: why for number, why in answers if why is not None}
