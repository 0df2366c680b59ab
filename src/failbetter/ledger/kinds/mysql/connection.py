"""The writing connection: its transactions, many rows at once, its patience, and the news."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CLIENT, ER
from sqlalchemy import Insert, Update, event, func, select

from failbetter.errors import LedgerUnavailable
from failbetter.ledger.kinds.base import LOCK_PATIENCE, Tx, Undone, Writer, said
from failbetter.ledger.kinds.mysql import listed
from failbetter.ledger.kinds.mysql.taking import Taking
from failbetter.ledger.prepared import Prepared
from failbetter.ledger.schema import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from failbetter.ledger.kinds.mysql.kind import MySQL

# Seconds beyond what may be waited for a lock: a server or a network that says nothing for so
# long is given up, since a supervisor has children to look after meanwhile.
_SILENCE = 5.0
# Seconds after which the server ends a transaction in which nothing happens. Whoever began it is
# frozen or cut off, and what it has locked would be nobody's to hand on.
_FROZEN = 4
# What is kept open without a transaction may be silent for so long, as by default (s).
_IDLE = 28_800
# A worker looks for itself this often (s), for what the number of the newest job does not tell of.
_LOOK_EVERY = 0.5
# And asks for that number no more often than this.
_ASK_EVERY = 0.03
_MANY = "failbetter_many"
# Statements or rows that are sent together: so many bytes, of what the server takes at once.
_AT_ONCE = 1_000_000


class Connection(pymysql.connections.Connection):
    """A connection that does not wait for ever, and knows whether it is in the middle of one.

    `patience`: how long the server may say nothing (s).
    """

    _read_timeout: float | None
    busy = False
    """Whether a statement was sent whose answer was not read to its end."""

    @property
    def patience(self) -> float | None:
        """Seconds that the server may say nothing."""
        return self._read_timeout

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._read_timeout = seconds
        self._write_timeout = seconds

    def _create_ssl_ctx(self, given: Any) -> ssl.SSLContext:
        # Where nothing is asked for, whatever the server offers is taken, and no certificate is
        # looked at: to read all that the host trusts would take many times as long as to connect.
        made: ssl.SSLContext = _unverified() if given == {} else super()._create_ssl_ctx(given)  # type: ignore[misc]
        return made

    def drop(self) -> None:
        """Close it without a word to the server."""
        self._force_close()  # type: ignore[attr-defined]

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        """Run a statement as it stands; the rows, if it returns any."""
        self.busy = True
        try:
            with self.cursor() as cursor:
                cursor.execute(text)
                rows = list(cursor.fetchall())
        except pymysql.Error:
            self.busy = False  # the server has answered, or the connection is closed
            raise
        self.busy = False
        return rows


@functools.cache
def _unverified() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def open_connection(arguments: dict[str, Any]) -> Connection:
    """A connection in autocommit. Raises as the driver does."""
    flags = arguments.get("client_flag", 0) | CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS
    connection = Connection(**{**arguments, "client_flag": flags, "autocommit": True})
    listed.adapt(connection)
    limit_silence(connection)
    return connection


def adapt(engine: Engine) -> None:
    """Have an engine open its connections as ours are."""
    event.listen(engine, "do_connect", lambda _, __, args, given: Connection(*args, **given))
    event.listen(engine, "connect", lambda found, _: limit_silence(found))


def limit_silence(connection: Any) -> None:
    """Have the kernel give up a peer that is gone, as no query's timeout would."""
    sock = connection._sock
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)


