"""What a person does to jobs: cancel, retry, discard. Compare-and-set, so two callers act once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, literal_column, null, or_, select, update

from failbetter.ledger import adopted as adopting
from failbetter.ledger import events
from failbetter.ledger.mirrors import follow, follow_all
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import adopted, effects, jobs
from failbetter.lifecycle.replay import KEY_IS_TAKEN, NEVER_AGAIN, REPLACED
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement

    from failbetter.ledger.kinds import Kind, Tx


def is_(word: State | Reason) -> ColumnElement[str]:
    return literal_column(f"'{word}'")


_this = jobs.c.id == b("id")
# Whether a job waits is not asked of `rank`, here or in other statements on jobs known by their
# ids: on PostgreSQL, whose statistics may be of a time when nothing waited, a walk through the
# index of all that waits would seem to cost less than a seek.
_waits = (jobs.c.live == ONE, jobs.c.claimed.is_(None))
is_ours = jobs.c.origin.is_(None)
"""Whether the job is no engine's own: those are never claimed, and so have no rank."""
can_be_sent = or_(is_ours, select(ONE).where(adopted.c.job_id == jobs.c.id).exists())
"""Whether, if it is an engine's own, it is still that job which the engine has by its id."""
END = {
    "rank": null(),
    "held": null(),
    "live": null(),
    "cancel": null(),
    "ended_at": b("now"),
    "fence": jobs.c.fence + ONE,
}
CANCEL_WAITING = Prepared(
    update(jobs)
    .values(state=is_(State.DISCARDED), reason=is_(Reason.CANCELLED), **END)
    .where(_this, is_ours, *_waits),
    "now id",
)
ASK_TO_CANCEL = Prepared(
    update(jobs).values(cancel=ONE).where(_this, jobs.c.claimed == ONE),
    "id",
)
CANCEL_AS_ASKED = Prepared(
    update(jobs)
    .values(state=is_(State.DISCARDED), reason=is_(Reason.CANCELLED), **END)
    .where(_this, jobs.c.cancel == ONE, *_waits),
    "now id",
)


def doubts_can_be_settled(kind: Kind) -> ColumnElement[bool]:
    """Whether nothing is in doubt about the job, or its task can tell when it runs."""
    in_doubt = select(ONE).where(effects.c.job_id == jobs.c.id, effects.c.done_at.is_(None))
    return or_(
        jobs.c.reason != is_(Reason.UNCERTAIN),
        kind.contains(jobs.c.policy, literal_column("'\"verify\":true'")),
        ~in_doubt.exists(),
    )


def never_again(kind: Kind) -> ColumnElement[bool]:
    """Whether its task says that it is never to be run again by hand."""
    return kind.contains(jobs.c.policy, literal_column('\'"replay":"never"\''))


fresh = {
    "state": is_(State.PENDING),
    "reason": null(),
    "begun_at": null(),
    "ended_at": null(),
    "live": ONE,
    "cancel": null(),
    "fence": jobs.c.fence + ONE,
    "attempts": ZERO,
    "crashes": ZERO,
    "losses": ZERO,
    "hand_backs": ZERO,
    "suspect": ZERO,
    "released_since": null(),
}
"""What a job is that a person makes wait again, its place among those that wait aside."""

RETRY = Prepared(
    lambda kind: (
        update(jobs)
        .values(rank=case((is_ours, -jobs.c.priority)), run_at=b("now"), **fresh)
        .where(
            _this,
            can_be_sent,
            jobs.c.state == is_(State.FAILED),
            jobs.c.expires_at.is_(None) | (jobs.c.expires_at > b("limit")),
            doubts_can_be_settled(kind),
            ~never_again(kind),
        )
    ),
    "now id limit",
)
DISCARD = Prepared(
    update(jobs)
    .values(state=is_(State.DISCARDED), reason=is_(Reason.BY_OPERATOR), **END)
    .where(_this, jobs.c.state == is_(State.FAILED)),
    "now id",
)
KEYS_OF = Prepared(select(jobs.c.unique_key, jobs.c.mirror_key).where(_this), "id")
LIVE_OF = Prepared(
    select(jobs.c.id).where(jobs.c.unique_key == b("key"), jobs.c.live == ONE), "key"
)
STATE_OF = Prepared(select(jobs.c.state).where(_this), "id")
TIME_IS_OVER = Prepared(select(jobs.c.id).where(_this, jobs.c.expires_at <= b("now")), "id now")
IS_NEVER = Prepared(lambda kind: select(jobs.c.id).where(_this, never_again(kind)), "id")
IS_REPLACED = Prepared(select(jobs.c.id).where(_this, ~can_be_sent), "id")
EXPIRED = "expired"
IN_DOUBT = (
    "an effect of it is in doubt, and running it again could repeat that; find out and say so"
    " with `failbetter failed confirm`"
)


def cancel(tx: Tx, number: int, now: int) -> bool:
    """End a waiting job, or ask the worker of a claimed one to; False when it is over already."""
    if tx.run(CANCEL_WAITING, now, number):
        follow_all(tx, [number])
        events.ended(tx, [number])
        return True
    return bool(tx.run(ASK_TO_CANCEL, number))


def cancel_as_asked(tx: Tx, numbers: Sequence[int], now: int) -> None:
    """End what has come back to waiting although a person cancelled it while it was claimed."""
    if tx.many(CANCEL_AS_ASKED, [(now, number) for number in numbers]):
        follow_all(tx, numbers)
        # The others of them wait; or had ended before, and that was told then.
        events.ended(tx, numbers, cancelled_at=now)


def retry(tx: Tx, number: int, now: int, *, keyed: bool = True) -> str | None:
    """Make a failed job wait again with fresh budgets; else why not, in a few words.

    `keyed` False: the caller knows that the job has neither a unique key nor a mirror.
    """
    found = tx.row(KEYS_OF, number) if keyed else None
    unique, mirror = found or (None, None)
    if unique is not None:
        live = tx.row(LIVE_OF, unique)
        if live is not None and live[0] != number:
            return KEY_IS_TAKEN
        # One with this key may be enqueued at this very moment.
        tx.savepoint()
        try:
            moved = tx.run(RETRY, now, number, now)
        except tx.kind.unique_violation:
            tx.undo()
            return KEY_IS_TAKEN
        tx.keep()
    else:
        moved = tx.run(RETRY, now, number, now)
    if moved:
        adopting.retried(tx, [number])
        if mirror is not None:
            follow(tx, [(number, mirror)])
        return None
    row = tx.row(STATE_OF, number)
    if row is None:
        return "not found"
    if row[0] != State.FAILED:
        return f"not failed but {row[0]}"
    if tx.row(IS_NEVER, number) is not None:
        return NEVER_AGAIN
    if tx.row(IS_REPLACED, number) is not None:
        return REPLACED
    return IN_DOUBT if tx.row(TIME_IS_OVER, number, now) is None else EXPIRED


def discard(tx: Tx, number: int, now: int, *, keyed: bool = True) -> str | None:
    """Put a failed job aside for good; else why not, in a few words. `keyed`: as of `retry`."""
    if tx.run(DISCARD, now, number):
        if keyed:
            follow_all(tx, [number])
        events.ended(tx, [number])
        return None
    row = tx.row(STATE_OF, number)
    return "not found" if row is None else f"not failed but {row[0]}"
