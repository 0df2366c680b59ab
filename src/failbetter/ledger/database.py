"""Connections and transactions: the ground that the ledger's verbs stand on.

One writing connection per process, guarded by a lock, whose statements are run by the driver;
reads go through SQLAlchemy's pool. What differs per database comes from one module each
(`sqlite.py`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import event, exc

from failbetter.errors import ConfigurationError, LedgerError, SchemaMismatch
from failbetter.fleet import Fleet
from failbetter.ledger import migrate, sqlite
from failbetter.ledger.schema import REVISION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Select
    from sqlalchemy.engine.interfaces import Dialect

    from failbetter.ledger.prepared import Prepared

WRITE_TIMEOUT = 30.0
"""Seconds a producer waits for its turn to write before it is told so."""


class Tx:
    """An open transaction, or a plain look: runs prepared statements on a driver's connection."""

    __slots__ = ("_connection", "_dialect")

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def run(self, statement: Prepared, *values: object) -> int:
        """Run a writing statement; the number of rows it matched."""
        return int(self._connection.execute(statement.text(self._dialect), values).rowcount)

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        """Run a writing statement for each row; the number of rows matched in all."""
        return int(self._connection.executemany(statement.text(self._dialect), rows).rowcount)

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement that returns rows."""
        fetched: list[tuple[Any, ...]] = self._connection.execute(
            statement.text(self._dialect), values
        ).fetchall()
        return fetched

    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        """The first row of a statement, or None."""
        found: tuple[Any, ...] | None = self._connection.execute(
            statement.text(self._dialect), values
        ).fetchone()
        return found


class Database:
    """A ledger's database. Thread-safe; usable again after a fork.

    `url`: as SQLAlchemy takes it. `durable=False` lets a power cut (not a killed process) take
    the last moments with it. Raises ConfigurationError for a URL that cannot hold a ledger.
    """

    def __init__(self, url: str, *, durable: bool = True, fleet_folder: Path | None = None) -> None:
        try:
            self.url = sqlalchemy.make_url(url)
        except (exc.ArgumentError, ValueError):  # the latter for a port that is no number
            # The text may hold a password, so it is not repeated.
            raise ConfigurationError(
                "the ledger's URL is no URL; write one such as sqlite:///jobs.db"
            ) from None
        if self.url.drivername not in ("sqlite", "sqlite+pysqlite"):
            raise ConfigurationError(
                f"a ledger on {self.url.drivername} is not supported by this version;"
                " use sqlite:///FILE"
            )
        self.durable = durable
        self._path = sqlite.database_path(self.url)
        self._fleet_folder = fleet_folder or sqlite.fleet_folder(self._path)
        self._lock = threading.RLock()
        self._writer: sqlite.Writer | None = None
        self._fleet: Fleet | None = None
        self._ready = False
        self.engine = sqlalchemy.create_engine(
            self.url.set(database=str(self._path)), connect_args={"check_same_thread": False}
        )
        event.listen(self.engine, "connect", self._on_connect)
        _databases.add(self)

    @property
    def name(self) -> str:
        """The database's name as it may be shown: without a password."""
        return self.url.render_as_string(hide_password=True)

    @property
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect of this database."""
        return self.engine.dialect

    @property
    def fleet(self) -> Fleet:
        """The fleet folder of this ledger."""
        if self._fleet is None:
            with self.translated():
                sqlite.check_location(self._path)
                try:
                    self._fleet = Fleet(self._fleet_folder)
                except OSError as error:
                    raise LedgerError(
                        f"the fleet folder {self._fleet_folder} cannot be used: {error}"
                    ) from error
        return self._fleet

    def exists(self) -> bool:
        """Whether there is a database already; asking does not make one."""
        return self._path.exists()

    def sees_dead(self, worker: int, fleet: str) -> bool:
        """Whether the worker is seen to be dead from here: its lock is in our folder, and free."""
        return fleet == self.fleet.id and self.fleet.is_dead(worker)

    def _on_connect(self, connection: Any, _record: object) -> None:
        sqlite.prepare_connection(connection, self.durable)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the driver's and SQLAlchemy's errors into the ledger's."""
        try:
            yield
        except exc.DBAPIError as error:
            raise sqlite.translate(error.orig or error, self.name) from error
        except sqlite.driver_errors as error:
            raise sqlite.translate(error, self.name) from error

    # -- writing

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, timeout: float = WRITE_TIMEOUT) -> Iterator[Tx]:
        """A writing transaction: committed at the end, undone on any error.

        Raises LedgerUnavailable, LedgerFull or SchemaMismatch; then nothing was written.
        """
        self.ensure_schema()
        with self._lock, self.translated():
            writer = self._own_writer()
            try:
                # Inside, because a body that enqueues may be interrupted (TimedOut) anywhere.
                writer.begin(durable, timeout)
                yield Tx(writer.connection, self.dialect)
                writer.commit()
            except BaseException:
                writer.rollback()
                raise

    @contextlib.contextmanager
    def look(self) -> Iterator[Tx]:
        """Reads on the writing connection without a transaction: the cheapest look there is."""
        self.ensure_schema()
        with self._lock, self.translated():
            yield Tx(self._own_writer().connection, self.dialect)

    def version(self) -> int:
        """A number that changes when another connection has written to the ledger."""
        with self._lock, self.translated():
            return self._own_writer().version()

    def _own_writer(self) -> sqlite.Writer:
        if self._writer is None:
            fleet = self.fleet
            pooled = self.engine.raw_connection()
            connection: Any = pooled.driver_connection
            pooled.detach()
            self._writer = sqlite.Writer(connection, fleet.folder, self.durable)
        return self._writer

    # -- reading

    def query(self, statement: Select[Any]) -> Sequence[Any]:
        """Run a Core select made for the occasion and return all its rows."""
        self.ensure_schema()
        with self.translated(), self.engine.connect() as connection:
            return connection.execute(statement).all()

    # -- schema

    def revision(self) -> str | None:
        """The migration the database is at; None when it has no tables of ours."""
        self.fleet  # noqa: B018  # makes sure that the location can be used, with a clear error
        with self.translated(), self.engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return None
            found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
            value = found.scalar()
            return None if value is None else str(value)

    def ensure_schema(self) -> None:
        """Make the tables at the first use of a new database; refuse one of another version."""
        if self._ready:
            return
        with self._lock:
            found = self.revision()
            if found is None:
                migrate.upgrade(self)
            elif found != REVISION:
                raise SchemaMismatch(
                    f"{self.name} has schema {found}, this version of failbetter needs {REVISION};"
                    " run `failbetter migrate` with the newest failbetter that uses this ledger"
                )
            self._ready = True

    def close(self) -> None:
        """Close all connections. The object opens new ones when it is used again."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._fleet is not None:
                self._fleet.close()
            self.engine.dispose()

    def _abandon(self) -> None:
        """In a forked process: forget the parent's connections without touching them."""
        self._lock = threading.RLock()
        if self._writer is not None:
            self._writer.abandon()
            _kept_from_parents.append(self._writer)
            self._writer = None
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
        self.engine.dispose(close=False)


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_kept_from_parents: list[object] = []


def _after_fork() -> None:
    for database in list(_databases):
        database._abandon()


os.register_at_fork(after_in_child=_after_fork)