class MySQLTx(Tx):
    """Runs statements on a connection of PyMySQL; many of a kind are sent together."""

    def __init__(self, connection: Connection, kind: MySQL) -> None:
        self.kind: MySQL = kind
        self._connection = connection
        self._cursor = connection.cursor()
        self._texts = kind.texts
        self._taking: dict[Prepared, Taking | None] = {}
        self._lists: dict[Prepared, tuple[int, ...]] = {}
        self.has_locks = False
        """Whether `try_lock` has been given any."""

    def _execute(self, text: str, values: Sequence[object] | None) -> int:
        connection = self._connection
        connection.busy = True
        try:
            count = self._cursor.execute(text, values)
        except pymysql.Error:
            connection.busy = False
            raise
        connection.busy = False
        return int(count)

    def run(self, statement: Prepared, *values: object) -> int:
        try:
            return self._execute(self._texts.of(statement), self._read(statement, values))
        except pymysql.err.IntegrityError as error:
            if not self.kind.is_refusal(statement, error):
                raise
            return 0

    def rows(self, statement: Prepared, *values: object) -> list[tuple[Any, ...]]:
        given = self._read(statement, values)
        taking = self._taking_of(statement)
        if taking is not None:
            return taking.run(self._fetch, given)
        return self._fetch(self._texts.of(statement), given)

    def row(self, statement: Prepared, *values: object) -> tuple[Any, ...] | None:
        found = self.rows(statement, *values)
        return found[0] if found else None

    def _fetch(self, text: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        self._execute(text, values)
        return list(self._cursor.fetchall())

    def _read(self, statement: Prepared, values: Sequence[object]) -> Sequence[object]:
        """The parameters, with the lists among them read."""
        places = self._lists.get(statement)
        if places is None:
            places = listed.places(self._texts, statement.on(self.kind))
            self._lists[statement] = places
        return listed.read(places, values)

    def _taking_of(self, statement: Prepared) -> Taking | None:
        """How it is done in steps, if it is an update that returns rows."""
        if statement not in self._taking:
            made = statement.on(self.kind)
            is_one = isinstance(made, Update) and bool(made._returning)
            self._taking[statement] = (
                Taking(made, statement.order, self._texts) if is_one else None  # type: ignore[arg-type]
            )
        return self._taking[statement]

    def many(self, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
        if not rows:
            return 0
        text = self._texts.of(statement)
        if not isinstance(statement.on(self.kind), Insert):
            return sum(map(self._all, self._packets(text, ";", rows)))
        head, values = text.split(" VALUES ", 1)
        packets = [f"{head} VALUES {packet}" for packet in self._packets(values, ",", rows)]
        if len(packets) == 1:
            return self._insert_all(statement, packets, rows)
        self._execute(f"SAVEPOINT {_MANY}", None)  # not the other one: that may be in use
        count = self._insert_all(statement, packets, rows)
        self._execute(f"RELEASE SAVEPOINT {_MANY}", None)
        return count

    def _insert_all(
        self, statement: Prepared, packets: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> int:
        try:
            return sum(self._execute(packet, None) for packet in packets)
        except pymysql.err.IntegrityError as error:
            if not self.kind.is_refusal(statement, error):
                raise
        # Some are there already, so that none of that packet was inserted: once more, one by one.
        if len(packets) > 1:
            self._execute(f"ROLLBACK TO SAVEPOINT {_MANY}", None)
        return sum(self.run(statement, *row) for row in rows)

    def _packets(self, text: str, between: str, rows: Sequence[Sequence[object]]) -> Iterator[str]:
        """The text filled in with each row, as many of them at a time as fit into a packet."""
        mogrify = self._cursor.mogrify
        parts: list[str] = []
        size = 0
        for row in rows:
            part = mogrify(text, row)
            if parts and size + len(part) > _AT_ONCE:
                yield between.join(parts)
                parts, size = [], 0
            parts.append(part)
            size += len(part)
        yield between.join(parts)

    def _all(self, texts: str) -> int:
        """Run several statements in one round trip; the rows that they have matched."""
        connection = self._connection
        connection.busy = True
        cursor = self._cursor
        try:
            count = cursor.execute(texts)
            while cursor.nextset():
                count += cursor.rowcount
        except pymysql.Error:
            connection.busy = False
            raise
        connection.busy = False
        return int(count)

    def guarded(self, statement: Prepared, *values: object) -> int:
        # These servers count their patience in whole seconds. Where none at all is possible, it
        # is asked again for as long as is meant.
        limit = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                return super().guarded(statement, *values)
            except Undone as error:
                locked = self.kind.is_locked_out(error.__cause__)
                if not (locked and self.kind.is_mariadb and time.monotonic() < limit):
                    raise
            time.sleep(LOCK_PATIENCE / 10)

    def now(self) -> int:
        return self.kind.now()

    def try_lock(self, name: str) -> bool:
        self.has_locks = True
        found = self._fetch("SELECT GET_LOCK(%s, 0)", (lock_name(self._texts.schema, name),))
        return bool(found[0][0])


def lock_name(database: str | None, name: str) -> str:
    """A name for a lock of the server, which knows of no databases: 64 characters at most."""
    return "failbetter " + hashlib.sha256(f"{database} {name}".encode()).hexdigest()[:40]


_HELLO = "SELECT VERSION(), CONNECTION_ID()"
_SESSION = (
    # A claim locks what it takes and nothing else: above this level, also the gaps beside it, so
    # that producers and other workers would wait, or be undone.
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;"
    # Whatever the server's default: statements here are written for this.
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00'"
)
_SEEK = "exists_to_in=off"
_CLOCK = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
NEWEST = Prepared(select(func.max(jobs.c.id)))


class MySQLWriter(Writer):
    """A connection in autocommit, whose transactions are begun by hand."""

    tx: MySQLTx

    def __init__(self, connection: Connection, kind: MySQL) -> None:
        self._connection = connection
        self._kind = kind
        connection.patience = _SILENCE
        ((version, self._number),) = connection.ask(_HELLO)
        kind.found(str(version))
        session = _SESSION
        if kind.is_mariadb:
            # And to learn of one key whether it is taken, all that are taken would be listed.
            session += f", idle_transaction_timeout = {_FROZEN}, optimizer_switch = '{_SEEK}'"
        for text in session.split(";"):
            connection.ask(text)
        self._set_clock()
        self._waits: int | None = None
        self._newest: object = None
        self._asked = self._looked = 0.0
        self.tx = MySQLTx(connection, kind)

    def begin(self, durable: bool, timeout: float) -> None:
        if self._kind.clock.is_old:
            self._set_clock()
        self._limit_waits(timeout)
        if not self._kind.is_mariadb:
            self._connection.ask(f"SET SESSION wait_timeout = {_FROZEN}")
        self._connection.ask("START TRANSACTION")

    def _limit_waits(self, timeout: float) -> None:
        """How long a statement may wait for a lock (s), from now on."""
        self._connection.patience = max(1.0, timeout) + _SILENCE
        seconds = max(1, math.ceil(timeout))
        if seconds != self._waits:
            self._connection.ask(
                f"SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
            )
            self._waits = seconds

    def commit(self) -> None:
        try:
            self._connection.ask("COMMIT")
        except pymysql.Error as error:
            if self._kind.is_final(error):
                raise
            raise _unsure(self._kind, error) from error
        self._rest()

    def _rest(self) -> None:
        """After a transaction: what belonged to it and not to the session."""
        if self.tx.has_locks:
            self._connection.ask("SELECT RELEASE_ALL_LOCKS()")
            self.tx.has_locks = False
        if not self._kind.is_mariadb:
            self._connection.ask(f"SET SESSION wait_timeout = {_IDLE}")

    def rollback(self) -> None:
        connection = self._connection
        if connection.busy:
            # Interrupted in the middle of a statement: what it says next is no answer to us.
            self._give_up()
        elif connection.open:
            try:
                connection.ask("ROLLBACK")
                self._rest()
            except pymysql.Error:
                self._give_up()
        else:
            self._give_up()

    def _give_up(self) -> None:
        """So that a statement that was given up does not take effect later."""
        self._connection.drop()
        with contextlib.suppress(pymysql.Error, OSError):
            arguments = {**self._kind.arguments, "connect_timeout": 1, "read_timeout": 1}
            with contextlib.closing(open_connection(arguments)) as other:
                other.ask(f"KILL {self._number}")

    @property
    def broken(self) -> bool:  # type: ignore[override]
        """Whether the connection is closed."""
        return not self._connection.open

    def alone(
        self, statement: Prepared, values: Sequence[object], timeout: float
    ) -> list[tuple[Any, ...]]:
        self.begin(True, timeout)
        rows = self.tx.rows(statement, *values)
        self.commit()
        return rows

    # -- news

    def has_news(self) -> bool:
        # Ids grow with time, and the largest one is read without looking at a row: whoever
        # enqueues is seen by that. What else there may be to do is found by a look now and then.
        now = time.monotonic()
        looks = now - self._looked >= _LOOK_EVERY
        if not looks and now - self._asked < _ASK_EVERY:
            return False
        self._asked = now
        if looks:
            self._looked = now
        self._connection.patience = _SILENCE
        row = self.tx.row(NEWEST)
        before, self._newest = self._newest, row
        return looks or row != before

    def _set_clock(self) -> None:
        self._connection.patience = _SILENCE
        self._kind.clock.compare(lambda: int(self._connection.ask(_CLOCK)[0][0]))

    def abandon(self) -> None:
        """Nothing: what is kept open in a forked process disturbs its parent in no way."""

    def close(self) -> None:
        with contextlib.suppress(pymysql.Error):
            self._connection.close()


def _unsure(kind: MySQL, error: pymysql.Error) -> LedgerUnavailable:
    """A commit whose outcome is not known, because the connection broke."""
    return LedgerUnavailable(
        f"the connection to {kind.shown} broke during a commit ({said(error)}), so that it is not"
        " known whether it was done",
        passing=True,
        in_doubt=True,
    )


LOCKED_OUT = frozenset({ER.LOCK_WAIT_TIMEOUT, 3572})
"""A lock was not had in time; only the statement is undone."""
