"""What is particular to SQLite: connecting, beginning, being durable, what its errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Text, UnaryExpression, case, cast, event, func, select, text
from sqlalchemy.dialects.sqlite import insert as dialect_insert
from sqlalchemy.sql import operators

from failbetter.errors import (
    ConfigurationError,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
    SchemaMismatch,
)
from failbetter.ledger.kinds.base import Kind, Tx, Writer
from failbetter.ledger.prepared import ZERO, Prepared, Texts
from failbetter.ledger.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import URL, Column, ColumnElement, Connection, Insert, Select

OLDEST = (3, 35, 0)  # UPDATE … RETURNING


class SQLite(Kind):
    """A file."""

    name = "sqlite"
    makes_schema = True
    sorts_groups = True
    one_writer = True
    driver_errors = (sqlite3.Error,)
    unique_violation = (sqlite3.IntegrityError,)

    def __init__(self, url: URL, *, durable: bool, schema: str | None) -> None:
        super().__init__(url, durable=durable, schema=None)
        if url.drivername not in ("sqlite", "sqlite+pysqlite"):
            raise ConfigurationError(
                f"a ledger on {url.drivername} is not supported; use sqlite:///FILE"
            )
        if schema is not None:
            raise ConfigurationError("SQLite has no schemas: give a file of its own instead")
        self.path = database_path(url)
        self.engine = sqlalchemy.create_engine(
            url.set(database=str(self.path)), connect_args={"check_same_thread": False}
        )
        event.listen(self.engine, "connect", lambda found, _: prepare_connection(found, durable))
        self.texts = Texts(self, self.engine.dialect)

    def writer(self, folder: Path) -> SQLiteWriter:
        pooled = self.engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        return SQLiteWriter(connection, folder, self)

    def fleet_folder(self) -> Path:
        # Beside the file: seen by whoever sees the file.
        return self.path.with_name(self.path.name + "-fleet")

    def exists(self) -> bool:
        return self.path.exists()

    def check_location(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            raise LedgerUnavailable(f"the ledger's folder {folder} does not exist; make it first")
        if self.path.is_dir():
            raise LedgerUnavailable(
                f"{self.path} is a folder; the ledger's URL must name a file in it"
            )
        target: Any = self.path if self.path.exists() else folder
        if not os.access(target, os.W_OK):
            raise LedgerUnavailable(f"the ledger {self.path} cannot be written by this user")

    def translate(self, error: BaseException) -> LedgerError:
        return translate(error, self.shown)

    def now(self) -> int:
        return time.time_ns() // 1000

    @contextlib.contextmanager
    def migrating(self, folder: Path) -> Iterator[Connection]:
        with open(folder / "migrate.lock", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with self.engine.connect() as connection:
                # The driver is in autocommit mode (see prepare_connection): begin by hand.
                connection.execute(text("BEGIN IMMEDIATE"))
                yield connection
                connection.commit()

    @contextlib.contextmanager
    def transaction(self, folder: Path, timeout: float) -> Iterator[Connection]:
        turnstile = Turnstile(folder)
        try:
            if not turnstile.enter(time.monotonic() + timeout):
                raise LedgerUnavailable(
                    f"another process has been writing to the ledger for over {timeout:g} s;"
                    " nothing was written"
                )
            with self.engine.connect() as connection:
                connection.execute(text("BEGIN IMMEDIATE"))
                yield connection
        finally:
            turnstile.close()

    def insert_unless(
        self, statement: Insert, columns: list[Column[Any]], where: str | None = None
    ) -> Insert:
        same = dialect_insert(statement.table).values(dict(statement._values or {}))
        return same.on_conflict_do_nothing(
            index_elements=columns, index_where=None if where is None else text(where)
        )

    def among(self, column: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        return column.in_(chosen)

    def listed(self, column: ColumnElement[Any], texts: ColumnElement[Any]) -> ColumnElement[bool]:
        each = func.json_each(texts).table_valued("value")
        return column.in_(select(each.c.value))

    def numbered(
        self, column: ColumnElement[Any], numbers: ColumnElement[Any]
    ) -> ColumnElement[bool]:
        return self.listed(column, numbers)

    def matches(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        return column.bool_op("GLOB")(pattern.replace("[", "[[]").replace("?", "[?]"))

    def aside(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return UnaryExpression(column, operator=operators.custom_op("+"))

    def member(self, column: ColumnElement[Any], path: Sequence[str]) -> ColumnElement[str]:
        at = "$" + "".join("." + json.dumps(name, ensure_ascii=False) for name in path)
        kind = func.json_type(column, at)
        # As values of SQL, these three are numbers or nothing.
        return case(
            (kind.in_(("true", "false", "null")), kind),
            else_=cast(func.json_extract(column, at), Text),
        )

    def contains(
        self, column: ColumnElement[Any], part: str | ColumnElement[str]
    ) -> ColumnElement[bool]:
        return func.instr(column, part) > ZERO


class SQLiteTx(Tx):
    """Runs statements on a sqlite3 connection."""

    __slots__ = ("_connection", "_of", "kind")

    def __init__(self, connection: sqlite3.Connection, texts: Texts, kind: Kind) -> None:
        self._connection = connection
        self._of = texts.of
        self.kind = kind

    def run(self, statement: Prepared, *values: object) -> int:
        return int(self._connection.execute(self._of(statement), values).rowcount)

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        return int(self._connection.executemany(self._of(statement), rows).rowcount)

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(self._of(statement), values).fetchall()

    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._connection.execute(
            self._of(statement), values
        ).fetchone()
        return found

    def now(self) -> int:
        return self.kind.now()


def database_path(url: URL) -> Path:
    """The database's file. Raises ConfigurationError for an in-memory one."""
    if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
        raise ConfigurationError(
            "an in-memory SQLite database is gone with its process and cannot hold a ledger;"
            " give a file, such as sqlite:///jobs.db"
        )
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old: failbetter needs 3.35 or newer"
        )
    return Path(url.database).absolute()


