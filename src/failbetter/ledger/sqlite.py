"""What is particular to SQLite: connecting, beginning, being durable, what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, text
from sqlalchemy.dialects.sqlite import insert as dialect_insert

from failbetter.errors import (
    ConfigurationError,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
    SchemaMismatch,
)
from failbetter.ledger.turnstile import Turnstile

if TYPE_CHECKING:
    from sqlalchemy import URL, Column, ColumnElement, Insert

OLDEST = (3, 35, 0)  # UPDATE … RETURNING


def insert_unless(statement: Insert, columns: list[Column[Any]], where: str) -> Insert:
    """The insert, but doing nothing where the unique index over `columns` has such a row."""
    same = dialect_insert(statement.table).values(dict(statement._values or {}))
    return same.on_conflict_do_nothing(index_elements=columns, index_where=text(where))


def matches(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Whether the text fits a pattern: `*` is anything. Unlike with LIKE, case counts."""
    return column.bool_op("GLOB")(pattern.replace("[", "[[]").replace("?", "[?]"))


def contains(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Whether the text has that part, letter by letter."""
    return func.instr(column, part) > 0


driver_errors: tuple[type[Exception], ...] = (sqlite3.Error,)
unique_violation: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)


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


class Writer:
    """The one writing connection of a process; its turn, its transaction, its durability."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, durable: bool) -> None:
        self.connection = connection
        # The turnstile orders our own writers; this is for the sqlite3 shell and backup tools.
        connection.execute("PRAGMA busy_timeout=250")
        self._turnstile = Turnstile(folder)
        self._durable = durable
        self._synced = durable

    def begin(self, durable: bool, timeout: float) -> None:
        """Take the turn and the write lock. Raises LedgerUnavailable when `timeout` (s) is over.

        After any error, `rollback`.

        A transaction that is not durable survives a killed process but perhaps not a power cut;
        that is enough for a claim, which is then simply a job to claim again.
        """
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
        """Commit and give the turn away."""
        self.connection.execute("COMMIT")
        self._turnstile.leave()

    def rollback(self) -> None:
        """Undo and give the turn away; after whatever went wrong, wherever it did."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        finally:
            self._turnstile.leave()

    def version(self) -> int:
        """A number that changes when another connection has written."""
        row = self.connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def abandon(self) -> None:
        """In a forked process: let go of the parent's turn, which would else outlive the parent.

        The parent's turn goes on. Its connection must not be touched here, not even closed.
        """
        self._turnstile.close()

    def close(self) -> None:
        """Close the connection and the turnstile."""
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


def fleet_folder(path: Path) -> Path:
    """Where the fleet of a database file meets: beside it, seen by whoever sees the file."""
    return path.with_name(path.name + "-fleet")


def check_location(path: Path) -> None:
    """Raise a clear error before SQLite says only 'unable to open database file'."""
    folder = path.parent
    if not folder.is_dir():
        raise LedgerUnavailable(f"the ledger's folder {folder} does not exist; make it first")
    if path.is_dir():
        raise LedgerUnavailable(f"{path} is a folder; the ledger's URL must name a file in it")
    target: Any = path if path.exists() else folder
    if not os.access(target, os.W_OK):
        raise LedgerUnavailable(f"the ledger {path} cannot be written by this user")
