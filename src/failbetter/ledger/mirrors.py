"""Rows of the user's own that say what their job does, written in the transaction that moves it.

Every transition tells `follow` which mirrored jobs it moved. What is written is always what the
newest job of the row is by now, so that writing it twice, or late, does no harm. Where the row
cannot be written at once, or is in another database, the outbox has it.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from sqlalchemy import select, text

from failbetter import ids
from failbetter.ledger import outbox
from failbetter.ledger.kinds import Undone
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs
from failbetter.lifecycle.public import public_reason
from failbetter.lifecycle.states import ENDS, Reason, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import TextClause
    from sqlalchemy.engine.interfaces import Dialect

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

Value: TypeAlias = str | int | bool | None

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# A transaction waits for so many locked rows; what else it has to write then goes the other way.
_MOST_REFUSED = 4
# A row whose job moved while the row was waited for is written again, so many times.
_LOOKS = 5


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mirrored row of one job, as the job's row keeps it.

    `key`, `status`, `error`, `ended_at`: columns of `table`; `value`: the key's. `values`: what
    the status column holds for a state, or for a state with its reason; else the state's name.
    `database`: which other one the table is in; None: the ledger's own.
    """

    table: str
    key: str
    value: str | int
    status: str | None = None
    error: str | None = None
    ended_at: str | None = None
    values: dict[str, Value] = {}
    database: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        named = (self.status, self.error, self.ended_at)
        return tuple(name for name in named if name is not None)

    @property
    def keys(self) -> tuple[str | int, str | int]:
        """The key in the two ways in which it may be kept.

        Where a database has no type for UUIDs, most libraries keep them without their hyphens.
        """
        value = self.value
        if isinstance(value, str) and _UUID.fullmatch(value):
            return value, value.replace("-", "")
        return value, value

    def to_json(self) -> str:
        """As the job's row keeps it."""
        return msgspec.json.encode(self).decode()


class Seen(msgspec.Struct, frozen=True):
    """The newest job of a mirrored row, as it is now."""

    id: int
    fence: int
    state: str
    reason: str | None
    ended_at: int | None
    error_type: str | None
    error_message: str | None
    spec: Spec

    def values(self, dialect: str) -> list[Value]:
        """What the row's columns are to hold, in the order of the spec's `columns`."""
        spec = self.spec
        found: list[Value] = []
        if spec.status is not None:
            found.append(self._status())
        if spec.error is not None:
            found.append(
                public_reason(
                    ids.to_text(self.id),
                    State(self.state),
                    None if self.reason is None else Reason(self.reason),
                    self.error_type,
                    self.error_message,
                )
            )
        if spec.ended_at is not None:
            over = self.state in ENDS and self.ended_at is not None
            found.append(_moment(self.ended_at or 0, dialect) if over else None)
        return found

    def _status(self) -> Value:
        special = f"{self.state}({self.reason})"
        values = self.spec.values
        return values[special] if special in values else values.get(self.state, self.state)


def _moment(micros: int, dialect: str) -> str:
    """A time as text that every type of column for times takes."""
    at = datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
    plain = at.strftime("%Y-%m-%d %H:%M:%S.%f")
    # PostgreSQL heeds the offset where the column has a zone, else ignores it; others, that have
    # no such types, would keep it as text that nobody can read back.
    return f"{plain}+00:00" if dialect == "postgresql" else plain


_seen = (
    jobs.c.id,
    jobs.c.fence,
    jobs.c.state,
    jobs.c.reason,
    jobs.c.ended_at,
    jobs.c.error_type,
    jobs.c.error_message,
    jobs.c.mirror,
)
NEWEST = Prepared(
    select(*_seen)
    .where(jobs.c.mirror_key == b("key"))
    .order_by(jobs.c.id.desc())
    .limit(ONE)
    .offset(ZERO),
    "key",
)
KEY_OF = Prepared(select(jobs.c.mirror_key).where(jobs.c.id == b("id")), "id")

_decode = msgspec.json.Decoder(Spec).decode


def newest(tx: Tx, key: str) -> Seen | None:
    """The newest job of a mirrored row; None: there is none, or its mirror cannot be read."""
    row = tx.row(NEWEST, key)
    return None if row is None else _to_seen(row)


