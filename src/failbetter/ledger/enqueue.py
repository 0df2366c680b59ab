"""The first step of a job's way: its row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from sqlalchemy import insert, literal_column, null, select

from failbetter import ids
from failbetter.errors import LedgerError, LedgerUnavailable
from failbetter.ledger import mirrors
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, workers
from failbetter.lifecycle.states import State
from failbetter.limits import WRITE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx


Row: TypeAlias = tuple[int, *tuple[object, ...]]
"""A job's values in the order of the insert."""


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
    version: int | None = None
    tags: str | None = None
    mirror: str | None = None
    mirror_key: str | None = None
    sent_at: int | None = None
    """When its id is sent to an engine: at once, if at all; None: whoever maintains sends it."""


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
    version=b("version"),
    tags=b("tags"),
    mirror=b("mirror"),
    mirror_key=b("mirror_key"),
    sent=b("sent"),
    sent_at=b("sent_at"),
)
_ORDER = (
    "id task queue priority rank careful run_at created_at expires_at payload policy"
    " unique_key exclusive_key subject version tags mirror mirror_key sent sent_at"
)
INSERT = Prepared(_insert, _ORDER)
INSERT_UNLESS_LIVE = Prepared(
    lambda kind: kind.insert_unless(
        _insert, [jobs.c.unique_key, jobs.c.live], where="unique_key IS NOT NULL"
    ),
    _ORDER,
)
_idle_elsewhere = (
    select(workers.c.id).where(workers.c.idle == ONE, workers.c.fleet != b("fleet")).exists()
)
# Where workers elsewhere are told of work through the database, the insert says in the same round
# trip whether any of them waits for it: most jobs are enqueued while all are busy.
INSERT_AND_ASK = Prepared(_insert.returning(_idle_elsewhere), _ORDER + " fleet")
LIVE_OF_KEY = Prepared(
    lambda kind: kind.latest(
        select(jobs.c.id).where(jobs.c.unique_key == b("key"), jobs.c.live == ONE)
    ),
    "key",
)
FIND = Prepared(
    select(jobs.c.created_at, jobs.c.payload).where(jobs.c.id == b("id")),
    "id",
)
# Ids are drawn by chance within a millisecond; twice in a row the same would be a stuck clock.
_DRAWS = 3
_LONGEST_PAUSE = 1.0


def insert_jobs(database: Database, new: Sequence[NewJob]) -> list[tuple[int, bool]]:
    """Insert jobs in one transaction: all of them or none; for each its id and whether it is new.

    A job whose unique key is live already is not inserted: the live job's id is returned. While
    the database is out of reach it is tried again, for as long as a producer waits.
    """
    if not new:
        return []
    limit = time.monotonic() + WRITE_TIMEOUT
    pause = 0.05
    draws = 1
    unsure = False
    first = ids.take(len(new))
    while True:
        try:
            return _insert_once(database, first, new, unsure)
        except LedgerUnavailable as error:
            unsure = unsure or error.in_doubt
            if not error.passing or time.monotonic() + pause > limit:
                if unsure:
                    raise LedgerUnavailable(_IN_DOUBT.format(error, ids.to_text(first))) from error
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except LedgerError as error:
            # Two producers drew the same number in the same millisecond: draw again.
            if not isinstance(error.__cause__, database.kind.unique_violation):
                raise
            if draws == _DRAWS:
                raise LedgerError(
                    f"no free job ids were found in {_DRAWS} draws; is this host's clock stuck?"
                ) from error
            draws += 1
            first = ids.take(len(new))


def _is_there(tx: Tx, row: Row) -> bool:
    found = tx.row(FIND, row[0])
    return found is not None and found == (row[_CREATED], row[_PAYLOAD])


def _live(tx: Tx, row: Row) -> int:
    live = tx.row(LIVE_OF_KEY, row[_KEY])
    if live is None:
        raise LedgerError(f"the job of the unique key {row[_KEY]!r} ended meanwhile; try again")
    return int(live[0])


