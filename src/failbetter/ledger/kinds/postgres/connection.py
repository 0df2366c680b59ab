"""The writing connection: its transactions and bulk statements, its patience, and the news."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.string import StrDumper, StrDumperUnknown

from failbetter.errors import LedgerUnavailable
from failbetter.ledger.kinds.base import LOCK_PATIENCE, Tx, Undone, Writer, as_text, said
from failbetter.ledger.kinds.postgres.bulk import Bulk, bulk_of
from failbetter.ledger.prepared import Prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import PQGen

    from failbetter.ledger.kinds.postgres.kind import Postgres

# Seconds beyond what may be waited for a lock: a server or a network that says nothing for so
# long is given up, since a supervisor has children to look after meanwhile.
_SILENCE = 5.0
# Milliseconds after which the server ends a transaction in which nothing happens. Whoever began it
# is frozen or cut off, and what it has locked would be nobody's to hand on.
_FROZEN = 4_000
# Who listens is a supervisor, whose looks at a locked table must not take longer (s).
_GLANCE = 0.5
# A listener that hears nothing looks for itself this often: for jobs that callers' own
# transactions brought, and where a pooler between drops notifications.
_LOOK_EVERY = 0.5
# From so many rows on, all in one statement is faster than one by one.
_FEW = 4


class BoundedConnection(psycopg.Connection[Any]):
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

    def __init__(self, connection: BoundedConnection, kind: Postgres) -> None:
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
    " current_setting('server_version_num')::int, pg_is_in_recovery()"
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

    def __init__(self, connection: BoundedConnection, kind: Postgres) -> None:
        self._connection = connection
        self._kind = kind
        connection.adapters.register_dumper(str, _Text)
        connection.adapters.register_dumper(_Untyped, _UntypedText)
        row = connection.execute(_HELLO).fetchone()
        assert row is not None
        schema, sync, version, standby = row
        kind.found(schema, version, standby)
        self._set_clock()
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
            f" SET LOCAL lock_timeout = {self.tx.lock_limit};"
            f" SET LOCAL idle_in_transaction_session_timeout = {_FROZEN}" + _BY_SEEKS + sync
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

        def ask() -> int:
            row = self._connection.execute(_CLOCK).fetchone()
            assert row is not None
            return int(row[0])

        self._kind.clock.compare(ask)

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
