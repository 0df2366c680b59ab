"""The user's own row follows its job (C1, C5): in the same commit where it can, else soon after.

The job's id is all that a user is told of an error's inside (C5); the row and the job are one
commit (C6).
"""

from __future__ import annotations

import asyncio
import itertools
import re
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from tests.conformance.backends import Backend
from tests.conformance.kit import Ledger, driver_connection, ending
from tests.servers import mariadb
from tests.servers.postgres import shared_server
from tests.unit.processes import other

from failbetter import App, ids
from failbetter.errors import LedgerError
from failbetter.job import Job
from failbetter.ledger import mirrors, outbox
from failbetter.ledger.endings import Error, settle
from failbetter.lifecycle.states import Cause
from failbetter.mirror.courier import Courier
from failbetter.recovery.sweeper import Sweeper
from failbetter.task import Task

Upload = Task[[Any], None]


class Rows:
    """A table of the user's, looked at with the user's own connections."""

    def __init__(self, url: str, key: str = "INTEGER", time: str = "TIMESTAMP") -> None:
        self.url = url
        self.engine = sqlalchemy.create_engine(url)
        status = "TEXT"
        if self.engine.dialect.name == "mysql":
            status = "VARCHAR(50)"
            key = key.replace("TEXT", "VARCHAR(190) COLLATE utf8mb4_bin")
            time = {"TEXT": "TEXT"}.get(time, "DATETIME(6)")
        self.run(
            f"CREATE TABLE images (id {key} PRIMARY KEY, status {status}, error VARCHAR(200),"
            f" done_at {time})"
        )

    def run(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """A statement in a transaction of its own."""
        with self.engine.begin() as connection:
            found = connection.execute(text(statement), values)
            return [tuple(row) for row in found] if found.returns_rows else []

    def add(self, key: Any = 1) -> None:
        self.run("INSERT INTO images (id, status) VALUES (:key, 'new')", key=key)

    def row(self, key: Any = 1) -> tuple[Any, ...]:
        """(status, error, done_at) of a row."""
        ((status, error, done_at),) = self.run(
            "SELECT status, error, done_at FROM images WHERE id = :key", key=key
        )
        if isinstance(done_at, str):
            done_at = datetime.fromisoformat(done_at)
        return status, error, done_at

    def status(self, key: Any = 1) -> str:
        return str(self.row(key)[0])

    @contextmanager
    def locked(self, key: int = 1) -> Iterator[None]:
        """Another transaction of the user's holds the row."""
        with self.engine.connect() as connection:
            connection.execute(
                text("SELECT * FROM images WHERE id = :key FOR UPDATE"), {"key": key}
            )
            yield
            connection.rollback()


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """The user's table in the ledger's own database, with one row."""
    made = Rows(database_url)
    made.add()
    yield made
    made.engine.dispose()


def uploads(app: App, kind: Any = Any, **given: Any) -> Upload:
    """A task whose argument, of that type, is the key of a mirrored row."""
    app.mirror(
        "images",
        key="id",
        from_arg="image",
        status="status",
        error="error",
        ended_at="done_at",
        **given,
    )

    def upload(image: Any) -> None: ...

    upload.__annotations__["image"] = kind
    return app.task(max_attempts=2, backoff=0)(upload)


@pytest.fixture
def upload(app: App, rows: Rows) -> Upload:
    return uploads(app)


def number_of(job: Job) -> int:
    return ids.from_text(job.id)


def waiting(ledger: Ledger) -> int:
    """How many rows wait in the outbox."""
    with ledger.database.look() as tx:
        return outbox.waiting(tx, 1_000).count


def naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A courier's turn lasts longer than a slow machine needs."""
    monkeypatch.setattr("failbetter.mirror.courier._TURN", 60.0)


@contextmanager
def courier_of(app: App, **given: Any) -> Iterator[Courier]:
    """A courier of the app's, as a worker has it."""
    courier = Courier(app.database, app.mirror_urls, **given)
    yield courier
    courier.close()


def deliver(app: App, until: Callable[[], bool]) -> None:
    """Tick a courier until something is so."""
    limit = time.monotonic() + 20
    with courier_of(app) as courier:
        while not until():
            assert time.monotonic() < limit
            courier.tick(time.monotonic())


# -- in the transaction of the transition (C1)


def test_every_transition_is_on_the_row(worked: Ledger, rows: Rows, upload: Upload) -> None:
    """C1: accepted, begun, to be tried again, failed, retried, succeeded."""
    job = upload.enqueue(1)
    assert rows.row() == ("pending", None, None)
    claimed = worked.claim_one(now=worked.soon())
    assert rows.row() == ("pending", None, None)
    worked.begin(claimed)
    assert rows.row() == ("running", None, None)
    worked.end(claimed, Cause.RAISED, error=Error("ValueError", "secret"))
    assert rows.row() == ("pending", None, None)
    claimed = worked.claim_one(now=worked.soon())
    worked.end(claimed, Cause.RAISED, error=Error("ValueError", "secret"))
    failed = job.refresh()
    assert failed.state == "failed"
    said = f"It failed because of an error. (job {job.id})"
    assert rows.row() == ("failed", said, naive(failed.ended_at))
    job.retry()
    assert rows.row() == ("pending", None, None)
    worked.end(worked.claim_one(now=worked.soon()))
    assert rows.row() == ("succeeded", None, naive(job.refresh().ended_at))
    assert waiting(worked) == 0


def test_a_first_success(worked: Ledger, rows: Rows, upload: Upload) -> None:
    """C1: also on the way that a batch of successes takes."""
    for key in range(2, 8):
        rows.add(key)
    upload.enqueue_many([(key,) for key in range(1, 8)])
    assert {rows.status(key) for key in range(1, 8)} == {"pending"}
    claimed = worked.claim(now=worked.soon())
    stale = claimed[0]
    worked.begin(*claimed)
    worked.give_back(stale)
    lost = worked.settle(*(ending(one) for one in claimed))
    assert [one.id for one in lost] == [stale.id]
    states = {key: rows.status(key) for key in range(1, 8)}
    assert sorted(states.values()) == ["running", *["succeeded"] * 6]
    assert waiting(worked) == 0


def test_a_persons_acts(worked: Ledger, rows: Rows, upload: Upload, app: App) -> None:
    """C1: cancelled while it waits, while it is claimed, discarded; one by one and in bulk."""
    job = upload.enqueue(1)
    job.cancel()
    assert rows.row()[:2] == ("discarded", f"It was cancelled. (job {job.id})")

    job = upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    job.cancel()
    assert rows.status() == "pending"
    worked.give_back(claimed)
    assert rows.status() == "discarded"

    job = upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    worked.end(claimed, Cause.RAISED, verdict="fail", error=Error("ValueError", "no"))
    assert rows.status() == "failed"
    assert app.failed.retry(all=True).moved == 1
    assert rows.status() == "pending"
    claimed = worked.claim_one(now=worked.soon())
    worked.end(claimed, Cause.RAISED, verdict="fail", error=Error("ValueError", "no"))
    assert app.failed.discard(all=True).moved == 1
    assert rows.row()[:2] == ("discarded", f"It was put aside. (job {job.id})")


def test_a_lost_worker_and_expiry(worked: Ledger, rows: Rows, app: App) -> None:
    """C1: what nobody ran any more is on the row as well."""
    app.mirror("images", key="id", from_arg="image", status="status")

    @app.task(expires_after=0.001, on_lost="fail")
    def upload(image: int) -> None: ...

    rows.add(2)
    upload.using(expires_after=60).enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    worked.begin(claimed)
    upload.enqueue(2)
    worked.remove()
    Sweeper(app.database).tick(0.0)
    time.sleep(0.002)
    Sweeper(app.database).tick(0.0)
    assert rows.status(1) == "failed"
    assert rows.status(2) == "discarded"


def test_the_newest_job_of_a_row_wins(worked: Ledger, rows: Rows, upload: Upload) -> None:
    """C1: an older job's end does not overwrite what a newer one does."""
    older = upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    worked.begin(claimed)
    upload.enqueue(1)
    assert rows.status() == "pending"
    worked.end(claimed)
    assert older.refresh().state == "succeeded"
    assert rows.status() == "pending"
    assert waiting(worked) == 0


def test_a_newer_job_that_is_not_committed_yet(
    worked: Ledger, rows: Rows, upload: Upload, backend: Backend
) -> None:
    """C1: whichever of the two comes to the row first, the newer one has the last word."""
    if backend.name == "sqlite":
        pytest.skip("has one writer at a time")
    upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    with rows.engine.connect() as connection:
        upload.using(connection=connection).enqueue(1)
        worked.end(claimed)  # its row is locked by the newer one: it goes into the outbox
        connection.commit()
    deliver(upload.app, lambda: waiting(worked) == 0)
    assert rows.status() == "pending"


def test_values_for_states_and_reasons(worked: Ledger, rows: Rows, app: App) -> None:
    """C1: in the words of the user's own column."""
    upload = uploads(
        app, values={"pending": "queued", "failed": "broken", "failed(timeout)": "it's late"}
    )
    upload.enqueue(1)
    assert rows.status() == "queued"
    claimed = worked.claim_one(now=worked.soon())
    worked.end(claimed, Cause.RAISED, verdict="fail", error=Error("E", ""))
    assert rows.status() == "broken"
    upload.enqueue(1)
    for _ in range(2):
        claimed = worked.claim_one(now=worked.soon())
        worked.end(claimed, Cause.TIMED_OUT, error=Error("E", ""))
    assert rows.row()[0] == "it's late"
    upload.enqueue(1)
    worked.begin(worked.claim_one(now=worked.soon()))
    assert rows.status() == "running"


@pytest.mark.parametrize("key", ['it\'s "one"; --', "%s :x ?", "ö\u2028", "a\\b", ""])
def test_keys_that_look_like_something_else(
    worked: Ledger, app: App, database_url: str, key: str
) -> None:
    rows = Rows(database_url, key="TEXT")
    rows.add(key)
    rows.add("other")
    upload = uploads(app)
    upload.enqueue(key)
    worked.end(worked.claim_one(now=worked.soon()))
    assert rows.status(key) == "succeeded"
    assert rows.status("other") == "new"
    rows.engine.dispose()


def test_a_key_that_no_text_can_hold(worked: Ledger, app: App, database_url: str) -> None:
    """A NUL, which PostgreSQL keeps in no text: such a row cannot be, and the job runs."""
    rows = Rows(database_url, key="TEXT")
    upload = uploads(app)
    job = upload.enqueue("a\0b")
    worked.end(worked.claim_one(now=worked.soon()))
    assert job.refresh().state == "succeeded"
    rows.engine.dispose()


def test_no_key_no_mirror(worked: Ledger, rows: Rows, upload: Upload) -> None:
    upload.enqueue(None)
    worked.end(worked.claim_one(now=worked.soon()))
    assert rows.status() == "new"
    with pytest.raises(TypeError, match=r"upload\(\): argument 'image' is the key of a row"):
        upload.enqueue(1.5)
    with pytest.raises(TypeError, match="a text or a whole number, not a list"):
        upload.enqueue([1])


def test_quoted_names_and_a_schema(worked: Ledger, app: App, backend: Backend) -> None:
    """Names that need quotes, and a table that is not where the ledger is."""
    schema = "main" if backend.name == "sqlite" else "Shop"
    engine = sqlalchemy.create_engine(app.url)
    with engine.begin() as connection:
        if backend.name != "sqlite":
            if backend.name in ("mariadb", "mysql"):
                pytest.skip("names are quoted otherwise there, and a schema is a database")
            connection.execute(text('CREATE SCHEMA "Shop"'))
        table = f'"{schema}"."Order"'
        connection.execute(text(f'CREATE TABLE {table} ("group" INTEGER, "Select" TEXT)'))
        connection.execute(text(f"INSERT INTO {table} VALUES (7, '')"))
    app.mirror(f"{schema}.Order", key="group", from_arg="n", status="Select")

    @app.task
    def work(n: int) -> None: ...

    work.enqueue(7)
    with engine.begin() as connection:
        assert connection.execute(text(f'SELECT "Select" FROM {table}')).scalar() == "pending"
    assert app.check_mirrors().right
    engine.dispose()


@pytest.mark.parametrize("time", ["TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TEXT"])
@pytest.mark.parametrize("key", ["UUID", "TEXT", "BIGINT"])
def test_types_of_columns(worked: Ledger, app: App, database_url: str, key: str, time: str) -> None:
    """C1: whatever type the key and the time have."""
    rows = Rows(database_url, key=key, time=time)
    value: Any = uuid.uuid4() if key == "UUID" else 7 if key == "BIGINT" else "seven"
    rows.add(str(value))
    upload = uploads(app, type(value))
    job = upload.enqueue(value)
    worked.end(worked.claim_one(now=worked.soon()))
    assert waiting(worked) == 0
    status, _, done_at = rows.row(str(value))
    assert status == "succeeded"
    ended = job.refresh().ended_at
    assert ended is not None
    assert done_at.replace(tzinfo=done_at.tzinfo or UTC) == ended
    assert app.check_mirrors(dry_run=True).right
    rows.engine.dispose()


def test_a_uuid_as_most_libraries_keep_it(
    worked: Ledger, app: App, database_url: str, backend: Backend
) -> None:
    """C1: without hyphens, where the database has no type for it."""
    if backend.name == "postgresql":
        pytest.skip("has a type for it")
    rows = Rows(database_url, key="CHAR(32)")
    value = uuid.uuid4()
    rows.add(value.hex)
    uploads(app, uuid.UUID).enqueue(value)
    assert rows.status(value.hex) == "pending"
    assert app.check_mirrors(dry_run=True).right
    rows.engine.dispose()


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("INTEGER", {"pending": 0, "running": 1, "succeeded": 2}, (0, 2)),
        ("BOOLEAN", {"pending": None, "succeeded": True}, (None, True)),
    ],
)
def test_types_of_the_status(
    worked: Ledger, app: App, rows: Rows, column: str, values: dict[str, Any], shown: Any
) -> None:
    rows.run(f"ALTER TABLE images ADD COLUMN progress {column}")
    app.mirror("images", key="id", from_arg="image", status="progress", values=values)

    @app.task
    def upload(image: str) -> None: ...

    upload.enqueue("1")  # a number's text finds the number
    assert rows.run("SELECT progress FROM images") == [(shown[0],)]
    worked.end(worked.claim_one(now=worked.soon()))
    assert rows.run("SELECT progress FROM images") == [(shown[1],)]
    assert app.check_mirrors(dry_run=True).right


