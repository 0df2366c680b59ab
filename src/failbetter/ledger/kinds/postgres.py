"""What is particular to PostgreSQL: connecting, waiting, bulk statements, news, errors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy
from psycopg import errors
from psycopg.types.string import StrDumper, StrDumperUnknown
from sqlalchemy import Column, any_, func
from sqlalchemy.dialects.postgresql import insert as dialect_insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import Insert

from failbetter.errors import (
    ConfigurationError,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
    SchemaMismatch,
)
from failbetter.ledger.kinds.base import LOCK_PATIENCE, Kind, Tx, Undone, Writer, as_text, said
from failbetter.ledger.kinds.postgres_bulk import Bulk, bulk_of
from failbetter.ledger.prepared import Prepared, Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.abc import PQGen
    from sqlalchemy import URL, ColumnElement, Connection, Select
    from sqlalchemy.engine.interfaces import Dialect

OLDEST = 130_000
CONNECT_TIMEOUT = 5
# Seconds beyond what may be waited for a lock: a server or a network that says nothing for so
# long is given up, since a supervisor has children to look after meanwhile.
_SILENCE = 5.0
# Who listens is a supervisor, whose looks at a locked table must not take longer (s).
_GLANCE = 0.5
# A listener that hears nothing looks for itself this often: for jobs that callers' own
# transactions brought, and where a pooler between drops notifications.
_LOOK_EVERY = 0.5
# Microseconds after which the server's clock is looked at again.
_COMPARE_EVERY = 60_000_000
# From so many rows on, all in one statement is faster than one by one.
_FEW = 4
# The key of the advisory lock under which the schema is changed.
_MIGRATION = 7_235_409_116_318_522_977


class Postgres(Kind):
    """A database on a PostgreSQL server, 13 or newer."""

    name = "postgresql"
    driver_errors = (psycopg.Error,)
    unique_violation = (errors.UniqueViolation,)
    walks_indexes = True
    tells_elsewhere = True
    lock_limit = Prepared(sqlalchemy.text("SELECT current_setting('lock_timeout')"))
    set_lock_limit = Prepared(
        sqlalchemy.text("SELECT set_config('lock_timeout', :limit_, true)"), "limit"
    )

    def __init__(self, url: URL, *, durable: bool, schema: str | None) -> None:
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername != "postgresql+psycopg":
            raise ConfigurationError(
                f"a ledger on {url.drivername} is not supported; use postgresql+psycopg://…, which"
                " is psycopg 3 (your application may use another driver beside it)"
            )
        super().__init__(url, durable=durable, schema=schema)
        self.clock = Clock()
        self._texts: Texts | None = None
        query = dict(url.query)
        if "target_session_attrs" not in query:
            # Of several hosts in the URL, the one that can be written to.
            query["target_session_attrs"] = "read-write"
        dialect: Any = PGDialect_psycopg
        self._dialect: Dialect = dialect(paramstyle="format")
        arguments = dialect(paramstyle="format").create_connect_args(url.set(query=query))[1]
        self._arguments = {
            "connect_timeout": CONNECT_TIMEOUT,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": "failbetter",
            **arguments,
        }
        if "prepare_threshold" in arguments:
            self._arguments["prepare_threshold"] = _threshold(arguments["prepare_threshold"])
        self.engine = sqlalchemy.create_engine(
            url,
            connect_args=dict(self._arguments),
            pool_size=2,
            max_overflow=8,
            pool_pre_ping=True,
        )
        if schema is not None:
            self.engine = self.engine.execution_options(schema_translate_map={None: schema})

    @property
    def texts(self) -> Texts:  # type: ignore[override]
        """The statements, with the schema named: they also run on callers' own connections."""
        assert self._texts is not None, "not connected yet"
        return self._texts

    def writer(self, folder: Path) -> PostgresWriter:
        connection = _Connection.connect(autocommit=True, **self._arguments)
        try:
            writer = PostgresWriter(connection, self)
        except BaseException:
            connection.close()
            raise
        return writer

    def found(self, schema: str | None, version: int, standby: bool, now: int) -> None:
        """What a new connection has found of the server. Raises what makes it of no use."""
        if version < OLDEST:
            raise ConfigurationError(
                f"{self.shown} is PostgreSQL {version // 10_000}; failbetter needs 13 or newer"
            )
        if standby:
            raise LedgerUnavailable(
                f"{self.shown} is a standby, which cannot be written to; nothing was written",
                passing=True,
            )
        if self._texts is None:
            self._texts = Texts(self, self._dialect, self.schema or schema)
        self.clock.set(now)

    def now(self) -> int:
        return self.clock.now()

    @property
    def knows_time(self) -> bool:
        return self.clock.is_set

    def fleet_folder(self) -> Path:
        """A folder of this user's own on this host, by what the URL says, its password aside."""
        given = self.url.set(password=None).render_as_string()
        name = hashlib.sha256(f"{given} {self.schema}".encode()).hexdigest()[:16]
        top = Path(tempfile.gettempdir()) / f"failbetter-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            top.mkdir(mode=0o700)
        found = top.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigurationError(
                f"{top} belongs to another user; say App(fleet_folder=…) or set"
                " FAILBETTER_FLEET_FOLDER to a folder on this host"
            )
        return top / name

    @contextlib.contextmanager
    def migrating(self, folder: Path) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            # Waited for without a limit: whoever has it is at work, or the server ends it.
            connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(_MIGRATION)))
            if self.schema is not None:
                quoted = self._dialect.identifier_preparer.quote_identifier(self.schema)
                connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
                connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")
            yield connection

    # -- statements

    def untyped(self, value: object) -> object:
        return as_text(value)

    def insert_unless(
        self, statement: Insert, columns: list[Column[Any]], where: str | None = None
    ) -> Insert:
        same = dialect_insert(statement.table).values(dict(statement._values or {}))
        return same.on_conflict_do_nothing(
            index_elements=columns, index_where=None if where is None else sqlalchemy.text(where)
        )

    def among(self, column: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        # An array is made once. A plain IN may be planned as a join that runs the limited select
        # for every row, and then claims more than the limit.
        return column == any_(func.array(chosen.scalar_subquery()))

    def matches(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        escaped = re.sub(r"([\\%_])", r"\\\1", pattern).replace("*", "%")
        return column.like(escaped)

    def contains(self, column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
        return func.strpos(column, part) > 0

    # -- errors

    def translate(self, error: BaseException) -> LedgerError:
        where = self.shown
        text = " ".join(str(error).split())
        if isinstance(error, self.unique_violation):
            return LedgerError(f"{where}: {text}; nothing was written")
        if isinstance(
            error, (errors.DiskFull, errors.OutOfMemory, errors.ConfigurationLimitExceeded)
        ):
            return LedgerFull(
                f"the server of {where} has no room left ({text}); nothing was written"
            )
        if isinstance(error, (errors.LockNotAvailable, errors.QueryCanceled)):
            return LedgerUnavailable(
                f"{where} stayed locked by another program; nothing was written"
            )
        if isinstance(error, (errors.DeadlockDetected, errors.SerializationFailure)):
            return LedgerUnavailable(
                f"{where} undid the transaction for the sake of another ({text}); nothing was"
                " written",
                passing=True,
            )
        if isinstance(
            error, (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName)
        ):
            return SchemaMismatch(
                f"{where} lacks failbetter's tables ({text}); run `failbetter migrate`"
            )
        if isinstance(error, errors.InsufficientPrivilege):
            return LedgerError(f"{where} does not let this user do that ({text})")
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return LedgerUnavailable(
                f"{where} is read-only now, as a standby is; nothing was written", passing=True
            )
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return LedgerUnavailable(
                f"{where} is out of reach: {text or type(error).__name__}",
                passing=not _refused(text),
            )
        return LedgerUnavailable(f"{where}: {text}; nothing was written")


# What the server says to whom it will never let in. Its other refusals pass: it is starting,
# stopping, or has no connection left.
_refused = re.compile(
    r"authentication failed|pg_hba\.conf|no password supplied|(database|role) .* does not exist"
).search


def _threshold(text: str) -> int | None:
    """After how many uses a statement is prepared on the server; `none`: never, for poolers."""
    if text.lower() == "none":
        return None
    if not text.isdigit():
        raise ConfigurationError(
            f"prepare_threshold in the ledger's URL is a whole number or none, not {text!r}"
        )
    return int(text)


# Steady, and where there is one it goes on while the machine sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The server's clock, told by this host's steady one since they were last compared.

    Times in microseconds. Until they are compared it is this host's own time.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._compared = 0

    @property
    def is_set(self) -> bool:
        """Whether they were ever compared."""
        return self._offset is not None

    @property
    def is_old(self) -> bool:
        """Whether they should be compared anew, as no two clocks go alike."""
        return _steady() - self._compared > _COMPARE_EVERY

    def set(self, now: int) -> None:
        """It is `now` on the server."""
        self._compared = _steady()
        self._offset = now - self._compared

    def now(self) -> int:
        """The server's time."""
        if self._offset is None:
            return time.time_ns() // 1000
        return _steady() + self._offset


def _steady() -> int:
    return time.clock_gettime_ns(_STEADY) // 1000


class _Connection(psycopg.Connection[Any]):
    """A connection that does not wait for ever, whatever the server or the network does."""

    patience = _SILENCE

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


class _Text(StrDumper):
    """PostgreSQL keeps no NUL in a text, which an error's message may well have."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\x00", "\ufffd") if "\x00" in obj else obj)


class _UntypedText(StrDumperUnknown):
    """As _Text, for columns of others: without a type, so that theirs decides."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\x00", "\ufffd") if "\x00" in obj else obj)


class _Untyped(str):
    """A text to be sent without a type."""


class PostgresTx(Tx):
    """Runs statements on a psycopg connection; many rows at once by arrays, or by COPY."""

    def __init__(self, connection: _Connection, kind: Postgres) -> None:
        self.kind = kind
        self._cursor = connection.cursor()
        self._texts = kind.texts
        self._bulk: dict[Prepared, Bulk] = {}
        self.lock_limit = 0
        """Milliseconds that this transaction waits for a lock."""

    def run(self, statement: Prepared, *values: object) -> int:
        return self._cursor.execute(self._texts.of(statement), values or None).rowcount

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._cursor.execute(self._texts.of(statement), values or None)
        return cursor.fetchall() if cursor.description else []

    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        return self._cursor.execute(self._texts.of(statement), values or None).fetchone()

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        if len(rows) < _FEW:
            return sum(self.run(statement, *row) for row in rows)
        bulk = self._bulk.get(statement)
        if bulk is None:
            made = statement.on(self.kind)
            bulk = self._bulk[statement] = bulk_of(made, statement.order, self._texts)
        return bulk(self._cursor, rows)

    def guarded(self, statement: Prepared, *values: object) -> int:
        # In three round trips instead of six, and safe from more: constraints and triggers that
        # wait for the commit would else make it fail, and slow ones keep a supervisor waiting.
        given = [self.untyped(value) for value in values]
        cursor = self._cursor
        cursor.execute(_GUARD)
        try:
            matched = cursor.execute(self._texts.of(statement), given).rowcount
            cursor.execute(_UNGUARD.format(self.lock_limit))
        except psycopg.Error as error:
            try:
                cursor.execute("ROLLBACK TO SAVEPOINT failbetter; RELEASE SAVEPOINT failbetter")
            except psycopg.Error:
                raise error from None
            raise Undone(said(error)) from error
        return matched

    def untyped(self, value: object) -> object:
        text = as_text(value)
        return None if text is None else _Untyped(text)

    def now(self) -> int:
        return self.kind.now()

    def try_lock(self, name: str) -> bool:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        row = self._cursor.execute(
            "SELECT pg_try_advisory_xact_lock(%s::bigint)", (key,)
        ).fetchone()
        return bool(row and row[0])


_GUARD = (
    f"SAVEPOINT failbetter; SET LOCAL lock_timeout = {round(LOCK_PATIENCE * 1000)};"
    " SET LOCAL statement_timeout = 1000; SET CONSTRAINTS ALL IMMEDIATE"
)
_UNGUARD = (
    "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout TO DEFAULT;"
    " RELEASE SAVEPOINT failbetter"
)
_HELLO = (
    "SELECT current_schema(), current_setting('synchronous_commit'),"
    " current_setting('server_version_num')::int, pg_is_in_recovery(),"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    # Every statement here is short, whatever the planner fears: compiling one takes far longer.
    " FROM set_config('jit', 'off', false)"
)
# A prepared statement's plan is kept until the server next gathers statistics, which takes a minute
# or more. Made while the table was small, it would go through all of it when it no longer is.
_BY_SEEKS = "".join(
    f"; SET LOCAL enable_{way} = off" for way in ("seqscan", "hashjoin", "mergejoin")
)
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class PostgresWriter(Writer):
    """A connection in autocommit, whose transactions are begun by hand."""

    tx: PostgresTx
    _opened = 0

    def __init__(self, connection: _Connection, kind: Postgres) -> None:
        self._connection = connection
        self._kind = kind
        connection.adapters.register_dumper(str, _Text)
        connection.adapters.register_dumper(_Untyped, _UntypedText)
        row = connection.execute(_HELLO).fetchone()
        assert row is not None
        schema, sync, version, standby, now = row
        kind.found(schema, version, standby, now)
        self._sync = str(sync)
        wanted = self._wanted(True)
        if wanted is not None:
            connection.execute(f"SET synchronous_commit = {wanted}")
            self._sync = wanted
        PostgresWriter._opened += 1
        self._number = PostgresWriter._opened
        self._channel: str | None = None
        self._waits: float | None = None
        self._heard: deque[object] = deque()
        self._looked = 0.0
        self.tx = PostgresTx(connection, kind)

    def _wanted(self, durable: bool) -> str | None:
        """What synchronous_commit must be set to; None: it is right.

        Whoever runs the server may ask for more than `on` (a standby's confirmation); less than
        that is not durable.
        """
        relaxed = not (durable and self._kind.durable)
        if relaxed:
            return None if self._sync == "off" else "off"
        return "on" if self._sync == "off" else None

    def begin(self, durable: bool, timeout: float) -> None:
        if self._kind.clock.is_old:
            self._set_clock()
        wanted = self._wanted(durable)
        sync = "" if wanted is None else f"; SET LOCAL synchronous_commit = {wanted}"
        self._connection.patience = timeout + _SILENCE
        self.tx.lock_limit = int(timeout * 1000)
        self._connection.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL lock_timeout = {self.tx.lock_limit}" + _BY_SEEKS + sync
        )

    def commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except psycopg.Error as error:
            if _is_final(error):
                raise
            raise _unsure(self._kind, error) from error

    def rollback(self) -> None:
        connection = self._connection
        # Interrupted in the middle of a statement, or cut off: it cannot be used again.
        status = connection.pgconn.transaction_status
        if status == psycopg.pq.TransactionStatus.IDLE:
            return
        if status == psycopg.pq.TransactionStatus.ACTIVE:
            self._cancel()
            connection.close()
        elif not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()

    def _cancel(self) -> None:
        """So that a statement that was given up does not take effect later."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=1.0)

    @property
    def broken(self) -> bool:  # type: ignore[override]
        """Whether the connection is closed."""
        return bool(self._connection.closed)

    def alone(
        self, statement: Prepared, values: Sequence[object], timeout: float
    ) -> list[tuple[Any, ...]]:
        if self._kind.clock.is_old:
            self._set_clock()
        self._limit_waits(timeout)
        self._connection.patience = timeout + _SILENCE
        try:
            return self.tx.rows(statement, *values)
        except psycopg.Error as error:
            if _is_final(error):
                raise
            raise _unsure(self._kind, error) from error

    def _limit_waits(self, timeout: float) -> None:
        """How long a statement outside a transaction may wait for a lock (s), from now on."""
        if timeout != self._waits:
            self._connection.execute(f"SET lock_timeout = {int(timeout * 1000)}")
            self._waits = timeout

    # -- news

    def tell(self) -> None:
        # On its own, never in a caller's transaction: the server lets only one transaction that
        # notifies commit at a time.
        self._connection.patience = _SILENCE
        self._connection.execute(f'NOTIFY "{channel_of(self._kind.texts.schema)}"')

    def listen(self) -> None:
        self._connection.patience = _SILENCE
        self._channel = channel_of(self._kind.texts.schema)
        self._limit_waits(_GLANCE)
        self._connection.execute(f'LISTEN "{self._channel}"')
        self._connection.add_notify_handler(self._heard.append)

    @property
    def listens(self) -> tuple[int, int] | None:
        if self._channel is None or self._connection.closed:
            return None
        return self._connection.fileno(), self._number

    def has_news(self) -> bool:
        now = time.monotonic()
        heard = self._hear()
        if not heard and now - self._looked < _LOOK_EVERY:
            return False
        self._looked = now
        return True

    def _hear(self) -> bool:
        pgconn = self._connection.pgconn
        pgconn.consume_input()
        while pgconn.notifies() is not None:
            self._heard.append(None)
        heard = bool(self._heard)
        self._heard.clear()
        return heard

    def _set_clock(self) -> None:
        self._connection.patience = _SILENCE
        row = self._connection.execute(_CLOCK).fetchone()
        assert row is not None
        self._kind.clock.set(row[0])

    def abandon(self) -> None:
        """Nothing: what is kept open in a forked process disturbs its parent in no way."""

    def close(self) -> None:
        self._connection.close()


def channel_of(schema: str | None) -> str:
    """The channel on which workers of a ledger are told that there is work."""
    return f"failbetter_{schema or 'public'}"[:63]


def _is_final(error: psycopg.Error) -> bool:
    """Whether the server itself has said that the transaction was undone.

    A connection that breaks says nothing, and a server that is shut down (57P01 and the like) may
    have written it already.
    """
    state = error.sqlstate
    return state is not None and not state.startswith("57P")


def _unsure(kind: Postgres, error: psycopg.Error) -> LedgerUnavailable:
    """A commit whose outcome is not known, because the connection broke."""
    text = " ".join(str(error).split())
    return LedgerUnavailable(
        f"the connection to {kind.shown} broke during a commit ({text}), so that it is not known"
        " whether it was done",
        passing=True,
        in_doubt=True,
    )
