"""Bulk acts as rows: who asked for what, how far it has come, when it is to be looked at next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, insert, select, update

from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.schema import operations, selected
from failbetter.lifecycle.ramp import OperationState

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

PREVIEW_KEPT = 86_400_000_000
"""Microseconds after which a preview that nobody acted on is cleared away."""
ENDED_KEPT = 90 * PREVIEW_KEPT
"""Microseconds after which an operation that has ended is cleared away, with its list."""
TAKEN_OVER = 10_000_000
"""Microseconds after which an operation whose runner is silent is run by maintenance."""


class Row(msgspec.Struct):
    """An operation. Times in microseconds since the epoch; `verb` None: only a preview so far."""

    id: int
    verb: str | None
    state: str
    filters: str
    actor: str | None
    note: str | None
    created_at: int
    begun_at: int | None
    ended_at: int | None
    total: int
    options: str | None
    version: int
    course: str | None
    next_at: int | None


_columns = [operations.c[name] for name in Row.__struct_fields__]
_this = operations.c.id == b("id")
CREATE = Prepared(
    insert(operations).values(
        id=b("id"),
        state=b("state"),
        filters=b("filters"),
        created_at=b("created_at"),
        total=ZERO,
        version=ZERO,
        next_at=b("next_at"),
    ),
    "id state filters created_at next_at",
)
LOAD = Prepared(select(*_columns).where(_this), "id")
# Whoever has the row's lock is the one that acts: another waits, and then sees what was done.
LOCK = Prepared(select(*_columns).where(_this).with_for_update(), "id")
_changing = ("verb", "state", "actor", "note", "begun_at", "ended_at", "total", "options")
SAVE = Prepared(
    update(operations)
    .values(
        **{name: b(name) for name in (*_changing, "version", "course", "next_at")},
    )
    .where(_this),
    " ".join((*_changing, "version", "course", "next_at", "id")),
)
PAGE = Prepared(
    select(*_columns)
    .where(operations.c.verb.is_not(None), operations.c.id < b("below"))
    .order_by(operations.c.id.desc())
    .limit(b("limit"))
    .offset(ZERO),
    "below limit",
)
DUE = Prepared(
    select(operations.c.id)
    .where(operations.c.next_at <= b("now"))
    .order_by(operations.c.next_at)
    .limit(b("limit"))
    .offset(ZERO),
    "now limit",
)
_some = (
    select(selected.c.job_id)
    .where(selected.c.operation_id == b("operation"))
    .order_by(selected.c.job_id)
    .limit(b("limit"))
    .offset(ZERO)
    .subquery("some_of_it")
)
LAST_OF_SOME = Prepared(select(func.max(_some.c.job_id)), "operation limit")
FORGET_SOME = Prepared(
    delete(selected).where(
        selected.c.operation_id == b("operation"), selected.c.job_id <= b("upto")
    ),
    "operation upto",
)
FORGET = Prepared(delete(operations).where(_this), "id")


def create(tx: Tx, number: int, filters: str, now: int) -> None:
    """Begin a preview, whose list is to be filled."""
    tx.run(CREATE, number, OperationState.SELECTING.value, filters, now, now + PREVIEW_KEPT)


def load(database: Database, number: int) -> Row | None:
    """An operation, or None."""
    with database.look() as tx:
        row = tx.row(LOAD, number)
    return None if row is None else Row(*row)


def lock(tx: Tx, number: int) -> Row | None:
    """An operation, which nobody else changes before this transaction's end; or None."""
    row = tx.row(LOCK, number)
    return None if row is None else Row(*row)


def save(tx: Tx, row: Row) -> None:
    """Write what became of an operation that this transaction has locked."""
    row.version += 1
    values = [getattr(row, name) for name in (*_changing, "version", "course", "next_at", "id")]
    tx.run(SAVE, *values)


def page(database: Database, below: int, size: int) -> list[Row]:
    """Operations, the newest first, from below an id."""
    with database.look() as tx:
        return [Row(*row) for row in tx.rows(PAGE, below, size)]


def due(tx: Tx, now: int, limit: int) -> list[int]:
    """Operations and previews that are to be looked at."""
    return [row[0] for row in tx.rows(DUE, now, limit)]


def forget_some(tx: Tx, number: int, limit: int) -> bool:
    """Take away up to `limit` of a list, then what it is of; whether something is left."""
    last = tx.rows(LAST_OF_SOME, number, limit)[0][0]
    if last is None:
        tx.run(FORGET, number)
        return False
    tx.run(FORGET_SOME, number, last)
    return True