def test_a_rollback_leaves_neither(rows: Rows, upload: Upload, ledger: Ledger) -> None:
    """C6: the row and the job are one commit, whoever begins it."""
    with rows.engine.connect() as connection:
        connection.execute(text("INSERT INTO images (id, status) VALUES (2, 'new')"))
        upload.using(connection=connection).enqueue(2)
        upload.using(connection=connection).enqueue(1)
        connection.rollback()
        assert ledger.rows() == []
        assert rows.status(1) == "new"
        assert rows.run("SELECT count(*) FROM images") == [(1,)]
        connection.rollback()
        connection.execute(text("INSERT INTO images (id, status) VALUES (2, 'new')"))
        upload.using(connection=connection).enqueue(2)
        connection.commit()
    assert rows.status(2) == "pending"
    assert len(ledger.rows()) == 1


def test_a_drivers_own_connection(rows: Rows, upload: Upload, backend: Backend) -> None:
    """C6: also in a transaction that the driver alone knows of, as it is found again after."""
    connection = driver_connection(rows.url)
    patience, ask = {
        "sqlite": ("PRAGMA busy_timeout = 7", "PRAGMA busy_timeout"),
        "postgresql": ("SET lock_timeout = '7s'", "SHOW lock_timeout"),
    }.get(backend.name, ("SET innodb_lock_wait_timeout = 7", "SELECT @@innodb_lock_wait_timeout"))
    cursor = connection.cursor()
    cursor.execute(patience)
    upload.using(connection=connection).enqueue(1)
    cursor.execute(ask)
    assert str(cursor.fetchone()[0]).startswith("7")
    connection.rollback()
    assert rows.status() == "new"
    upload.using(connection=connection).enqueue(1)
    connection.commit()
    assert rows.status() == "pending"
    connection.close()


