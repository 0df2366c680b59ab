"""An operation's list: what of it comes next, what goes first, and what became of each entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select, update

from failbetter.ledger import acts
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import adopted, attempts, jobs, selected
from failbetter.lifecycle import ramp
from failbetter.lifecycle.replay import Verdict
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.kinds import Kind, Tx

MOVED = "moved"
SKIPPED = "skipped"
"""By its verdict."""
CHANGED = "changed"
EXPIRED = "expired"
UNCERTAIN = "uncertain"
DUPLICATE = "duplicate"
GONE = "gone"
RETURNED = "returned"
"""Undone."""


class Looked(msgspec.Struct, frozen=True, gc=False):
    """A job of the list and what it is now."""

    job_id: int
    fence: int
    fingerprint: str | None
    verdict: str
    why: str | None
    past: str
    fence_now: int
    state: str
    reason: str | None
    expires_at: int | None
    keyed: int
    can_be_retried: int


_in_list = (
    selected.c.operation_id == b("operation"),
    selected.c.job_id > b("after"),
)
_cause = func.coalesce(selected.c.fingerprint, literal_column("'-'"))
_not_yet = (*_in_list, selected.c.outcome.is_(None))


def _look(kind: Kind, *where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(
            selected.c.job_id,
            selected.c.fence,
            selected.c.fingerprint,
            selected.c.verdict,
            selected.c.why,
            selected.c.past,
            jobs.c.fence,
            jobs.c.state,
            jobs.c.reason,
            jobs.c.expires_at,
            or_(jobs.c.unique_key.is_not(None), jobs.c.mirror_key.is_not(None)),
            and_(acts.doubts_can_be_settled(kind), ~acts.never_again(kind)),
        )
        .join(jobs, jobs.c.id == selected.c.job_id)
        .where(*where)
        .order_by(selected.c.job_id)
        .limit(b("limit"))
        .offset(ZERO)
    )


NEXT = Prepared(lambda kind: _look(kind, *_not_yet), "operation after limit")
NEXT_CANARIES = Prepared(
    lambda kind: _look(kind, *_not_yet, selected.c.canary == ONE), "operation after limit"
)
NEXT_OPEN = Prepared(
    lambda kind: _look(kind, *_not_yet, ~kind.listed(_cause, b("held"))),
    "operation after held limit",
)
_not_begun = and_(
    jobs.c.state == acts.is_(State.PENDING),
    jobs.c.claimed.is_(None),
    ~select(ONE)
    .where(attempts.c.job_id == selected.c.job_id, attempts.c.fence > selected.c.moved_fence)
    .exists(),
)
# An engine's own: and the engine does not have it yet.
_is_here = or_(
    acts.is_ours,
    select(ONE).where(adopted.c.job_id == jobs.c.id, adopted.c.to_send == ONE).exists(),
)
_as_moved = and_(jobs.c.state != acts.is_(State.PENDING), jobs.c.fence == selected.c.moved_fence)
_later = selected.alias("later")
taken_over = (
    select(ONE)
    .where(
        _later.c.job_id == selected.c.job_id,
        _later.c.operation_id != selected.c.operation_id,
        _later.c.outcome == literal_column(f"'{MOVED}'"),
        _later.c.moved_fence > selected.c.moved_fence,
    )
    .exists()
)
"""Whether a later operation has moved the job again."""
TO_RETURN = Prepared(
    lambda kind: _look(
        kind,
        *_in_list,
        selected.c.outcome == literal_column(f"'{MOVED}'"),
        or_(and_(_not_begun, _is_here), _as_moved),
        ~taken_over,
    ),
    "operation after limit",
)
is_entry = (selected.c.operation_id == b("operation"), selected.c.job_id == b("job_id"))
NOTE_GONE = Prepared(
    update(selected)
    .values(outcome=literal_column(f"'{GONE}'"))
    .where(
        selected.c.operation_id == b("operation"),
        selected.c.outcome.is_(None),
        ~select(ONE).where(jobs.c.id == selected.c.job_id).exists(),
    ),
    "operation",
)
_may_be_moved = (
    selected.c.operation_id == b("operation"),
    or_(
        selected.c.verdict == literal_column(f"'{Verdict.READY}'"),
        and_(
            selected.c.verdict == literal_column(f"'{Verdict.NEEDS_CONFIRMATION}'"),
            b("confirm") == ONE,
        ),
    ),
)
CAUSES = Prepared(
    select(_cause, func.count())
    .where(*_may_be_moved)
    .group_by(_cause)
    .order_by(func.count().desc(), _cause)
    .limit(b("limit"))
    .offset(ZERO),
    "operation confirm limit",
)
SOME_OF_CAUSE = Prepared(
    select(selected.c.job_id)
    .where(*_may_be_moved, _cause == b("cause"))
    .order_by(selected.c.job_id)
    .limit(b("limit"))
    .offset(ZERO),
    "operation confirm cause limit",
)
IS_CANARY = Prepared(update(selected).values(canary=ONE).where(*is_entry), "operation job_id")


def in_order(tx: Tx) -> None:
    """Lists are gone through in their order, for the rest of the transaction."""
    if tx.kind.in_order is not None:
        tx.rows(tx.kind.in_order)


def look(tx: Tx, operation: int, after: int, limit: int) -> list[Looked]:
    """The next jobs of the list that nothing was done with yet."""
    return [Looked(*row) for row in tx.rows(NEXT, operation, after, limit)]


def look_at_canaries(tx: Tx, operation: int, after: int, limit: int) -> list[Looked]:
    """As `look`, but only the first few that others are to learn from."""
    return [Looked(*row) for row in tx.rows(NEXT_CANARIES, operation, after, limit)]


def look_at_open(
    tx: Tx, operation: int, after: int, held: Sequence[str], limit: int
) -> list[Looked]:
    """As `look`, but none whose fingerprint ("-" for none) is held back."""
    text = msgspec.json.encode(list(held)).decode()
    return [Looked(*row) for row in tx.rows(NEXT_OPEN, operation, after, text, limit)]


def look_back(tx: Tx, operation: int, after: int, limit: int) -> list[Looked]:
    """The next jobs of the list that were moved and have not begun since."""
    return [Looked(*row) for row in tx.rows(TO_RETURN, operation, after, limit)]


def draw_canaries(tx: Tx, operation: int, count: int, *, confirm: bool) -> None:
    """Mark those of the list that go first: `count` in all, as evenly by cause as there are."""
    found = [(row[0], row[1]) for row in tx.rows(CAUSES, operation, int(confirm), count)]
    for cause, share in ramp.shares(dict(found), count).items():
        numbers = tx.rows(SOME_OF_CAUSE, operation, int(confirm), cause, share)
        tx.many(IS_CANARY, [(operation, row[0]) for row in numbers])


def note_gone(tx: Tx, operation: int) -> None:
    """Of the list's jobs that are left, those that are no longer in the ledger are gone."""
    tx.run(NOTE_GONE, operation)