_IN_DOUBT = (
    "{}; whether the job was accepted could not be learned since: `failbetter jobs show {}` will"
    " tell. With `unique`, enqueueing it again is safe"
)


def _insert_once(
    database: Database, first: int, new: Sequence[NewJob], unsure: bool
) -> list[tuple[int, bool]]:
    """One try. `unsure`: an earlier one, with the same ids, may have been committed."""
    rows = [_values(first + offset, job) for offset, job in enumerate(new)]
    if unsure:
        with database.look() as tx:
            there = [_is_there(tx, row) for row in rows]
            if any(there):
                found = zip(there, rows, strict=True)
                return [(row[0], True) if is_ else (_live(tx, row), False) for is_, row in found]
    alone = len(new) == 1 and new[0].unique_key is None and new[0].mirror_key is None
    if alone and database.kind.tells_elsewhere:
        (answer,) = database.alone(INSERT_AND_ASK, *rows[0], database.fleet.id)
        database.wake(1, elsewhere=bool(answer[0]))
        return [(first, True)]
    with database.write() as tx:
        inserted = insert_rows(tx, rows)
    database.wake(len(new))
    return inserted


def insert_new(tx: Tx, new: Sequence[NewJob]) -> list[tuple[int, bool]]:
    """Insert jobs in an open transaction; as `insert_jobs` otherwise."""
    if not new:
        return []
    first = ids.take(len(new))
    return insert_rows(tx, [_values(first + offset, job) for offset, job in enumerate(new)])


def insert_rows(tx: Tx, rows: Sequence[Row]) -> list[tuple[int, bool]]:
    """Insert rows in the caller's transaction; as `insert_jobs` otherwise."""
    inserted = _insert_rows(tx, rows)
    mirrored = [
        (number, str(row[_MIRROR_KEY]))
        for (number, is_new), row in zip(inserted, rows, strict=True)
        if is_new and row[_MIRROR_KEY] is not None
    ]
    if mirrored:
        mirrors.follow(tx, mirrored)
    return inserted


def _insert_rows(tx: Tx, rows: Sequence[Row]) -> list[tuple[int, bool]]:
    if all(row[_KEY] is None for row in rows):
        if len(rows) == 1:
            tx.run(INSERT, *rows[0])
        else:
            tx.many(INSERT, rows)
        return [(row[0], True) for row in rows]
    return _insert_all_new(tx, rows) or [_insert_one(tx, row) for row in rows]


def _insert_all_new(tx: Tx, rows: Sequence[Row]) -> list[tuple[int, bool]] | None:
    """All at once if no key of theirs is live, as is usual of many; else none, and None."""
    if len(rows) == 1 or not tx.may_undo:
        return None
    tx.savepoint()
    if tx.many(INSERT_UNLESS_LIVE, rows) == len(rows):
        tx.keep()
        return [(row[0], True) for row in rows]
    tx.undo()
    return None


def _insert_one(tx: Tx, row: Row) -> tuple[int, bool]:
    key = row[_KEY]
    if key is None:
        tx.run(INSERT, *row)
        return row[0], True
    for _ in range(_DRAWS):
        if tx.run(INSERT_UNLESS_LIVE, *row):
            return row[0], True
        live = tx.row(LIVE_OF_KEY, key)
        if live is not None:
            return live[0], False
        # It has ended between the two: now it is free.
    raise LedgerError(f"the unique key {key!r} was taken and free at once; try again")


def _values(number: int, job: NewJob) -> Row:
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
        job.version,
        job.tags,
        job.mirror,
        job.mirror_key,
        None if job.sent_at is None else 0,  # with the fence that a new job has
        job.sent_at,
    )


_CREATED, _PAYLOAD, _KEY, _MIRROR_KEY = map(
    _ORDER.split().index, ("created_at", "payload", "unique_key", "mirror_key")
)
