"""A job in a transaction of the caller's own (C6): committed with it, or never there."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tests.conformance.backends import Backend
from tests.conformance.kit import driver_connection
from tests.unit.processes import other

from failbetter import App, ConfigurationError, SchemaMismatch
from failbetter.task import Task

Noop = Task[[int], None]


@pytest.fixture
def noop(app: App) -> Noop:
    @app.task
    def noop(n: int) -> None: ...

    return noop


@pytest.fixture
def once(app: App) -> Noop:
    @app.task(unique=lambda n: str(n))
    def once(n: int) -> None: ...

    return once


class Caller:
    """A kind of connection as an application has it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def order(self) -> None:
        """Write a row of the caller's own."""
        self.run("INSERT INTO orders VALUES (1)")

    def run(self, statement: str) -> None:
        """Run a statement of the caller's own."""
        if isinstance(self.connection, (Connection, Session, scoped_session)):
            self.connection.execute(text(statement))
        else:
            self.connection.cursor().execute(statement)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


@contextmanager
def core(url: str) -> Iterator[Caller]:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        yield Caller(connection)
    engine.dispose()


@contextmanager
def session(url: str) -> Iterator[Caller]:
    engine = sqlalchemy.create_engine(url)
    with Session(engine) as opened:
        yield Caller(opened)
    engine.dispose()


@contextmanager
def scoped(url: str) -> Iterator[Caller]:
    engine = sqlalchemy.create_engine(url)
    registry = scoped_session(sessionmaker(engine))
    yield Caller(registry)
    registry.remove()
    engine.dispose()


@contextmanager
def driver(url: str) -> Iterator[Caller]:
    connection = driver_connection(url)
    yield Caller(connection)
    connection.close()


@pytest.fixture(params=[core, session, scoped, driver], ids=lambda made: made.__name__)
def caller(request: pytest.FixtureRequest, app: App) -> Iterator[Caller]:
    made: Callable[[str], AbstractContextManager[Caller]] = request.param
    with made(app.url) as opened:
        opened.run("CREATE TABLE orders (id INTEGER)")
        opened.commit()
        yield opened


def orders(app: App) -> int:
    rows = app.database.query(sqlalchemy.select(text("count(*) FROM orders")))
    return int(rows[0][0])


def test_committed_with_the_callers_own(app: App, noop: Noop, caller: Caller) -> None:
    caller.order()
    job = noop.using(connection=caller.connection).enqueue(1)
    assert app.jobs.count() == 0
    caller.commit()
    assert orders(app) == 1
    assert job.refresh().state == "pending"
    assert job.created


def test_rolled_back_it_never_was(app: App, noop: Noop, caller: Caller) -> None:
    caller.order()
    noop.using(connection=caller.connection).enqueue(1)
    noop.using(connection=caller.connection).enqueue_many([(n,) for n in range(10)])
    caller.rollback()
    assert orders(app) == 0
    assert app.jobs.count() == 0


def test_many_at_once(app: App, noop: Noop, caller: Caller) -> None:
    many = noop.using(connection=caller.connection, queue="slow")
    assert many.enqueue_many([]) == []
    jobs = many.enqueue_many([(n,) for n in range(100)])
    caller.commit()
    assert len({job.id for job in jobs}) == 100
    assert app.jobs.where(queue="slow").count() == 100


def test_a_unique_job_is_found_in_there_too(app: App, once: Noop, caller: Caller) -> None:
    live = once.enqueue(1)
    using = once.using(connection=caller.connection)
    again = using.enqueue(1)
    first, second = using.enqueue_many([(2,), (2,)])
    caller.commit()
    assert again == live
    assert not again.created
    assert first == second
    assert (first.created, second.created) == (True, False)
    assert app.jobs.count() == 2


def test_a_bad_argument_leaves_the_transaction_as_it_was(
    app: App, noop: Noop, caller: Caller
) -> None:
    caller.order()
    with pytest.raises(TypeError, match="n"):
        noop.using(connection=caller.connection).enqueue("x")  # type: ignore[arg-type]
    caller.commit()
    assert orders(app) == 1
    assert app.jobs.count() == 0


def test_text_of_every_kind(app: App, caller: Caller) -> None:
    @app.task
    def say(what: str) -> None: ...

    what = "100 % of it? :name $1 'quoted' \"twice\" \\ ü \u2028"
    job = say.using(connection=caller.connection).enqueue(what)
    caller.commit()
    assert job.args == {"what": what}


def test_without_tables_that_is_said(empty_url: str, backend: Backend) -> None:
    if backend.name == "sqlite":
        pytest.skip("made at first use")
    app = App(empty_url)

    @app.task
    def noop(n: int) -> None: ...

    with driver(empty_url) as caller, pytest.raises(SchemaMismatch, match="migrate"):
        noop.using(connection=caller.connection).enqueue(1)
    app.close()


# -- async