def test_a_table_that_does_not_take_it_leaves_the_callers_transaction(
    rows: Rows, upload: Upload, ledger: Ledger
) -> None:
    """C6: what the caller has written, and the job, are one commit all the same."""
    rows.run("CREATE TABLE orders (id INTEGER)")
    _drop(rows)
    with rows.engine.connect() as connection:
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        upload.using(connection=connection).enqueue(1)
        connection.execute(text("INSERT INTO orders VALUES (2)"))
        connection.commit()
    assert rows.run("SELECT count(*) FROM orders") == [(2,)]
    assert len(ledger.rows()) == waiting(ledger) == 1
    _restore(rows)
    deliver(upload.app, lambda: waiting(ledger) == 0)
    assert rows.status() == "pending"


def test_a_connection_without_transactions(
    rows: Rows, upload: Upload, ledger: Ledger, backend: Backend
) -> None:
    """No savepoint can be there: the row comes by the outbox."""
    if backend.name == "sqlite":
        pytest.skip("has savepoints everywhere")
    with closing(driver_connection(rows.url, autocommit=True)) as connection:
        upload.using(connection=connection).enqueue(1)
    assert waiting(ledger) == 1
    deliver(upload.app, lambda: waiting(ledger) == 0)
    assert rows.status() == "pending"


