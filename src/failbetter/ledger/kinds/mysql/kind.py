"""The kind itself: where the server is, how statements differ there, what its errors mean."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pymysql
import sqlalchemy
from pymysql.constants import CR, ER
from sqlalchemy import Column, case, collate, exc, func, literal_column, select
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.sql import Insert

from failbetter.errors import (
    ConfigurationError,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
    SchemaMismatch,
)
from failbetter.ledger.kinds.base import ROLLBACK_TO, Kind, Tx
from failbetter.ledger.kinds.clock import Clock
from failbetter.ledger.kinds.meeting import folder_of
from failbetter.ledger.kinds.mysql import listed, tables, taking, unless
from failbetter.ledger.kinds.mysql.connection import (
    LOCKED_OUT,
    MySQLWriter,
    adapt,
    lock_name,
    open_connection,
)
from failbetter.ledger.prepared import ZERO, Prepared, Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import URL, ColumnElement, Connection, Select

OLDEST_MARIADB = (10, 6)
OLDEST_MYSQL = (8, 0, 17)
CONNECT_TIMEOUT = 5


class MySQL(Kind):
    """A database on a MySQL server, 8.0.17 or newer, or MariaDB, 10.6 or newer."""

    name = "mysql"
    driver_errors = (pymysql.Error,)
    unique_violation = (pymysql.err.IntegrityError,)
    seeks_next = False
    most_claimed = 500
    outlived = True

    def __init__(self, url: URL, *, durable: bool, schema: str | None) -> None:
        if url.drivername in ("mysql", "mariadb", "mariadb+pymysql"):
            url = url.set(drivername="mysql+pymysql")
        if url.drivername != "mysql+pymysql":
            raise ConfigurationError(
                f"a ledger on {url.drivername} is not supported; use mysql+pymysql://…, which is"
                " PyMySQL (your application may use another driver beside it)"
            )
        if schema is not None:
            raise ConfigurationError(
                "on MySQL and MariaDB a schema is a database: name that in the ledger's URL instead"
            )
        if not url.database:
            raise ConfigurationError(
                "the ledger's URL must name a database: mysql+pymysql://USER@HOST/DATABASE"
            )
        super().__init__(url, durable=durable, schema=None)
        self.clock = Clock()
        self._is_mariadb: bool | None = None
        self._texts: Texts | None = None
        dialect: Any = MySQLDialect_pymysql
        self._dialect = dialect(paramstyle="format")
        self._dialect.dbapi = pymysql
        ours = {"connect_timeout": CONNECT_TIMEOUT, "charset": "utf8mb4"}
        self.arguments: dict[str, Any] = {**ours, **self._dialect.create_connect_args(url)[1]}
        self.engine = sqlalchemy.create_engine(
            url,
            connect_args=ours,
            pool_size=2,
            max_overflow=8,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
        )
        tables.adapt(self.engine)
        adapt(self.engine)

    @property
    def texts(self) -> Texts:  # type: ignore[override]
        """The statements, with the database named: they also run on callers' own connections."""
        assert self._texts is not None, "not connected yet"
        return self._texts

    def writer(self, folder: Path) -> MySQLWriter:
        try:
            connection = open_connection(self.arguments)
        except RuntimeError as error:  # the driver's, where it lacks what a login needs
            raise ConfigurationError(f"{self.shown}: {error}") from error
        try:
            return MySQLWriter(connection, self)
        except BaseException:
            connection.drop()
            raise

    def found(self, version: str) -> None:
        """What a new connection has found of the server. Raises what makes it of no use."""
        self._is_mariadb = "mariadb" in version.lower()
        numbers = version.removeprefix("5.5.5-") if self.is_mariadb else version
        parts = tuple(int(part) for part in re.findall(r"\d+", numbers)[:3])
        if parts < (OLDEST_MARIADB if self.is_mariadb else OLDEST_MYSQL):
            raise ConfigurationError(
                f"{self.shown} is {version}; failbetter needs MySQL 8.0.17 or newer, or"
                " MariaDB 10.6 or newer"
            )
        if self._texts is None:
            self._texts = Texts(self, self._dialect, self.url.database)

    @property
    def is_mariadb(self) -> bool:
        """Which of the two it is; asked for if no writer has connected yet."""
        if self._is_mariadb is None:
            try:
                with self.engine.connect() as connection:
                    dialect: Any = connection.dialect
                    self._is_mariadb = bool(dialect.is_mariadb)
            except exc.DBAPIError as error:
                raise self.translate(error.orig or error) from error
        return self._is_mariadb

    def now(self) -> int:
        return self.clock.now()

    @property
    def knows_time(self) -> bool:
        return self.clock.is_set

    def fleet_folder(self) -> Path:
        return folder_of(self.url, None)

    @contextlib.contextmanager
    def migrating(self, folder: Path) -> Iterator[Connection]:
        name = lock_name(self.url.database, "migration")
        with self.engine.connect() as connection:
            # Waited for without a limit: whoever has it is at work, or the server ends it.
            while not connection.execute(select(func.get_lock(name, 60))).scalar():
                pass
            try:
                yield connection.execution_options(**{tables.MIGRATING: True})
                connection.commit()
            finally:
                # With its session: what was interrupted may not be in a state to be asked.
                connection.invalidate()

    @contextlib.contextmanager
    def transaction(self, folder: Path, timeout: float) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection

    # -- statements

    def check_savepoint(self, tx: Tx) -> None:
        # In a caller's connection that is in autocommit it is gone with its own statement.
        if not tx.may_undo:
            tx.run(ROLLBACK_TO)

    @contextlib.contextmanager
    def impatient(self, tx: Tx) -> Iterator[None]:
        before = tx.rows(_LOCK_LIMITS)[0]
        least = 0 if self.is_mariadb else 1
        tx.run(_SET_LOCK_LIMITS, least, least)
        try:
            yield
        finally:
            tx.run(_SET_LOCK_LIMITS, *before)

    def latest(self, statement: Select[Any]) -> Select[Any]:
        # By default a transaction here sees what there was when it began, but runs into what there
        # is. Only a read that locks sees that.
        return statement.with_for_update(read=True)

    def insert_unless(
        self, statement: Insert, columns: list[Column[Any]], where: str | None = None
    ) -> Insert:
        return unless.Unless.of(statement, columns)

    def is_refusal(self, statement: Prepared, error: BaseException) -> bool:
        made = statement.on(self)
        if not isinstance(made, unless.Unless) or _code(error) != ER.DUP_ENTRY:
            return False
        return made.is_met_by(_text(error))

    def among(self, column: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
        return taking.among(column, chosen)

    def listed(self, column: ColumnElement[Any], texts: ColumnElement[Any]) -> ColumnElement[bool]:
        return listed.is_listed(column, texts)

    def numbered(
        self, column: ColumnElement[Any], numbers: ColumnElement[Any]
    ) -> ColumnElement[bool]:
        return listed.is_listed(column, numbers)

    def matches(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        escaped = re.sub(r"([|%_])", r"|\1", pattern).replace("*", "%")
        return column.like(escaped, escape="|")

    def member(self, column: ColumnElement[Any], path: Sequence[str]) -> ColumnElement[str]:
        at = "$" + "".join("." + json.dumps(name, ensure_ascii=False) for name in path)
        found: ColumnElement[Any] = func.json_extract(column, at)
        told: ColumnElement[Any] = func.json_unquote(found)
        if self.is_mariadb:
            # It puts blanks between the members of a list, and puts them back when unquoting.
            is_text = func.json_type(found) == literal_column("'STRING'")
            told = case((is_text, told), else_=func.json_compact(found))
        # A text with a NUL is no text on other servers.
        told = case((func.instr(found, r"\u0000") > ZERO, None), else_=told)
        return collate(told, tables.collation(is_mariadb=self.is_mariadb))

    def contains(
        self, column: ColumnElement[Any], part: str | ColumnElement[str]
    ) -> ColumnElement[bool]:
        return func.instr(column, part) > ZERO

    # -- errors

    def is_locked_out(self, error: BaseException | None) -> bool:
        """Whether a lock was not had in time."""
        return _code(error) in LOCKED_OUT

    def is_final(self, error: pymysql.Error) -> bool:
        """Whether the server itself has said that the transaction was undone.

        A connection that breaks says nothing, and a server that is shut down may have written it.
        """
        return _code(error) >= 1000 and _code(error) not in _GONE

    def translate(self, error: BaseException) -> LedgerError:
        where = self.shown
        code = _code(error)
        text = _text(error)
        if isinstance(error, self.unique_violation):
            return LedgerError(f"{where}: {text}; nothing was written")
        if code in _FULL or (code in _WRITING and _no_space(text)):
            return LedgerFull(
                f"the server of {where} has no room left ({text}); nothing was written"
            )
        if code in LOCKED_OUT or code in _INTERRUPTED:
            return LedgerUnavailable(
                f"{where} stayed locked by another program; nothing was written"
            )
        if code in _UNDONE:
            return LedgerUnavailable(
                f"{where} undid the transaction for the sake of another ({text}); nothing was"
                " written",
                passing=True,
            )
        if code in (ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR):
            return SchemaMismatch(
                f"{where} lacks failbetter's tables ({text}); run `failbetter migrate`"
            )
        if code in _FORBIDDEN:
            return LedgerError(f"{where} does not let this user do that ({text})")
        if code == ER.NET_PACKET_TOO_LARGE:
            return LedgerError(
                f"{where} takes no more at once than its max_allowed_packet; nothing was written"
            )
        if code in _READ_ONLY:
            return LedgerUnavailable(
                f"{where} is read-only now, as a replica is; nothing was written", passing=True
            )
        if code in _REFUSED:
            return LedgerUnavailable(f"{where} is out of reach: {text}", passing=False)
        if code < 1000 or code in _GONE or code in _BUSY:
            return LedgerUnavailable(
                f"{where} is out of reach: {text or type(error).__name__}", passing=True
            )
        return LedgerUnavailable(f"{where}: {text}; nothing was written")


def _code(error: BaseException | None) -> int:
    """The number of a driver's error, or of one around it; 0: it has none."""
    inner = getattr(error, "orig", None) or error
    found = inner.args[0] if inner is not None and inner.args else 0
    return found if isinstance(found, int) else 0


def _text(error: BaseException) -> str:
    """What the server says, in one line."""
    inner = getattr(error, "orig", None) or error
    return " ".join(str(inner.args[1] if len(inner.args) > 1 else inner).split())[:500]


_LOCK_LIMITS = Prepared(
    sqlalchemy.text("SELECT @@SESSION.innodb_lock_wait_timeout, @@SESSION.lock_wait_timeout")
)
_SET_LOCK_LIMITS = Prepared(
    sqlalchemy.text(
        "SET SESSION innodb_lock_wait_timeout = :rows_, SESSION lock_wait_timeout = :tables_"
    ),
    "rows tables",
)
_FULL = {
    ER.DISK_FULL,
    ER.RECORD_FILE_FULL,
    ER.OUTOFMEMORY,
    ER.OUT_OF_SORTMEMORY,
    ER.OUT_OF_RESOURCES,
}
# They are said of many things, of which a full disk is one.
_WRITING = {3, ER.ERROR_ON_WRITE, ER.GET_ERRNO, ER.CANT_CREATE_TABLE, ER.CANT_CREATE_FILE}
_no_space = re.compile(r"\b28\b|No space left").search
# MariaDB and MySQL each have numbers of their own for a statement that took too long.
_INTERRUPTED = {ER.QUERY_INTERRUPTED, 1969, 3024}
_UNDONE = {ER.LOCK_DEADLOCK, ER.CHECKREAD, ER.TABLE_DEF_CHANGED}
_FORBIDDEN = {
    ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR,
}
_READ_ONLY = {ER.OPTION_PREVENTS_STATEMENT, 1792, 1836}
# What the server says to whom it will never let in.
_REFUSED = {
    ER.ACCESS_DENIED_ERROR,
    ER.DBACCESS_DENIED_ERROR,
    ER.BAD_DB_ERROR,
    ER.HOST_NOT_PRIVILEGED,
    1698,
}
# The server ends, or has ended this session; MariaDB, MySQL, and the driver say it differently.
_GONE = {
    ER.SERVER_SHUTDOWN,
    ER.NORMAL_SHUTDOWN,
    ER.SHUTDOWN_COMPLETE,
    ER.FORCING_CLOSE,
    ER.ABORTING_CONNECTION,
    ER.NEW_ABORTING_CONNECTION,
    ER.QUERY_INTERRUPTED,
    ER.UNKNOWN_COM_ERROR,
    1927,
    4031,
    CR.CR_CONNECTION_ERROR,
    CR.CR_CONN_HOST_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
}
_BUSY = {ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED}
