"""The kind itself: where the server is, how statements differ there, what its errors mean."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy
from psycopg import errors
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Text,
    any_,
    case,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB
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
from failbetter.ledger.kinds.base import LOCK_PATIENCE, Kind, Tx, as_text
from failbetter.ledger.kinds.clock import Clock
from failbetter.ledger.kinds.meeting import folder_of
from failbetter.ledger.kinds.postgres.connection import BoundedConnection, PostgresWriter
from failbetter.ledger.prepared import ZERO, Prepared, Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import URL, ColumnElement, Connection, Select
    from sqlalchemy.engine.interfaces import Dialect

OLDEST = 130_000
CONNECT_TIMEOUT = 5
# The key of the advisory lock under which the schema is changed.
_MIGRATION = 7_235_409_116_318_522_977


class Postgres(Kind):
    """A database on a PostgreSQL server, 13 or newer."""

    name = "postgresql"
    driver_errors = (psycopg.Error,)
    unique_violation = (errors.UniqueViolation,)
    walks_indexes = True
    # SKIP LOCKED does not do it alone. A claim that began before another was committed sees what
    # that took still waiting, and locks its new row before it finds out; then the ending of that
    # job waits until the claimer commits. The age of no transaction at all is beyond all others.
    left_alone = (literal_column("age(xmax) > 1000", Boolean),)
    # Each claim walks past all that others are just claiming. With few at it at a time (see
    # `fleet.Turn`), fewer and larger claims cost less: 240 took a fifth more a job with 50 workers.
    most_claimed = 500
    outlived = True
    tells_elsewhere = True
    in_order = Prepared(
        sqlalchemy.text(
            "SELECT set_config('enable_sort', 'off', true),"
            " set_config('enable_bitmapscan', 'off', true)"
        )
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
        connection = BoundedConnection.connect(autocommit=True, **self._arguments)
        try:
            writer = PostgresWriter(connection, self)
        except BaseException:
            connection.close()
            raise
        return writer

    def found(self, schema: str | None, version: int, standby: bool) -> None:
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

    def now(self) -> int:
        return self.clock.now()

    @property
    def knows_time(self) -> bool:
        return self.clock.is_set

    def fleet_folder(self) -> Path:
        return folder_of(self.url, self.schema)

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

    @contextlib.contextmanager
    def transaction(self, folder: Path, timeout: float) -> Iterator[Connection]:
        # The user's own tables are where the connection's search path finds them.
        plain = self.engine.execution_options(schema_translate_map=None)
        with plain.connect() as connection:
            if self.durable:
                connection.exec_driver_sql(_DURABLE)
            yield connection

    # -- statements

    @contextlib.contextmanager
    def impatient(self, tx: Tx) -> Iterator[None]:
        before = tx.row(_LOCK_LIMIT)
        tx.row(_SET_LOCK_LIMIT, f"{round(LOCK_PATIENCE * 1000)}ms")
        yield
        # After an error the savepoint's rollback restores it.
        tx.row(_SET_LOCK_LIMIT, before and before[0])

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

    def listed(self, column: ColumnElement[Any], texts: ColumnElement[Any]) -> ColumnElement[bool]:
        each = func.jsonb_array_elements_text(cast(texts, JSONB))
        return column.in_(select(each.column_valued("text")))

    def numbered(
        self, column: ColumnElement[Any], numbers: ColumnElement[Any]
    ) -> ColumnElement[bool]:
        each = func.jsonb_array_elements_text(cast(numbers, JSONB)).column_valued("number")
        return self.among(column, select(cast(each, BigInteger)))

    def matches(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        escaped = re.sub(r"([\\%_])", r"\\\1", pattern).replace("*", "%")
        return column.like(escaped)

    def member(self, column: ColumnElement[Any], path: Sequence[str]) -> ColumnElement[str]:
        found: ColumnElement[Any] = cast(column, JSON)
        for name in path[:-1]:
            found = found.op("->")(cast(name, Text))
        last = cast(path[-1], Text)
        # A JSON null is no text; and a text with a NUL, which is none here, would be an error.
        null = cast(found.op("->")(last), Text)
        text = func.coalesce(found.op("->>", return_type=Text())(last), null)
        return case((func.strpos(column, r"\u0000") > ZERO, None), else_=text)

    def contains(
        self, column: ColumnElement[Any], part: str | ColumnElement[str]
    ) -> ColumnElement[bool]:
        return func.strpos(column, part) > ZERO

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


_LOCK_LIMIT = Prepared(sqlalchemy.text("SELECT current_setting('lock_timeout')"))
_SET_LOCK_LIMIT = Prepared(
    sqlalchemy.text("SELECT set_config('lock_timeout', :limit_, true)"), "limit"
)
# Whoever runs the server may ask for more than `on`.
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)

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