@pytest.mark.parametrize("way", ["connection", "session", "driver"])
def test_an_async_connection(
    rows: Rows, upload: Upload, ledger: Ledger, backend: Backend, way: str
) -> None:
    """C6: as with any other."""
    if backend.name in ("mariadb", "mysql") or (way == "driver" and backend.name == "sqlite"):
        pytest.skip("no such driver is supported, or is here")

    async def work() -> None:
        if way == "driver":
            url = rows.url.replace("+psycopg", "")
            opened: Any = await psycopg.AsyncConnection.connect(url)
        else:
            engine = create_async_engine(rows.url.replace("sqlite:", "sqlite+aiosqlite:"))
            opened = AsyncSession(engine) if way == "session" else engine.connect()
        async with opened as connection:
            await upload.using(connection=connection).aenqueue(1)
            await connection.rollback()
            assert rows.status() == "new"
            await upload.using(connection=connection).aenqueue(1)
            await connection.commit()
        if way != "driver":
            await engine.dispose()

    asyncio.run(work())
    assert rows.status() == "pending"
    assert waiting(ledger) == 0


DJANGO = """
    import sys
    import django
    from django.conf import settings
    from sqlalchemy import make_url
    url = make_url(sys.argv[1])
    engine = {"sqlite": "sqlite3"}.get(url.get_backend_name(), url.get_backend_name())
    if engine == "mysql":
        import pymysql
        pymysql.install_as_MySQLdb()
    settings.configure(DATABASES={"default": {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": url.database, "USER": url.username, "HOST": url.host, "PORT": url.port,
        "OPTIONS": {},
    }})
    django.setup()
    from django.db import connection, transaction
    import failbetter
    app = failbetter.App(sys.argv[1])
    app.mirror("images", key="id", from_arg="image", status="status")
    app.mirror("nowhere", key="id", from_arg="other", status="status")
    @app.task
    def upload(image: int) -> None: ...
    @app.task
    def lost(other: int) -> None: ...
    with transaction.atomic():
        lost.using(connection=connection).enqueue(1)
        upload.using(connection=connection).enqueue(1)
    with transaction.atomic():
        lost.using(connection=connection).enqueue(1)
    connection.close()
    print(app.jobs.count(), app.health().findings[-1].observed["waiting"])
    app.close()
"""