def page(database: Database, below: int | None, size: int) -> list[tuple[int, str, Seen | None]]:
    """The newest job of each mirrored row: id, mirror key and what it says; newest first, by id.

    None: its mirror cannot be read.
    """
    newer = jobs.alias("newer")
    is_older = (
        select(ONE).where(newer.c.mirror_key == jobs.c.mirror_key, newer.c.id > jobs.c.id).exists()
    )
    statement = select(jobs.c.mirror_key, *_seen).where(jobs.c.mirror_key.is_not(None), ~is_older)
    if below is not None:
        statement = statement.where(jobs.c.id < below)
    rows = database.query(statement.order_by(jobs.c.id.desc()).limit(size))
    return [(row[1], row[0], _to_seen(tuple(row)[1:])) for row in rows]


def _to_seen(row: tuple[Any, ...]) -> Seen | None:
    try:
        spec = _decode(row[-1])
    except msgspec.MsgspecError:
        return None
    return Seen(*(*row[:-1], spec))


def table_name(table: str, dialect: Dialect) -> str:
    """The table as the database's SQL has it; `table` may name its schema."""
    return ".".join(dialect.identifier_preparer.quote(part) for part in table.split("."))


def of_key(key: str, dialect: Dialect) -> str:
    """The condition that picks the row by its column `key`; parameters: key_ and also_."""
    column = dialect.identifier_preparer.quote(key)
    condition = f"{column} IN (:key_, :also_)"
    if dialect.name in ("mysql", "mariadb"):
        # There any text that is no number is equal to the number 0, and '5 apples' to 5.
        condition += f" AND CAST({column} AS CHAR) IN (:key_, :also_)"
    return condition


def update_text(table: str, key: str, columns: Sequence[str], dialect: Dialect) -> TextClause:
    """The statement that writes a row; its parameters: c0_, c1_, … as the columns, key_, also_."""
    quote = dialect.identifier_preparer.quote
    values = ", ".join(f"{quote(name)} = :c{at}_" for at, name in enumerate(columns))
    where = of_key(key, dialect)
    return text(f"UPDATE {table_name(table, dialect)} SET {values} WHERE {where}")


@functools.cache
def _update(table: str, key: str, columns: tuple[str, ...], times: int) -> Prepared:
    order = " ".join([*(f"c{at}" for at in range(len(columns))), *["key", "also"] * times])
    return Prepared(lambda kind: update_text(table, key, columns, kind.engine.dialect), order)


def write(tx: Tx, key: str, seen: Seen) -> bool:
    """Write a row of the ledger's own database; False when there is none. Raises Undone.

    `seen`: what `newest` gave in this transaction.
    """
    for _ in range(_LOOKS):
        spec = seen.spec
        times = of_key(spec.key, tx.kind.engine.dialect).count(":key_")
        statement = _update(spec.table, spec.key, spec.columns, times)
        if not tx.guarded(statement, *seen.values(tx.kind.name), *spec.keys * times):
            return False
        # Only now is the row ours: who had it before may have moved the job, or made a newer one.
        now = newest(tx, key)
        if now is None or now == seen:
            return True
        seen = now
    raise Undone("the job moves faster than its row can be written")


def follow(tx: Tx, mirrored: Iterable[tuple[int, str]]) -> None:
    """Bring the rows of these jobs, (id, mirror key) each, in step with what the jobs are now.

    A job whose row has a newer one does not touch it. Never raises for the user's table: what
    cannot be written is put into the outbox, in this transaction.
    """
    refused = 0
    # In one order everywhere, so that two workers do not each wait for the other's row.
    for number, key in sorted(set(mirrored), key=lambda one: one[1]):
        seen = newest(tx, key)
        if seen is None or seen.id != number:
            continue
        why = None
        if seen.spec.database is None and refused < _MOST_REFUSED:
            try:
                write(tx, key, seen)
            except Undone as error:
                refused += 1
                why = str(error)
            else:
                continue
        outbox.put(tx, number, why)


def follow_all(tx: Tx, numbers: Sequence[int]) -> None:
    """As `follow`, for jobs of which it is not known whether they are mirrored."""
    found = []
    for number in numbers:
        row = tx.row(KEY_OF, number)
        if row is not None and row[0] is not None:
            found.append((number, row[0]))
    follow(tx, found)