def prepare_connection(connection: sqlite3.Connection, durable: bool) -> None:
    """Set up a new connection: transactions begun by us, WAL, durability."""
    connection.isolation_level = None
    cursor = connection.cursor()
    # Who opens a database meets others that make it, recover it or close it for good, and these
    # hold it for as long as a sync takes on a busy disk.
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.execute("PRAGMA journal_size_limit=67108864")
    cursor.close()


class SQLiteWriter(Writer):
    """The one writing connection of a process; its turn, its transaction, its durability."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, kind: SQLite) -> None:
        self.connection = connection
        # The turnstile orders our own writers; this is for the sqlite3 shell and backup tools.
        connection.execute("PRAGMA busy_timeout=250")
        self._turnstile = Turnstile(folder)
        self._durable = kind.durable
        self._synced = kind.durable
        self._version = -1
        self.tx = SQLiteTx(connection, kind.texts, kind)

    def begin(self, durable: bool, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if not self._turnstile.enter(deadline):
            raise LedgerUnavailable(
                f"another process has been writing to the ledger for over {timeout:g} s;"
                " nothing was written"
            )
        sync = durable and self._durable
        if sync != self._synced:
            self.connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
            self._synced = sync
        while True:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
            else:
                return

    def commit(self) -> None:
        self.connection.execute("COMMIT")
        self._turnstile.leave()

    def rollback(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        finally:
            self._turnstile.leave()

    def has_news(self) -> bool:
        row = self.connection.execute("PRAGMA data_version").fetchone()
        version, self._version = self._version, int(row[0])
        return version != self._version

    def abandon(self) -> None:
        # The parent's turn goes on, and would else outlive it. Its connection must not be touched
        # here, not even closed.
        self._turnstile.close()

    def close(self) -> None:
        self._turnstile.close()
        self.connection.close()


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def translate(error: BaseException, where: str) -> LedgerError:
    """The driver's error in the ledger's words. `where` names the database, without secrets."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, sqlite3.IntegrityError):
        return LedgerError(f"{where}: {error}; nothing was written")
    if code == sqlite3.SQLITE_FULL:
        return LedgerFull(
            f"the disk of {where} is full; nothing was written. Free some space and try again"
        )
    if _is_busy(error):
        return LedgerUnavailable(f"{where} stayed locked by another program; nothing was written")
    if code == sqlite3.SQLITE_CANTOPEN:
        return LedgerUnavailable(f"{where} cannot be opened: is its folder there and writable?")
    if "no such table" in str(error) or "no such column" in str(error):
        return SchemaMismatch(
            f"{where} lacks failbetter's tables ({error}); run `failbetter migrate`"
        )
    return LedgerUnavailable(f"{where}: {error}; nothing was written")