def test_djangos_connection(rows: Rows, app: App) -> None:
    """C6: and what fails there does not spoil Django's transaction."""
    with other(textwrap.dedent(DJANGO), rows.url) as process:
        assert process.hear() == "3 2"
    assert rows.status() == "pending"


def test_an_ending_that_is_undone(worked: Ledger, rows: Rows, upload: Upload) -> None:
    """C1: the row never says what the job does not."""
    upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    with pytest.raises(ZeroDivisionError), worked.database.write() as tx:
        settle(tx, [ending(claimed)])
        1 / 0  # noqa: B018
    assert rows.status() == "pending"
    worked.end(claimed)
    assert rows.status() == "succeeded"


# -- where the row cannot be written at once: the outbox


def test_a_locked_row_delays_nothing(
    worked: Ledger, rows: Rows, upload: Upload, backend: Backend, app: App
) -> None:
    """C1: the ending is written, the row follows when it is free, and health says so."""
    if backend.name == "sqlite":
        pytest.skip("locks no rows")
    job = upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    with rows.locked():
        began = time.monotonic()
        worked.end(claimed)
        assert time.monotonic() - began < 10  # the ledger's own rows would be waited for longer
        assert job.refresh().state == "succeeded"
        assert rows.status() == "pending"
        (finding,) = [one for one in app.health().findings if one.name == "mirror"]
        assert finding.status in ("pass", "warn")
        assert finding.observed["waiting"] == 1
        assert re.search("lock (wait )?timeout", str(finding.output), re.IGNORECASE)
        with courier_of(app) as courier:
            assert courier.tick(time.monotonic()).failed == 1
        assert waiting(worked) == 1
    deliver(app, lambda: waiting(worked) == 0)
    assert rows.row() == ("succeeded", None, naive(job.refresh().ended_at))
    assert [one for one in app.health().findings if one.name == "mirror"] == []


def test_many_locked_rows_are_not_waited_for_one_by_one(
    worked: Ledger, rows: Rows, upload: Upload, backend: Backend
) -> None:
    if backend.name == "sqlite":
        pytest.skip("locks no rows")
    rows.run(f"INSERT INTO images (id) VALUES {', '.join(f'({key})' for key in range(2, 501))}")
    upload.enqueue_many([(key,) for key in range(1, 501)])
    claimed = worked.claim(limit=500, now=worked.soon())
    with rows.engine.connect() as connection:
        connection.execute(text("SELECT * FROM images FOR UPDATE"))
        began = time.monotonic()
        assert worked.settle(*(ending(one) for one in claimed)) == []
        assert time.monotonic() - began < 15  # and not 25
    assert waiting(worked) == 500
    deliver(upload.app, lambda: waiting(worked) == 0)
    assert rows.run("SELECT DISTINCT status FROM images") == [("succeeded",)]


def _drop(rows: Rows) -> None:
    rows.run("ALTER TABLE images RENAME TO pictures")


def _restore(rows: Rows) -> None:
    rows.run("ALTER TABLE pictures RENAME TO images")


def _forbid(rows: Rows) -> None:
    rows.run("CREATE UNIQUE INDEX one_success ON images (status)")
    rows.run("INSERT INTO images (id, status) VALUES (99, 'succeeded')")


def _allow(rows: Rows) -> None:
    on = " ON images" if rows.engine.dialect.name == "mysql" else ""
    rows.run(f"DROP INDEX one_success{on}")


def _lose_column(rows: Rows) -> None:
    rows.run("ALTER TABLE images RENAME COLUMN done_at TO finished_at")


