"""Deleting jobs that have ended, each with all that is kept of it, in one transaction.

What is deleted is found before, without a transaction, and deleted only if it is as it was found:
a job that somebody has retried meanwhile has another fence and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import and_, delete, func, or_, select

from failbetter.faultpoints import passing
from failbetter.ledger import adopted
from failbetter.ledger.filters import condition
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import attempts, edits, effects, items, jobs, outbox, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement

    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.kinds import Tx


# A job may have any number of items, and goes with all of them: so many are deleted in one batch,
# or those of one job.
_MOST_ITEMS = 5_000


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A job that has ended, as it was found. `items`: about how many are kept of it."""

    id: int
    fence: int
    state: str
    ended_at: int
    items: int = 0


def _undelivered() -> ColumnElement[bool]:
    """Whether the job's mirrored row does not say yet how it ended."""
    return select(ONE).where(outbox.c.job_id == jobs.c.id).exists()


def _may_go() -> ColumnElement[bool]:
    """Whether the job may be deleted, once its time is over.

    A mirrored row says what the newest of its jobs does. That one stays for as long as an older
    one will, or the row would come to say what the older did.
    """
    newer, older = jobs.alias("newer"), jobs.alias("older")
    same_row = jobs.c.mirror_key
    has_newer = select(ONE).where(newer.c.mirror_key == same_row, newer.c.id > jobs.c.id).exists()
    outlived = (
        select(ONE)
        .where(
            older.c.mirror_key == same_row,
            older.c.id < jobs.c.id,
            or_(older.c.state != jobs.c.state, older.c.ended_at > jobs.c.ended_at),
        )
        .exists()
    )
    return and_(~_undelivered(), or_(same_row.is_(None), has_newer, ~outlived))


_items = func.coalesce(
    select(func.sum(progress.c.done + progress.c.failed))
    .where(progress.c.job_id == jobs.c.id)
    .scalar_subquery(),
    ZERO,
)
_of_state = (jobs.c.state == b("state"), jobs.c.ended_at >= b("after"))
# In the order of the index by state, from where the last look ended: what was deleted just now
# may still have to be walked past before that.
DUE = Prepared(
    select(jobs.c.id, jobs.c.fence, jobs.c.ended_at, _items)
    .where(*_of_state, jobs.c.ended_at < b("before"), _may_go())
    .order_by(jobs.c.ended_at)
    .limit(b("limit"))
    .offset(ZERO),
    "state after before limit",
)
OLDEST = Prepared(
    select(jobs.c.ended_at).where(*_of_state).order_by(jobs.c.ended_at).limit(ONE).offset(ZERO),
    "state after",
)
DELETE = Prepared(
    delete(jobs).where(
        jobs.c.id == b("id"),
        jobs.c.fence == b("fence"),
        jobs.c.live.is_(None),
        ~_undelivered(),
    ),
    "id fence",
)
KEPT_OF_A_JOB = (attempts, edits, effects, items, progress, outbox)
"""The tables of what is kept of a job beside its row, by `job_id`. An operation's list is the
operation's."""
_FORGET = [
    Prepared(delete(table).where(table.c.job_id == b("id")), "id") for table in KEPT_OF_A_JOB
]


def forget(tx: Tx, numbers: Sequence[int]) -> None:
    """Delete all that is kept of jobs beside their rows, which this transaction has deleted."""
    if numbers:
        rows = [(number,) for number in numbers]
        for statement in _FORGET:
            tx.many(statement, rows)
        adopted.pruned(tx, numbers)


def delete_ended(tx: Tx, found: Sequence[Ended]) -> list[Ended]:
    """Delete those of the jobs that are as they were found; which it were."""
    if not found:
        return []
    gone = list(found)
    tx.savepoint()
    if tx.many(DELETE, [(one.id, one.fence) for one in found]) == len(found):
        tx.keep()
    else:
        # Some have moved meanwhile, and a batch does not say which.
        tx.undo()
        gone = [one for one in found if tx.run(DELETE, one.id, one.fence)]
    passing("in_pruning")
    forget(tx, [one.id for one in gone])
    return gone


def due(tx: Tx, state: str, after: int, before: int, limit: int) -> list[Ended]:
    """Jobs that ended so from `after` on and before `before`, and may go; oldest ends first."""
    rows = tx.rows(DUE, state, after, before, limit)
    found = [Ended(number, fence, state, at, int(items)) for number, fence, at, items in rows]
    return found[: _cut(found)]


def _cut(found: Sequence[Ended]) -> int:
    """How many of these, from the first, are deleted in one batch."""
    items = 0
    for place, one in enumerate(found):
        items += one.items
        if items > _MOST_ITEMS and place:
            return place
    return len(found)


def oldest(tx: Tx, state: str, after: int = 0) -> int | None:
    """When the first of the jobs ended that are in that state, from `after` on."""
    row = tx.row(OLDEST, state, after)
    return None if row is None else int(row[0])


def page(database: Database, filters: Filters, after: int, size: int) -> list[tuple[Ended, bool]]:
    """A page of ended jobs that match, from the id `after` on.

    Each with whether it may be deleted, by its mirrored row.
    """
    statement = (
        select(jobs.c.id, jobs.c.fence, jobs.c.state, jobs.c.ended_at, _items, _may_go())
        .where(condition(filters, database.kind), jobs.c.live.is_(None), jobs.c.id > after)
        .order_by(jobs.c.id)
        .limit(size)
    )
    rows = [tuple(row) for row in database.query(statement)]
    found = [Ended(row[0], row[1], row[2], row[3], int(row[4])) for row in rows]
    return [(one, bool(row[5])) for one, row in zip(found, rows, strict=True)][: _cut(found)]


def counts(database: Database, filters: Filters) -> tuple[dict[str, int], int]:
    """How many jobs of which state `page` gives that may be deleted; and how many that may not."""
    meant = (condition(filters, database.kind), jobs.c.live.is_(None))
    by_state = select(jobs.c.state, func.count()).where(*meant, _may_go()).group_by(jobs.c.state)
    found = {str(state): int(number) for state, number in database.query(by_state)}
    every = database.query(select(func.count()).select_from(jobs).where(*meant))
    return found, int(every[0][0]) - sum(found.values())