def in_async(url: str, work: Callable[[Any], Coroutine[Any, Any, None]], *, orm: bool) -> None:
    if url.startswith("mysql"):
        pytest.skip("no asynchronous driver of it is here")

    async def run() -> None:
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        opened = AsyncSession(engine) if orm else engine.connect()
        async with opened as connection:
            await work(connection)
        await engine.dispose()

    asyncio.run(run())


@pytest.mark.parametrize("orm", [False, True], ids=["connection", "session"])
def test_sqlalchemy_async(app: App, noop: Noop, orm: bool) -> None:
    async def work(connection: Any) -> None:
        using = noop.using(connection=connection)
        await using.aenqueue(1)
        await connection.rollback()
        await using.aenqueue(2)
        await using.aenqueue_many([(3,), (4,)])
        assert app.jobs.count() == 0
        await connection.commit()

    in_async(app.url, work, orm=orm)
    assert sorted(job.args["n"] for job in app.jobs) == [2, 3, 4]


def test_psycopg_async(app: App, noop: Noop, once: Noop, backend: Backend) -> None:
    if backend.name != "postgresql":
        pytest.skip("psycopg is PostgreSQL's")
    live = once.enqueue(1)

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(
            app.url.replace("+psycopg", "")
        ) as connection:
            using = noop.using(connection=connection)
            await using.aenqueue(1)
            await connection.rollback()
            await using.aenqueue_many([(2,), (3,)])
            assert await once.using(connection=connection).aenqueue(1) == live
            await connection.commit()

    asyncio.run(work())
    assert sorted(job.args["n"] for job in app.jobs.where(task="noop")) == [2, 3]


def test_an_async_connection_must_be_awaited(app: App, noop: Noop) -> None:
    async def work(connection: Any) -> None:
        with pytest.raises(TypeError, match="aenqueue"):
            noop.using(connection=connection).enqueue(1)

    in_async(app.url, work, orm=False)


def test_a_plain_connection_in_async_code(app: App, noop: Noop) -> None:
    with core(app.url) as caller:
        asyncio.run(noop.using(connection=caller.connection).aenqueue(1))
        caller.commit()
    assert app.jobs.count() == 1


# -- Django


DJANGO = """
    import os, sys
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
    @app.task
    def noop(n: int) -> None: ...
    woken = []
    app.database.wake = lambda **_: woken.append(1)
    try:
        with transaction.atomic():
            noop.using(connection=connection).enqueue(1)
            raise ValueError
    except ValueError:
        pass
    with transaction.atomic():
        noop.using(connection=connection).enqueue(2)
        noop.using(connection=connection).enqueue_many([(3,), (4,)])
        assert not woken
    assert woken
    connection.close()
    print(sorted(job.args["n"] for job in app.jobs))
    app.close()
"""


def test_django(database_url: str) -> None:
    with other(textwrap.dedent(DJANGO), database_url) as process:
        assert process.hear() == "[2, 3, 4]"


# -- another place


def test_a_ledger_in_a_schema_of_its_own(empty_url: str, backend: Backend) -> None:
    """The caller's search path leads elsewhere, and both write in one transaction."""
    if backend.name != "postgresql":
        pytest.skip("has no schemas in a database")
    app = App(empty_url, schema="back office")
    assert app.migrate()[0] is None

    @app.task(unique=lambda n: str(n))
    def noop(n: int) -> None: ...

    with core(empty_url) as caller:
        caller.connection.execute(text("CREATE SCHEMA shop"))
        caller.connection.execute(text("SET search_path TO shop"))
        caller.connection.execute(text("CREATE TABLE jobs (id INTEGER)"))
        noop.using(connection=caller.connection).enqueue(1)
        caller.commit()
    with driver(empty_url) as caller:
        noop.using(connection=caller.connection).enqueue_many([(n,) for n in range(2, 9)])
        caller.commit()
    noop.enqueue_many([(n,) for n in range(9, 20)])
    assert app.jobs.count() == 19
    assert [group.count for group in app.failed.groups()] == []
    app.close()


@pytest.mark.parametrize("nothing", [object(), "conn", 7])
def test_what_is_no_connection(noop: Noop, nothing: object) -> None:
    with pytest.raises(TypeError, match="connection"):
        noop.using(connection=nothing).enqueue(1)


def test_a_connection_to_another_kind_of_database(
    app: App, noop: Noop, backend: Backend, tmp_path: Any
) -> None:
    if backend.name == "sqlite":
        pytest.skip("the other one is SQLite")
    for made in (core, driver):
        with (
            made(f"sqlite:///{tmp_path / 'other.db'}") as caller,
            pytest.raises(ConfigurationError, match="sqlite"),
        ):
            noop.using(connection=caller.connection).enqueue(1)


def test_a_session_wakes_workers_once_it_has_committed(
    app: App, noop: Noop, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int] = []
    monkeypatch.setattr(app.database, "wake", lambda **_: woken.append(app.jobs.count()))
    with session(app.url) as caller:
        noop.using(connection=caller.connection).enqueue(1)
        assert woken == []
        caller.commit()
    assert woken == [1]