def _find_column(rows: Rows) -> None:
    rows.run("ALTER TABLE images RENAME COLUMN finished_at TO done_at")


@pytest.mark.parametrize(
    ("spoil", "mend"), [(_drop, _restore), (_forbid, _allow), (_lose_column, _find_column)]
)
def test_a_table_that_does_not_take_it(
    worked: Ledger,
    rows: Rows,
    upload: Upload,
    app: App,
    spoil: Callable[[Rows], None],
    mend: Callable[[Rows], None],
) -> None:
    """C1: whatever is wrong with the user's table ends no job otherwise, and is told."""
    job = upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    spoil(rows)
    worked.end(claimed)
    assert job.refresh().state == "succeeded"
    assert waiting(worked) == 1
    with courier_of(app) as courier:
        report = courier.tick(time.monotonic())
    assert (report.delivered, report.failed) == (0, 1)
    (finding,) = [one for one in app.health().findings if one.name == "mirror"]
    assert "the last error: " in str(finding.output)
    assert not app.check_mirrors(dry_run=True).right
    mend(rows)
    deliver(app, lambda: waiting(worked) == 0)
    assert rows.status() == "succeeded"
    assert app.check_mirrors(dry_run=True).right


def test_a_constraint_that_waits_for_the_commit(
    worked: Ledger, app: App, rows: Rows, backend: Backend
) -> None:
    """C1: it must not undo the job's own ending, as it would at the commit."""
    if backend.name != "postgresql":
        pytest.skip("checks no foreign keys on this connection, or each at once")
    rows.run("CREATE TABLE known (status TEXT PRIMARY KEY)")
    rows.run("INSERT INTO known VALUES ('pending')")
    rows.run("UPDATE images SET status = 'pending'")
    rows.run(
        "ALTER TABLE images ADD FOREIGN KEY (status) REFERENCES known DEFERRABLE INITIALLY DEFERRED"
    )
    job = uploads(app).enqueue(1)
    worked.end(worked.claim_one(now=worked.soon()))
    assert job.refresh().state == "succeeded"
    assert rows.status() == "pending"
    assert waiting(worked) == 1


def test_a_row_that_is_not_there(worked: Ledger, rows: Rows, upload: Upload, app: App) -> None:
    """C1: no failure, but `mirror check` says it."""
    job = upload.enqueue(2)
    worked.end(worked.claim_one(now=worked.soon()))
    assert job.refresh().state == "succeeded"
    assert waiting(worked) == 0
    found = app.check_mirrors()
    assert (found.checked, found.right) == (1, False)
    (row,) = found.rows
    assert (row.job, row.table, row.key, row.finding) == (job.id, "images", "2", "missing")


# -- in another database


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows]:
    """The user's table in another database than the ledger's."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'shop.db'}"
    else:
        server = {"postgresql": shared_server, "mariadb": mariadb.shared_server}[request.param]()
        url = server.new_database()
    made = Rows(url)
    made.add()
    yield made
    made.engine.dispose()
    if request.param != "sqlite":
        server.drop_database(url)


def test_another_database_follows(worked: Ledger, app: App, elsewhere: Rows) -> None:
    """C1: through the outbox, in which each transition is put by its own commit."""
    upload = uploads(app, url=elsewhere.url)
    engine = sqlalchemy.create_engine(app.url)
    with engine.connect() as connection:
        upload.using(connection=connection).enqueue(1)
        connection.rollback()
    engine.dispose()
    assert waiting(worked) == 0
    upload.enqueue(1)
    assert (waiting(worked), elsewhere.status()) == (1, "new")
    deliver(app, lambda: waiting(worked) == 0)
    assert elsewhere.status() == "pending"
    claimed = worked.claim_one(now=worked.soon())
    worked.begin(claimed)
    worked.end(claimed, Cause.FAILED_BY_TASK, error=Error("failbetter.Fail", "no image"))
    assert waiting(worked) == 1
    deliver(app, lambda: waiting(worked) == 0)
    status, error, done_at = elsewhere.row()
    (row,) = worked.rows()
    assert (status, error) == ("failed", f"no image (job {ids.to_text(row.id)})")
    assert done_at.replace(tzinfo=UTC).timestamp() == pytest.approx((row.ended_at or 0) / 1e6)
    assert elsewhere.url not in str(row) + str(app.health())


def test_a_courier_that_dies_between_the_two_commits(
    worked: Ledger, app: App, elsewhere: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: the row is written again, with what the job is by then."""
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)

    def die(name: str) -> None:
        raise KeyboardInterrupt

    dying = Courier(app.database, app.mirror_urls)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr("failbetter.mirror.courier.passing", die)
        dying.tick(time.monotonic())
    dying.close()
    assert (waiting(worked), elsewhere.status()) == (1, "pending")
    worked.end(worked.claim_one(now=worked.soon()))
    deliver(app, lambda: waiting(worked) == 0)
    assert elsewhere.status() == "succeeded"


