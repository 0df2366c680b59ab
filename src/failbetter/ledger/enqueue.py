"""The first step of a job's way: its row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import insert, literal_column, null, select

from failbetter import ids
from failbetter.errors import LedgerError
from failbetter.ledger import sqlite
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.database import Database, Tx


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to be. Times in microseconds since the epoch; keys already say their task."""

    task: str
    queue: str
    priority: int
    run_at: int
    created_at: int
    expires_at: int | None
    payload: str
    policy: str
    unique_key: str | None = None
    exclusive_key: str | None = None
    subject: str | None = None
    tags: str | None = None


_insert = insert(jobs).values(
    id=b("id"),
    task=b("task"),
    queue=b("queue"),
    priority=b("priority"),
    state=literal_column(f"'{State.PENDING}'"),
    rank=b("rank"),
    careful=b("careful"),
    run_at=b("run_at"),
    created_at=b("created_at"),
    expires_at=b("expires_at"),
    fence=ZERO,
    live=ONE,
    claimed=null(),
    starts=ZERO,
    attempts=ZERO,
    crashes=ZERO,
    losses=ZERO,
    hand_backs=ZERO,
    suspect=ZERO,
    payload=b("payload"),
    policy=b("policy"),
    unique_key=b("unique_key"),
    exclusive_key=b("exclusive_key"),
    subject=b("subject"),
    tags=b("tags"),
)
_ORDER = (
    "id task queue priority rank careful run_at created_at expires_at payload policy"
    " unique_key exclusive_key subject tags"
)
INSERT = Prepared(_insert, _ORDER)
INSERT_UNLESS_LIVE = Prepared(
    sqlite.insert_unless(_insert, [jobs.c.unique_key, jobs.c.live], where="unique_key IS NOT NULL"),
    _ORDER,
)
LIVE_OF_KEY = Prepared(
    select(jobs.c.id).where(jobs.c.unique_key == b("key"), jobs.c.live == ONE),
    "key",
)


def insert_jobs(database: Database, new: Sequence[NewJob]) -> list[tuple[int, bool]]:
    """Insert jobs in one transaction: all of them or none; for each its id and whether it is new.

    A job whose unique key is live already is not inserted: the live job's id is returned.
    """
    if not new:
        return []
    for _ in range(3):
        first = ids.take(len(new))
        try:
            with database.write() as tx:
                inserted = _insert_all(tx, first, new)
        except LedgerError as error:
            # Two producers drew the same number in the same millisecond: draw again.
            if not isinstance(error.__cause__, sqlite.unique_violation):
                raise
        else:
            database.fleet.wake()
            return inserted
    raise LedgerError("no free job ids were found in three draws; is this host's clock stuck?")


def _insert_all(tx: Tx, first: int, new: Sequence[NewJob]) -> list[tuple[int, bool]]:
    rows = [_values(first + offset, job) for offset, job in enumerate(new)]
    if all(job.unique_key is None for job in new):
        if len(rows) == 1:
            tx.run(INSERT, *rows[0])
        else:
            tx.many(INSERT, rows)
        return [(row[0], True) for row in rows]
    return [_insert_one(tx, row, job.unique_key) for row, job in zip(rows, new, strict=True)]


def _insert_one(tx: Tx, row: tuple[int, *tuple[object, ...]], key: str | None) -> tuple[int, bool]:
    if key is None:
        tx.run(INSERT, *row)
        return row[0], True
    if tx.run(INSERT_UNLESS_LIVE, *row):
        return row[0], True
    live = tx.row(LIVE_OF_KEY, key)
    if live is None:
        raise LedgerError(f"the unique key {key!r} was taken and free at once; try again")
    return live[0], False


def _values(number: int, job: NewJob) -> tuple[int, *tuple[object, ...]]:
    return (
        number,
        job.task,
        job.queue,
        job.priority,
        -job.priority,
        0 if job.exclusive_key is None else 1,
        job.run_at,
        job.created_at,
        job.expires_at,
        job.payload,
        job.policy,
        job.unique_key,
        job.exclusive_key,
        job.subject,
        job.tags,
    )
