"""Connections and transactions: the ground that the ledger's verbs stand on.

One writing connection per process, guarded by a lock, whose statements are run by the driver;
reads go through SQLAlchemy's pool. What differs per database is in `kinds`, a module each.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
from sqlalchemy import exc

from failbetter.errors import ConfigurationError, LedgerError, LedgerUnavailable, SchemaMismatch
from failbetter.fleet import Fleet
from failbetter.ledger import migrate, registry
from failbetter.ledger.kinds import Kind, Tx, Writer, kind_of
from failbetter.ledger.schema import REVISION
from failbetter.limits import WRITE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine, Select

    from failbetter.ledger.prepared import Prepared

R = TypeVar("R")


class Database:
    """A ledger's database. Thread-safe; usable again after a fork.

    `url`: as SQLAlchemy takes it. `durable=False` lets a power cut (not a killed process) take
    the last moments with it. `schema`: where the tables are, on a server that has schemas; else
    wherever its connections create tables. Raises ConfigurationError for a URL that cannot hold
    a ledger.
    """

    def __init__(
        self,
        url: str,
        *,
        durable: bool = True,
        fleet_folder: Path | None = None,
        schema: str | None = None,
    ) -> None:
        try:
            self.url = sqlalchemy.make_url(url)
        except (exc.ArgumentError, ValueError):  # the latter for a port that is no number
            # The text may hold a password, so it is not repeated.
            raise ConfigurationError(
                "the ledger's URL is no URL; write one such as sqlite:///jobs.db"
            ) from None
        self._given, self._durable = url, durable
        self._given_folder, self._schema = fleet_folder, schema
        self.kind: Kind = kind_of(self.url, durable=durable, schema=schema)
        self._fleet_folder = fleet_folder or self.kind.fleet_folder()
        self._lock = threading.RLock()
        self._writer: Writer | None = None
        self._listening = False
        self._fleet: Fleet | None = None
        self._ready = False
        self._inside: int | None = None
        _databases.add(self)

    @property
    def name(self) -> str:
        """The database's name as it may be shown: without a password."""
        return self.kind.shown

    def another(self) -> Database:
        """The same once more, with connections of its own."""
        return Database(
            self._given,
            durable=self._durable,
            fleet_folder=self._given_folder,
            schema=self._schema,
        )

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine on this database."""
        return self.kind.engine

    @property
    def fleet(self) -> Fleet:
        """The fleet folder of this ledger."""
        if self._fleet is None:
            with self.translated():
                self.kind.check_location()
                try:
                    self._fleet = Fleet(self._fleet_folder)
                except OSError as error:
                    raise LedgerError(
                        f"the fleet folder {self._fleet_folder} cannot be used: {error}"
                    ) from error
        return self._fleet

    def exists(self) -> bool:
        """Whether there is a database already; asking does not make one."""
        return self.kind.exists()

    def sees_dead(self, worker: int, fleet: str) -> bool:
        """Whether the worker is seen to be dead from here: its lock is in our folder, and free."""
        return fleet == self.fleet.id and self.fleet.is_dead(worker)

    def now(self) -> int:
        """The ledger's time in microseconds since the epoch.

        On a server it is the server's, as last compared with this host's steady clock: hosts
        whose clocks differ agree on it, and a clock that is set meanwhile does not move it.
        """
        if not self.kind.knows_time:
            # Out of reach: this host's own time has to do.
            with contextlib.suppress(LedgerError), self.look():
                pass
        return self.kind.now()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the driver's and SQLAlchemy's errors into the ledger's."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self.kind.translate(error.orig or error) from error
        except self.kind.driver_errors as error:
            raise self.kind.translate(error) from error

    # -- writing

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, timeout: float = WRITE_TIMEOUT) -> Iterator[Tx]:
        """A writing transaction: committed at the end, undone on any error.

        Raises LedgerUnavailable, LedgerFull or SchemaMismatch; then nothing was written, unless
        the connection broke while it was being committed: see `transact`.
        """
        self.ensure_schema()
        with self._own_writer() as writer:
            # Inside, because a body that enqueues may be interrupted (TimedOut) anywhere.
            writer.begin(durable, timeout)
            yield writer.tx
            writer.commit()

    def transact(
        self, work: Callable[[Tx], R], *, durable: bool = True, timeout: float = WRITE_TIMEOUT
    ) -> R:
        """Do `work` in a writing transaction; again while the database cannot do it just then.

        Raises as `write` does; LedgerUnavailable with `in_doubt` when the connection broke during
        the commit: then it may be done already, and is not tried again.
        """
        limit = time.monotonic() + timeout
        pause = 0.01
        while True:
            try:
                with self.write(durable=durable, timeout=timeout) as tx:
                    return work(tx)
            except LedgerUnavailable as error:
                if error.in_doubt or not error.passing or time.monotonic() + pause > limit:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def alone(
        self, statement: Prepared, *values: object, timeout: float = WRITE_TIMEOUT
    ) -> list[tuple[Any, ...]]:
        """One writing statement as a transaction of its own; the rows that it returns, if any."""
        self.ensure_schema()
        with self._own_writer() as writer:
            return writer.alone(statement, values, timeout)

    @contextlib.contextmanager
    def look(self) -> Iterator[Tx]:
        """Reads on the writing connection without a transaction: the cheapest look there is."""
        self.ensure_schema()
        with self._own_writer() as writer:
            yield writer.tx

    def _roll_back(self, writer: Writer) -> None:
        writer.rollback()
        if writer.broken:
            writer.close()
            if writer is self._writer:
                self._writer = None

    @contextlib.contextmanager
    def _own_writer(self) -> Iterator[Writer]:
        """The writing connection, for one thread at a time; after any error undone, or given up."""
        if self._inside == threading.get_ident() and self.kind.one_writer:
            raise LedgerError(
                "inside job.transaction() nothing else can be written to this ledger; enqueue with"
                " `using(connection=…)` on the connection that it gave"
            )
        with self._lock, self.translated():
            is_new = self._writer is None
            writer = self._writer = self._writer or self.kind.writer(self.fleet.folder)
            try:
                if is_new and self._listening:
                    writer.listen()
                yield writer
            except BaseException:
                self._roll_back(writer)
                raise

    @contextlib.contextmanager
    def transaction(self, timeout: float) -> Iterator[Connection]:
        """A transaction of a user's own on a connection of SQLAlchemy's; undone unless committed.

        Where one writes at a time, this thread writes nothing else before its end.
        """
        self.ensure_schema()
        with contextlib.ExitStack() as stack:
            with self.translated():  # but not what the user's own statements raise
                opened = self.kind.transaction(self.fleet.folder, timeout)
                connection = stack.enter_context(opened)
            self._inside = threading.get_ident()
            try:
                yield connection
            finally:
                self._inside = None

    # -- news

    def wake(self, jobs: int | None = None, *, elsewhere: bool | None = None) -> None:
        """Tell workers that there may be work: those of this host, and idle ones elsewhere.

        `jobs`: how many there may be; None: any number. `elsewhere`: whether any of those waits;
        None: to be found out. Whoever is not told looks for itself within a second, so that nothing
        is raised here.
        """
        self.fleet.wake(jobs)
        if not self.kind.tells_elsewhere or elsewhere is False:
            return
        with contextlib.suppress(LedgerError), self._own_writer() as writer:
            if elsewhere or registry.someone_idles(writer.tx, self.fleet.id):
                writer.tell()

    def listen(self) -> None:
        """From now on, hear of what others write."""
        with self._own_writer() as writer:
            writer.listen()
        self._listening = True

    @property
    def listens(self) -> tuple[int, int] | None:
        """What to watch for news: a file descriptor, and which one in a row; None for nothing."""
        return None if self._writer is None else self._writer.listens

    def has_news(self) -> bool:
        """Whether another connection may have written since this was last asked."""
        with self._own_writer() as writer:
            return writer.has_news()

    # -- reading

    def query(self, statement: Select[Any], *, in_order: bool = False) -> Sequence[Any]:
        """Run a Core select made for the occasion and return all its rows.

        `in_order`: it is a page of what an index has in that order.
        """
        self.ensure_schema()
        with self.translated(), self.engine.connect() as connection:
            if in_order and self.kind.in_order is not None:
                connection.execute(self.kind.in_order.on(self.kind))
            return connection.execute(statement).all()

    def let_go_of_reads(self) -> None:
        """Close the connections that are kept for queries. The next one opens another."""
        self.engine.dispose()

    # -- schema

    own_revision = REVISION
    """The migration that this version of failbetter was made with."""

    def revision(self) -> str | None:
        """The migration the database is at; None when it has no tables of ours."""
        self.fleet  # noqa: B018  # makes sure that the location can be used, with a clear error
        with self.translated(), self.engine.connect() as connection:
            return migrate.revision(connection, self.kind.schema)

    def ensure_schema(self) -> None:
        """Make the tables at the first use of a new file; refuse those of another version.

        A newer schema is used if it says that this version still can. Raises SchemaMismatch.
        """
        if self._ready:
            return
        with self._lock:
            found = self.revision()
            if found is None and self.kind.makes_schema:
                migrate.upgrade(self)
            elif found is None:
                raise SchemaMismatch(
                    f"{self.name} has no tables of failbetter; run `failbetter migrate` once"
                )
            elif found != REVISION:
                migrate.check_usable(self, found)
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