def test_what_moves_while_it_is_delivered(
    worked: Ledger, app: App, elsewhere: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: what was written may be old by now, so it is written again."""
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)
    claimed = worked.claim_one(now=worked.soon())
    courier = Courier(app.database, app.mirror_urls)
    with monkeypatch.context() as patch:
        patch.setattr(
            "failbetter.mirror.courier.passing", lambda name: worked.end(claimed) and None
        )
        courier.tick(time.monotonic())
    assert (waiting(worked), elsewhere.status()) == (1, "pending")
    courier.tick(time.monotonic())
    assert (waiting(worked), elsewhere.status()) == (0, "succeeded")
    courier.close()


def test_a_courier_that_was_overtaken(
    worked: Ledger, app: App, elsewhere: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: another has delivered meanwhile; the slow one has perhaps written what was before."""
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)
    slow = Courier(app.database, app.mirror_urls)

    def meanwhile(name: str) -> None:
        with worked.database.write() as tx:
            (entry,) = outbox.due(tx, 10)
            outbox.delivered(tx, entry)

    with monkeypatch.context() as patch:
        patch.setattr("failbetter.mirror.courier.passing", meanwhile)
        slow.tick(time.monotonic())
    assert waiting(worked) == 1
    slow.tick(time.monotonic())
    assert waiting(worked) == 0
    slow.close()


def test_a_turn_that_has_run_out_writes_nothing(worked: Ledger, app: App, elsewhere: Rows) -> None:
    """C1: a courier that was frozen does not undo what its successor has written."""
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)
    with courier_of(app, clock=lambda: 100.0) as late:
        report = late.tick(0.0)
    assert (report.delivered, report.failed) == (0, 1)
    assert elsewhere.status() == "new"


def test_one_courier_at_a_time(worked: Ledger, app: App, elsewhere: Rows) -> None:
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)
    one, other = (Courier(app.database, app.mirror_urls) for _ in range(2))
    assert one.tick(time.monotonic()).delivered == 1
    upload.enqueue(1)
    assert other.tick(time.monotonic()).delivered == 0
    assert one.tick(time.monotonic()).delivered == 1
    upload.enqueue(1)
    one.close()
    assert other.tick(time.monotonic()).delivered == 1
    other.close()


def test_another_database_that_is_out_of_reach(
    worked: Ledger, app: App, elsewhere: Rows, rows: Rows, tmp_path: Path
) -> None:
    """C1: it keeps nobody waiting, and once it is back all that waited is written at once."""
    if elsewhere.url.startswith("sqlite"):
        url = f"sqlite:///{tmp_path}/later/shop.db"
    else:
        url = elsewhere.url.replace("@", ":hush@") + "x"
    if elsewhere.engine.dialect.name == "mysql":
        quiet = "'quiet'@'127.0.0.1'"
        mariadb.shared_server().ask(f"CREATE OR REPLACE USER {quiet} IDENTIFIED BY 'hush'")
        mariadb.shared_server().ask(f"GRANT ALL ON *.* TO {quiet}")
        url = url.replace("shop:", "quiet:")
    there = uploads(app, url=url, tasks=["upload"])
    app.mirror("images", key="id", from_arg="image", status="status", tasks=["here"])

    @app.task
    def here(image: int) -> None: ...

    there.enqueue_many([(1,)] * 3)
    clock = time.monotonic()
    courier = Courier(app.database, app.mirror_urls)
    report = courier.tick(clock)
    assert (report.delivered, report.failed) == (0, 1)  # the older jobs of a row need nothing
    (finding,) = [one for one in app.health().findings if one.name == "mirror"]
    assert re.search(r"shop\.db|does not exist|Unknown database", str(finding.output))
    assert "hush" not in str(app.health())
    here.enqueue(1)
    assert rows.status() == "pending"
    there.enqueue(1)
    assert courier.tick(clock + 0.5).failed == 1
    if elsewhere.url.startswith("sqlite"):
        (tmp_path / "later").mkdir()
        made = Rows(url)
    elif elsewhere.engine.dialect.name == "mysql":
        mariadb.shared_server().new_database(url.rpartition("/")[2])
        made = Rows(url)
    else:
        server, _, name = elsewhere.url.replace("+psycopg", "").rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}x"')  # type: ignore[arg-type]
        made = Rows(url)
    made.add()
    clock += 3
    report = courier.tick(clock)
    assert (report.delivered, report.failed) == (2, 0)
    assert waiting(worked) == 0
    assert made.status() == "pending"
    courier.close()
    made.engine.dispose()
    if elsewhere.engine.dialect.name == "postgresql":
        shared_server().drop_database(elsewhere.url + "x")
    elif elsewhere.engine.dialect.name == "mysql":
        mariadb.shared_server().drop_database(url)


