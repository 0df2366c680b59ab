"""A database of the user's own, as the mirror meets it: perhaps another than the ledger's.

Through SQLAlchemy, so of any kind that it knows. Nothing here waits for long: for a connection,
an answer or a lock there are seconds, and then it is tried again later.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Connection, event, exc, text

from failbetter.errors import ConfigurationError
from failbetter.ledger.kinds import as_text, said
from failbetter.ledger.mirrors import of_key, table_name, update_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import URL, Engine
    from sqlalchemy.engine.interfaces import Dialect

    from failbetter.ledger.mirrors import Seen, Spec

# Seconds.
_CONNECT = 5
_LOCK = 1
_ANSWER = 5
# After so many rows that cannot be written the rest of a batch must wait, not be waited for.
_MOST_REFUSED = 5


class Unreachable(Exception):
    """The database cannot be asked just now; nothing was written. The text holds no password."""


def check_url(url: str) -> str:
    """The URL as it may be shown. Raises ConfigurationError for one that no mirror can be in."""
    try:
        parsed = sqlalchemy.make_url(url)
        dialect: Any = parsed.get_dialect()
    except (exc.ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise ConfigurationError("the mirror's URL is no URL of a database") from None
    if getattr(dialect, "is_async", False):
        raise ConfigurationError(
            f"the mirror's rows are written by a worker, with a driver that is not async; give"
            f" another than {parsed.drivername}"
        )
    return parsed.render_as_string(hide_password=True)


class Elsewhere:
    """A database with mirrored rows. Opens its connection when it is first used.

    `shown`: its name without a password. Use from one thread at a time.
    """

    def __init__(self, url: str | Engine) -> None:
        self._engine: Engine | None = None if isinstance(url, str) else url
        self._is_own = not isinstance(url, str)
        self._url: URL = sqlalchemy.make_url(url) if isinstance(url, str) else url.url
        self.shown = self._url.render_as_string(hide_password=True)

    def write(
        self, rows: Sequence[Seen], may_go_on: Callable[[], bool] = lambda: True
    ) -> list[str | None]:
        """Write rows, all in one transaction; of each that could not be written, why.

        `may_go_on` is asked once more before the commit. Raises Unreachable; then, as when it
        may not, nothing is written.
        """
        answers: list[str | None] = []
        refused = 0
        with self._reached(), self._connect() as connection:
            for row in rows:
                if refused >= _MOST_REFUSED:
                    answers.append("others could not be written, so that this was not tried")
                    continue
                answers.append(self._write_one(connection, row))
                refused += answers[-1] is not None
            if not may_go_on():
                raise Unreachable("it took too long; somebody else may be at it by now")
            connection.commit()
        return answers

    def _write_one(self, connection: Connection, row: Seen) -> str | None:
        spec = row.spec
        dialect = connection.dialect
        statement = update_text(spec.table, spec.key, spec.columns, dialect)
        given = {f"c{at}_": _fit(one, dialect) for at, one in enumerate(row.values(dialect.name))}
        given |= _keys(spec, dialect)
        try:
            with connection.begin_nested():
                connection.execute(statement, given)
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            return said(error)
        return None

    def read(self, row: Seen) -> list[tuple[Any, ...]]:
        """What the mirrored columns hold: a tuple for each row that has the key.

        Raises Unreachable, LookupError when the table cannot be read so.
        """
        spec = row.spec
        with self._reached(), self._connect() as connection:
            dialect = connection.dialect
            quote = dialect.identifier_preparer.quote
            columns = ", ".join(quote(name) for name in spec.columns)
            statement = text(
                f"SELECT {columns} FROM {table_name(spec.table, dialect)}"
                f" WHERE {of_key(spec.key, dialect)}"
            )
            try:
                found = connection.execute(statement, _keys(spec, dialect))
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise
                raise LookupError(said(error)) from None
            return [tuple(each) for each in found]

    def reach(self) -> None:
        """Raises Unreachable unless it answers."""
        with self._reached(), self._connect() as connection:
            connection.execute(text("SELECT 1"))

    def _connect(self) -> Connection:
        if self._engine is None:
            self._engine = _new_engine(self._url)
        connection = self._engine.connect()
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = {_LOCK * 1000}"))
            connection.execute(text(f"SET LOCAL statement_timeout = {_ANSWER * 1000}"))
        elif connection.dialect.name in ("mysql", "mariadb"):
            connection.execute(text(f"SET SESSION innodb_lock_wait_timeout = {_LOCK}"))
        return connection

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (exc.SQLAlchemyError, ImportError) as error:  # the latter: its driver is not here
            why = said(error)
            if self._url.password:
                why = why.replace(str(self._url.password), "***")
            raise Unreachable(f"{self.shown}: {why}") from None

    def close(self) -> None:
        """Close its connections, if they are its own."""
        if self._engine is not None and not self._is_own:
            self._engine.dispose()


def _new_engine(url: URL) -> Engine:
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=_patience(url))
    if engine.dialect.name == "sqlite":
        # Python's driver begins a transaction only with the first change, so that a savepoint
        # before it would be the transaction, and its release the commit.
        event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _patience(url: URL) -> dict[str, Any]:
    """The driver's own limits, for a network or a server that says nothing any more."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"timeout": _LOCK}
    if backend in ("mysql", "mariadb"):
        limits = {"connect_timeout": _CONNECT}
        if url.get_driver_name() == "pymysql":
            limits |= {"read_timeout": 2 * _ANSWER, "write_timeout": 2 * _ANSWER}
        return limits
    if backend == "postgresql" and url.get_driver_name() in ("psycopg", "psycopg2"):
        given = {
            "connect_timeout": _CONNECT,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 2 * _ANSWER * 1000,
        }
        return {name: value for name, value in given.items() if name not in url.query}
    return {}


def _keys(spec: Spec, dialect: Dialect) -> dict[str, object]:
    """The parameters of `of_key`."""
    # MySQL compares a number with a text as numbers, and can then use no index.
    as_given = dialect.name not in ("mysql", "mariadb")
    key, also = (_fit(one, dialect) if as_given else as_text(one) for one in spec.keys)
    return {"key_": key, "also_": also}


def _fit(value: object, dialect: Dialect) -> object:
    """A value for a column of unknown type."""
    return as_text(value) if dialect.name == "postgresql" else value
