"""What every kind of database provides: the only place where the ledger's code meets a driver."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from failbetter.ledger.prepared import Prepared, Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import URL, Column, ColumnElement, Connection, Engine, Insert, Select

    from failbetter.errors import LedgerError

SAVEPOINT = Prepared(text("SAVEPOINT failbetter"))
ROLLBACK_TO = Prepared(text("ROLLBACK TO SAVEPOINT failbetter"))
RELEASE = Prepared(text("RELEASE SAVEPOINT failbetter"))

LOCK_PATIENCE = 0.05
"""Seconds that a guarded statement waits for a lock."""


class Undone(Exception):
    """A guarded statement failed, and nothing of it is left; the text is the database's own."""


def said(error: BaseException) -> str:
    """What a database says of an error, in one line: not the rows that it may show besides."""
    inner = getattr(error, "orig", None) or error  # SQLAlchemy's errors hold the driver's
    primary = getattr(getattr(inner, "diag", None), "message_primary", None)
    lines = str(primary or inner).strip().splitlines()
    return lines[0][:500] if lines else type(inner).__name__


def as_text(value: object) -> str | None:
    """A value as a text that, sent without a type, becomes whatever the column is."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


class Tx(ABC):
    """An open transaction, or a plain look: runs prepared statements on a driver's connection."""

    kind: Kind
    may_undo = True
    """Whether a part of it may be undone: not where the transaction is somebody else's."""

    @abstractmethod
    def run(self, statement: Prepared, *values: object) -> int:
        """Run a writing statement; the number of rows it matched."""

    @abstractmethod
    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        """Run a writing statement for each row; the number of rows matched in all.

        No two rows may mean the same row of the table: a server takes them all at once.
        """

    @abstractmethod
    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement that returns rows."""

    @abstractmethod
    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        """The first row of a statement, or None."""

    @abstractmethod
    def now(self) -> int:
        """The ledger's time, in microseconds since the epoch: the same for all who use it."""

    def try_lock(self, name: str) -> bool:
        """Keep other transactions out of what `name` stands for until this one's end; never waits.

        False when another has it. Where there is one writer at a time that is always so.
        """
        return True

    def savepoint(self) -> None:
        """Begin a part of the transaction that can be undone alone; they do not nest."""
        self.run(SAVEPOINT)

    def undo(self) -> None:
        """Undo all since `savepoint`."""
        self.run(ROLLBACK_TO)
        self.run(RELEASE)

    def keep(self) -> None:
        """Keep all since `savepoint`."""
        self.run(RELEASE)

    def guarded(self, statement: Prepared, *values: object) -> int:
        """Run a writing statement on a table that is not ours; the number of rows it matched.

        Waits for a lock for no longer than LOCK_PATIENCE. Whatever goes wrong with it is undone
        alone and raised as Undone, and the transaction goes on; unless the transaction itself is
        broken, which is raised as ever. `values`: texts, whole numbers, booleans, None; where a
        database insists on types, the columns have theirs.
        """
        try:
            self.savepoint()
            self.kind.check_savepoint(self)
        except Exception as error:  # such as a caller's connection that is in no transaction
            raise Undone(said(error)) from error
        try:
            with self.kind.impatient(self):
                matched = self.run(statement, *map(self.untyped, values))
            self.keep()
        except Exception as error:  # the driver's, or of a library around the driver
            try:
                self.undo()
            except Exception:
                raise error from None
            raise Undone(said(error)) from error
        return matched

    def untyped(self, value: object) -> object:
        """A value as `guarded` sends it."""
        return self.kind.untyped(value)


