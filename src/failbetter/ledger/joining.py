"""Enqueueing in a transaction of the caller's own: rolled back, the job never was.

Whatever connection the caller has, of SQLAlchemy, Django or a driver, becomes a `Tx` that never
begins, commits or undoes anything. The ledger's tables are named with their schema, so that the
caller's search path does not matter. Nobody is notified inside the transaction: where the caller's
library tells of the commit, workers are woken then; else they find the job when they look.
"""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, exc
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.orm import Session, scoped_session

from failbetter.errors import ConfigurationError
from failbetter.ledger import enqueue
from failbetter.ledger.kinds import Tx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.enqueue import NewJob
    from failbetter.ledger.kinds import Kind
    from failbetter.ledger.prepared import Prepared

Inserted = list[tuple[int, bool]]

_known: weakref.WeakSet[Database] = weakref.WeakSet()


def is_async(connection: object) -> bool:
    """Whether its statements must be awaited."""
    kind = type(connection)
    if any(base.__module__.startswith("sqlalchemy.ext.asyncio") for base in kind.__mro__):
        return True
    return inspect.iscoroutinefunction(getattr(kind, "commit", None))


def insert_jobs(database: Database, connection: Any, new: Sequence[NewJob]) -> Inserted:
    """As `enqueue.insert_jobs`, in the open transaction of `connection`.

    Raises TypeError for what is no connection or must be awaited, ConfigurationError for one to
    another kind of database than the ledger's, and the ledger's errors for the database's.
    """
    if is_async(connection):
        raise TypeError("this connection is an async one: use `await ….aenqueue(…)`")
    be_known(database)
    with database.translated():
        inserted = enqueue.insert_new(joined(database.kind, connection), new)
    _at_commit(connection, database.wake)
    return inserted


async def ainsert_jobs(database: Database, connection: Any, new: Sequence[NewJob]) -> Inserted:
    """`insert_jobs` for async callers; `connection` may be an async one, or a plain one."""
    if not is_async(connection):
        return insert_jobs(database, connection, new)
    if hasattr(connection, "run_sync"):
        # SQLAlchemy's own bridge: the same code, on the sync object that is behind it.
        return list(await connection.run_sync(lambda inner: insert_jobs(database, inner, new)))
    try:
        from sqlalchemy.util import await_only, greenlet_spawn
    except ImportError:
        raise ConfigurationError(
            "joining the transaction of an async driver's connection needs greenlet: install"
            " sqlalchemy[asyncio]"
        ) from None
    be_known(database)

    def insert() -> Inserted:
        tx = AwaitedTx(database.kind, connection, await_only)
        with database.translated():
            return enqueue.insert_new(tx, new)

    found: Inserted = await greenlet_spawn(insert)
    return found


def be_known(database: Database) -> None:
    """Make sure that the tables are there, and under which schema, on a connection of our own.

    Once: that connection may be another thread's just then, who waits for this very transaction.
    """
    if database not in _known:
        with database.look():
            _known.add(database)


def joined(kind: Kind, connection: Any) -> Tx:
    """The open transaction of a caller's connection or session. Raises TypeError."""
    if isinstance(connection, scoped_session):
        connection = connection()
    if isinstance(connection, Session):
        connection = connection.connection()
    if isinstance(connection, Connection):
        return CoreTx(kind, connection)
    if callable(getattr(connection, "cursor", None)):
        return DriverTx(kind, connection)
    raise TypeError(
        "using(connection=…) takes a connection or session of SQLAlchemy, Django's connection or"
        f" one of the database's driver, not {type(connection).__name__}"
    )


def _at_commit(connection: Any, wake: Callable[[], None]) -> None:
    """Have workers woken once the caller has committed, where its library tells of that."""
    if isinstance(connection, scoped_session):
        connection = connection()
    if isinstance(connection, Session):
        sqlalchemy_event.listen(connection, "after_commit", lambda _: wake(), once=True)
    elif _is_django(connection):
        connection.on_commit(wake)


def _is_django(connection: object) -> bool:
    return hasattr(connection, "on_commit") and hasattr(connection, "vendor")


