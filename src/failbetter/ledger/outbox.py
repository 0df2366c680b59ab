"""The outbox: jobs whose mirrored row is still to be written.

A row for each such job, put there in the transaction of what happened to it. Whoever delivers
writes what the job is by then, not what it was; `version` tells whether it has moved meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, insert, null, select, update

from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, outbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.kinds import Tx


class Waiting(msgspec.Struct, frozen=True):
    """What waits. `since`: when the first of them was put here (µs since the epoch)."""

    count: int
    since: int | None
    error: str | None


class Entry(msgspec.Struct, frozen=True):
    """A job whose row is due. `mirror_key` None: the job is gone."""

    job_id: int
    version: int
    tries: int
    mirror_key: str | None


_this = outbox.c.job_id == b("id")
_unmoved = (_this, outbox.c.version == b("version"))
FIRST = Prepared(
    lambda kind: kind.insert_unless(
        insert(outbox).values(
            job_id=b("id"),
            since=b("since"),
            version=ONE,
            tries=ZERO,
            next_at=b("next_at"),
            error=b("error"),
        ),
        [outbox.c.job_id],
    ),
    "id since next_at error",
)
AGAIN = Prepared(
    update(outbox)
    .values(
        version=outbox.c.version + ONE,
        next_at=b("next_at"),
        error=func.coalesce(b("error"), outbox.c.error),
    )
    .where(_this),
    "next_at error id",
)
DUE = Prepared(
    select(outbox.c.job_id, outbox.c.version, outbox.c.tries, jobs.c.mirror_key)
    .select_from(outbox.outerjoin(jobs, jobs.c.id == outbox.c.job_id))
    .where(outbox.c.next_at <= b("now"))
    .order_by(outbox.c.next_at)
    .limit(b("limit"))
    .offset(ZERO),
    "now limit",
)
DELIVERED = Prepared(delete(outbox).where(*_unmoved), "id version")
FAILED = Prepared(
    update(outbox)
    .values(tries=outbox.c.tries + ONE, next_at=b("next_at"), error=b("error"))
    .where(*_unmoved),
    "next_at error id version",
)
_put_off = (
    select(outbox.c.job_id)
    .where(outbox.c.next_at > b("now"))
    .order_by(outbox.c.next_at)
    .limit(b("limit"))
    .offset(ZERO)
)
HASTEN = Prepared(
    lambda kind: (
        update(outbox).values(next_at=b("next_at")).where(kind.among(outbox.c.job_id, _put_off))
    ),
    "next_at now limit",
)
# Ids sort by time: the oldest are among the first.
_first = select(outbox.c.since).order_by(outbox.c.job_id).limit(b("limit")).offset(ZERO).subquery()
COUNT = Prepared(select(func.count(), func.min(_first.c.since)).select_from(_first), "limit")
LAST_ERROR = Prepared(
    select(outbox.c.error)
    .where(outbox.c.error.is_not(null()))
    .order_by(outbox.c.next_at.desc())
    .limit(ONE)
    .offset(ZERO)
)
ERROR_OF = Prepared(select(outbox.c.error).where(_this), "id")


def put(tx: Tx, number: int, error: str | None = None) -> None:
    """Have the job's row written soon. `error`: why it was not at once."""
    now = tx.now()
    while not (tx.run(AGAIN, now, error, number) or tx.run(FIRST, number, now, now, error)):
        pass  # another put it there, or took it out, between the two


def due(tx: Tx, limit: int) -> list[Entry]:
    """Some of what is due, the longest due first."""
    return [Entry(*row) for row in tx.rows(DUE, tx.now(), limit)]


def delivered(tx: Tx, entry: Entry) -> bool:
    """Take it out, unless something has happened to the job since; whether it was taken out."""
    return bool(tx.run(DELIVERED, entry.job_id, entry.version))


def failed(tx: Tx, failures: Sequence[tuple[Entry, str, float]]) -> None:
    """Note of each why it could not be delivered, and in how many seconds it is due again."""
    now = tx.now()
    tx.many(
        FAILED,
        [
            (now + round(pause * 1_000_000), error, entry.job_id, entry.version)
            for entry, error, pause in failures
        ],
    )


def hasten(tx: Tx, limit: int) -> int:
    """Make some of what was put off due now; how many."""
    now = tx.now()
    return tx.run(HASTEN, now, now, limit)


def waiting(tx: Tx, limit: int) -> Waiting:
    """How much waits, since when, and the last error; of more than `limit`, so many are counted."""
    row = tx.row(COUNT, limit)
    count, since = row or (0, None)
    error = tx.row(LAST_ERROR) if count else None
    return Waiting(count, since, None if error is None else error[0])


def holds(tx: Tx, number: int) -> bool:
    """Whether the job's row is still to be written."""
    return tx.row(ERROR_OF, number) is not None


def error_of(tx: Tx, number: int) -> str | None:
    """Why the job's row could not be written yet."""
    row = tx.row(ERROR_OF, number)
    return None if row is None else row[0]