class Writer(ABC):
    """A writing connection: its transactions, and what it hears of others."""

    tx: Tx

    @abstractmethod
    def begin(self, durable: bool, timeout: float) -> None:
        """Begin a transaction. Waits at most `timeout` (s) for its turn, or for any lock in it.

        A transaction that is not durable survives a killed process but perhaps not a power cut;
        that is enough for a claim, which is then simply a job to claim again. After any error,
        `rollback`.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo; after whatever went wrong, wherever it did. Raises nothing."""

    def alone(
        self, statement: Prepared, values: Sequence[object], timeout: float
    ) -> list[tuple[Any, ...]]:
        """One durable statement as a transaction of its own; the rows that it returns, if any."""
        self.begin(True, timeout)
        rows = self.tx.rows(statement, *values)
        self.commit()
        return rows

    broken = False
    """Whether it is of no use any more; another takes its place."""

    @abstractmethod
    def has_news(self) -> bool:
        """Whether another connection may have written since this was last asked."""

    @abstractmethod
    def abandon(self) -> None:
        """In a forked process: let go of the parent's connection without touching it."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @property
    def listens(self) -> tuple[int, int] | None:
        """A file descriptor that is readable when there is news, and which one in a row it is.

        None where none is needed or none is open.
        """
        return None

    def tell(self) -> None:
        """Tell those who listen that there may be work, where a database does that."""
        return

    def listen(self) -> None:
        """Hear of what others write, where a database tells."""
        return


class Kind(ABC):
    """One ledger's database, of one kind."""

    name: str
    engine: Engine
    """SQLAlchemy's, for reads made for the occasion and for migrations."""
    texts: Texts
    """The statements compiled for this database."""
    makes_schema = False
    """Whether the tables are made at first use; else by `migrate`."""
    driver_errors: tuple[type[Exception], ...] = ()
    unique_violation: tuple[type[Exception], ...] = ()
    sorts_groups = False
    """Whether rows are sorted to be grouped by what no index is in the order of."""
    walks_indexes = False
    """Whether one statement can walk an index from group to group (recursive, lateral)."""
    seeks_next = True
    """Whether the least value beyond that of an outer row is found by a seek in an index."""
    left_alone: tuple[ColumnElement[bool], ...] = ()
    """By what a claim passes over rows that another transaction has locked or changed of late."""
    most_claimed = 10_000
    """How many jobs a worker may claim at once."""
    outlived = False
    """Whether a worker may live on when the database crashes, as it may when that is a server: then
    a claim that was not on disk yet is lost while its body runs.
    """
    one_writer = False
    """Whether only one transaction writes at a time."""
    tells_elsewhere = False
    """Whether workers on other hosts can be woken through the database."""
    in_order: Prepared | None = None
    """Where a planner knows little of its tables: has it walk an index in the order that is asked
    for, instead of sorting all that there is for each page, for the rest of the transaction."""

    def __init__(self, url: URL, *, durable: bool, schema: str | None) -> None:
        self.url = url
        self.durable = durable
        self.schema = schema
        secret = {"password": "***"} if "password" in url.query else {}
        self.shown = url.update_query_dict(secret).render_as_string(hide_password=True)
        """The database's name as it may be shown: without a password."""

    # -- connecting

    @abstractmethod
    def writer(self, folder: Path) -> Writer:
        """A new writing connection. `folder`: the fleet's."""

    @abstractmethod
    def fleet_folder(self) -> Path:
        """Where this ledger's workers of one host meet, unless told otherwise."""

    def exists(self) -> bool:
        """Whether there is a database already; asking does not make one."""
        return True

    def check_location(self) -> None:
        """Raise a clear error before the driver raises an unclear one."""
        return

    @abstractmethod
    def translate(self, error: BaseException) -> LedgerError:
        """The driver's error in the ledger's words."""

    @abstractmethod
    def now(self) -> int:
        """The ledger's time, in microseconds since the epoch, as far as it is known here."""

    @property
    def knows_time(self) -> bool:
        """Whether that is known: a server's time only once it was connected to."""
        return True

    @contextlib.contextmanager
    @abstractmethod
    def migrating(self, folder: Path) -> Iterator[Connection]:
        """A connection in a transaction in which the schema may be changed, by one at a time."""

    @contextlib.contextmanager
    @abstractmethod
    def transaction(self, folder: Path, timeout: float) -> Iterator[Connection]:
        """A connection in a transaction for a user's own statements; undone unless committed.

        Waits at most `timeout` (s) for its turn where only one writes at a time.
        """

    # -- statements

    def check_savepoint(self, tx: Tx) -> None:
        """Raise unless the savepoint was made, where a database says nothing outside of any."""
        return

    @contextlib.contextmanager
    def impatient(self, tx: Tx) -> Iterator[None]:
        """Within the block `tx`, which is in a savepoint, waits for a lock for LOCK_PATIENCE."""
        yield

    def latest(self, statement: Select[Any]) -> Select[Any]:
        """The select, but of what is committed by now, where a caller's transaction may see less.

        For what a statement before it has run into.
        """
        return statement

    def untyped(self, value: object) -> object:
        """A value for a column of unknown type: such that the column's type decides."""
        return value

    @abstractmethod
    def insert_unless(
        self, statement: Insert, columns: list[Column[Any]], where: str | None = None
    ) -> Insert:
        """The insert, but doing nothing where the unique index over `columns` has such a row."""

    def is_refusal(self, statement: Prepared, error: BaseException) -> bool:
        """Whether the error says only that such an insert has met such a row, and did nothing."""
        return False

    @abstractmethod
    def among(self, column: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        """Whether the column is among what a limited select finds, which is run once."""

    @abstractmethod
    def listed(self, column: ColumnElement[Any], texts: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether the column is among texts that are given as one parameter, a list in JSON."""

    @abstractmethod
    def numbered(
        self, column: ColumnElement[Any], numbers: ColumnElement[Any]
    ) -> ColumnElement[bool]:
        """Whether the column is among whole numbers given as one parameter, a list in JSON.

        So that an index on the column is sought once for each of them.
        """

    @abstractmethod
    def matches(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        """Whether the text fits a pattern: `*` is anything. Unlike with LIKE, case counts."""

    def aside(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The column, but no reason to choose an index; for databases that choose badly."""
        return column

    @abstractmethod
    def member(self, column: ColumnElement[Any], path: Sequence[str]) -> ColumnElement[str]:
        """What is in a JSON object under a name, and a name in that, and so on, as text.

        A string without quotes, anything else as JSON has it; NULL when it is not there.
        """

    @abstractmethod
    def contains(
        self, column: ColumnElement[Any], part: str | ColumnElement[str]
    ) -> ColumnElement[bool]:
        """Whether the text has that part, letter by letter."""