class CallersTx(Tx):
    """A transaction that somebody else begins and ends."""

    may_undo = False

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def now(self) -> int:
        return self.kind.now()

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        return sum(self.run(statement, *row) for row in rows)

    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        found = self.rows(statement, *values)
        return found[0] if found else None

    def _check(self, name: str) -> None:
        if name != self.kind.name:
            raise ConfigurationError(
                f"the connection is one to {name}, the ledger is on {self.kind.name}: a job can"
                " join a transaction only of the ledger's own database"
            )


class CoreTx(CallersTx):
    """On a connection of SQLAlchemy, with whatever driver."""

    def __init__(self, kind: Kind, connection: Connection) -> None:
        super().__init__(kind)
        self._check(connection.dialect.name)
        self._connection = connection
        schema = kind.texts.schema
        # Of an insert, SQLAlchemy counts the rows only when asked to.
        self._options: Any = {"preserve_rowcount": True}
        if schema:
            self._options["schema_translate_map"] = {None: schema}

    def _execute(self, statement: Prepared, rows: Any) -> Any:
        return self._connection.execute(
            statement.on(self.kind), rows, execution_options=self._options
        )

    def run(self, statement: Prepared, *values: object) -> int:
        given = dict(zip(statement.order, values, strict=True))
        try:
            return int(self._execute(statement, given).rowcount)
        except exc.IntegrityError as error:
            if not self.kind.is_refusal(statement, error):
                raise
            return 0

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        given = [dict(zip(statement.order, row, strict=True)) for row in rows]
        try:
            return int(self._execute(statement, given).rowcount)
        except exc.IntegrityError as error:
            if not self.kind.is_refusal(statement, error):
                raise
        return super().many(statement, rows)

    def untyped(self, value: object) -> object:
        # This driver asks the server for the types, and then takes no text for a number.
        if self._connection.dialect.driver == "asyncpg":
            return value
        return super().untyped(value)

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        given = dict(zip(statement.order, values, strict=True))
        return [tuple(row) for row in self._execute(statement, given)]


class DriverTx(CallersTx):
    """On a driver's connection (DB-API), or on Django's."""

    def __init__(self, kind: Kind, connection: Any) -> None:
        super().__init__(kind)
        self._connection = connection
        # Django takes its own marks for parameters, whatever the driver's.
        self._mark = "%s" if _is_django(connection) else None
        if _is_django(connection):
            self._check(str(connection.vendor))
        else:
            module = type(connection).__module__.partition(".")[0]
            self._check("sqlite" if "sqlite" in module else kind.name)

    def _text(self, statement: Prepared) -> str:
        text = self.kind.texts.of(statement)
        return text.replace("?", self._mark) if self._mark else text

    def _execute(self, statement: Prepared, values: Sequence[object]) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(self._text(statement), values)
        return cursor

    def run(self, statement: Prepared, *values: object) -> int:
        try:
            cursor = self._execute(statement, values)
        except Exception as error:  # the driver's, or of a library around the driver
            if not self.kind.is_refusal(statement, error):
                raise
            return 0
        try:
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._execute(statement, values)
        try:
            return [tuple(row) for row in cursor.fetchall()]
        finally:
            cursor.close()


class AwaitedTx(CallersTx):
    """On an async driver's connection, whose calls are awaited in a greenlet."""

    def __init__(self, kind: Kind, connection: Any, wait: Callable[[Any], Any]) -> None:
        super().__init__(kind)
        if not callable(getattr(connection, "execute", None)):
            raise TypeError(
                f"a job cannot join the transaction of a {type(connection).__name__}: give a"
                " connection or session of SQLAlchemy's, or one of psycopg's"
            )
        self._connection = connection
        self._wait = wait

    def run(self, statement: Prepared, *values: object) -> int:
        cursor = self._wait(self._connection.execute(self.kind.texts.of(statement), values))
        return int(cursor.rowcount)

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._wait(self._connection.execute(self.kind.texts.of(statement), values))
        return [tuple(row) for row in self._wait(cursor.fetchall())]