def test_a_worker_that_does_not_know_the_database(
    worked: Ledger, app: App, elsewhere: Rows
) -> None:
    uploads(app, url=elsewhere.url).enqueue(1)
    stranger = Courier(app.database, {})
    assert stranger.tick(time.monotonic()).failed == 1
    stranger.close()
    assert waiting(worked) == 1


# -- comparing and repairing


def test_check_repairs(worked: Ledger, rows: Rows, upload: Upload, app: App) -> None:
    """C1: what somebody else has written into the row."""
    for key in (2, 3):
        rows.add(key)
    jobs = upload.enqueue_many([(1,), (2,), (3,), (3,)])
    assert app.check_mirrors() == app.check_mirrors(dry_run=True)
    assert app.check_mirrors().checked == 3
    rows.run("UPDATE images SET status = 'tampered', error = 'x' WHERE id = 2")
    found = app.check_mirrors(dry_run=True)
    (row,) = found.rows
    assert (row.job, row.finding, row.repaired) == (jobs[1].id, "differs", False)
    assert row.columns == {"status": ("tampered", "pending"), "error": ("x", None)}
    assert rows.status(2) == "tampered"
    assert app.check_mirrors(limit=1).right
    repaired = app.check_mirrors()
    assert repaired.right
    assert [one.repaired for one in repaired.rows] == [True]
    assert rows.row(2) == ("pending", None, None)
    assert app.check_mirrors().rows == []


def test_check_repairs_elsewhere(worked: Ledger, app: App, elsewhere: Rows) -> None:
    upload = uploads(app, url=elsewhere.url)
    upload.enqueue(1)
    worked.end(worked.claim_one(now=worked.soon()))
    assert app.check_mirrors().right
    elsewhere.run("UPDATE images SET done_at = NULL")
    assert app.check_mirrors().right
    assert elsewhere.row()[2] is not None
    stranger = App(app.url)
    (row,) = stranger.check_mirrors().rows
    assert (row.finding, row.problem) == ("unknown", "the app does not name its database")
    stranger.close()


def test_check_says_what_it_could_not_repair(
    worked: Ledger, rows: Rows, upload: Upload, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failbetter.mirror.check._DELIVERY", 0.3)
    upload.enqueue(1)
    worked.end(worked.claim_one(now=worked.soon()))
    rows.run("UPDATE images SET status = 'tampered' WHERE id = 1")
    _forbid(rows)
    found = app.check_mirrors()
    assert not found.right
    (row,) = found.rows
    assert not row.repaired
    assert "one_success" in str(row.problem) or "UNIQUE" in str(row.problem)


# -- all at once


def test_the_row_and_the_job_never_differ(
    connect: Callable[[], Ledger], rows: Rows, upload: Upload
) -> None:
    """C1, C6: looked at in one transaction, at any moment, while jobs come, run and end."""
    ledger = connect()
    ledger.register(1)
    done = threading.Event()
    problems: list[str] = []

    def work() -> None:
        for turn in itertools.count():
            for claimed in ledger.claim(now=ledger.soon()):
                ledger.begin(claimed)
                with suppress(LedgerError):
                    ledger.end(claimed, Cause.RAISED if turn % 2 else Cause.RETURNED)
            if done.is_set():
                return

    def look() -> None:
        engine = sqlalchemy.create_engine(rows.url)
        query = text(
            "SELECT images.status, failbetter_jobs.state FROM images, failbetter_jobs"
            " WHERE images.id = 1 AND failbetter_jobs.id ="
            " (SELECT max(id) FROM failbetter_jobs WHERE mirror_key IS NOT NULL)"
            # Where the machine was too slow for the lock's 50 ms.
            " AND failbetter_jobs.id NOT IN (SELECT job_id FROM failbetter_outbox)"
        )
        while not done.is_set():
            with engine.connect() as connection:
                problems.extend(
                    f"{status} and {state}"
                    for status, state in connection.execute(query)
                    if status != state
                )
        engine.dispose()

    threads = [threading.Thread(target=one) for one in (work, look)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        upload.enqueue(1)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    deliver(upload.app, lambda: waiting(ledger) == 0)
    assert upload.app.check_mirrors(dry_run=True).right


def test_a_mirror_of_newer_code(worked: Ledger, rows: Rows) -> None:
    """What cannot be read of a spec changes nothing for the job."""
    worked.add(mirror='{"table": 5}', mirror_key="x")
    worked.add(mirror="spoilt", mirror_key="y")
    for claimed in worked.claim():
        worked.end(claimed)
    assert {row.state for row in worked.rows()} == {"succeeded"}
    assert mirrors.page(worked.database, None, 10)[0][2] is None
