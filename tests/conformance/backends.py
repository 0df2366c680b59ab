"""The databases that this suite runs over.

A backend makes fresh, empty databases and says what is particular to it. To add one, write a
class with the same methods and put it into BACKENDS; no test needs to be touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pymysql
from sqlalchemy import make_url
from tests.servers import mariadb
from tests.servers.postgres import fresh_database, shared_server

from failbetter.ledger import migrate
from failbetter.ledger.database import Database
from failbetter.ledger.kinds.meeting import folder_of
from failbetter.ledger.schema import metadata


class Backend(Protocol):
    """One kind of database."""

    name: str

    def empty(self, folder: Path) -> contextlib.AbstractContextManager[str]:
        """The URL of a new database without any tables, gone after the block."""

    def migrated(self, folder: Path) -> contextlib.AbstractContextManager[str]:
        """As `empty`, with the schema in place."""

    def occupied(self, url: str) -> contextlib.AbstractContextManager[None]:
        """Another program keeps everyone from writing for the length of the block."""


class SQLite:
    """A file in the test's own folder."""

    name = "sqlite"

    def __init__(self) -> None:
        self._template: bytes | None = None

    @contextlib.contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        yield f"sqlite:///{folder / 'jobs.db'}"

    @contextlib.contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        # Migrating takes longer than most tests: it is done once, and copied.
        if self._template is None:
            self._template = self._make_template(folder / "template.db")
        (folder / "jobs.db").write_bytes(self._template)
        yield f"sqlite:///{folder / 'jobs.db'}"

    def _make_template(self, path: Path) -> bytes:
        database = Database(f"sqlite:///{path}")
        database.ensure_schema()
        database.close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()

    @contextlib.contextmanager
    def occupied(self, url: str) -> Iterator[None]:
        with contextlib.closing(
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")


class PostgreSQL:
    """A database of its own on the test run's private server."""

    name = "postgresql"

    @contextlib.contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        url = shared_server().new_database()
        try:
            yield url
        finally:
            shared_server().drop_database(url)

    @contextlib.contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        url = fresh_database("ledger", _migrate)
        try:
            yield url
        finally:
            shared_server().drop_database(url)

    @contextlib.contextmanager
    def occupied(self, url: str) -> Iterator[None]:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            for table in metadata.tables:
                connection.execute(f'LOCK TABLE "{table}" IN EXCLUSIVE MODE')  # type: ignore[arg-type]
            yield


class MariaDB:
    """A database of its own on the test run's private server."""

    name = "mariadb"

    @contextlib.contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        url = mariadb.shared_server().new_database()
        try:
            yield url
        finally:
            mariadb.shared_server().drop_database(url)

    @contextlib.contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        url = mariadb.fresh_database("ledger", _migrate)
        try:
            yield url
        finally:
            mariadb.shared_server().give_back("ledger", url)
            # Of that name there will be another ledger, with other workers of the same numbers.
            shutil.rmtree(folder_of(make_url(url), None), ignore_errors=True)

    @contextlib.contextmanager
    def occupied(self, url: str) -> Iterator[None]:
        with _all_locked(url):
            yield


class MySQL:
    """A database of its own on a MySQL server that is named by $FAILBETTER_TEST_MYSQL_URL.

    Such as mysql+pymysql://root:secret@127.0.0.1:3306/; its user may make databases.
    """

    name = "mysql"

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._count = 0

    @contextlib.contextmanager
    def empty(self, folder: Path) -> Iterator[str]:
        self._count += 1
        name = f"failbetter_test_{os.getpid()}_{self._count}"
        self._ask(f"CREATE DATABASE {name}")
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._ask(f"DROP DATABASE {name}")

    @contextlib.contextmanager
    def migrated(self, folder: Path) -> Iterator[str]:
        with self.empty(folder) as url:
            _migrate(url)
            yield url

    @contextlib.contextmanager
    def occupied(self, url: str) -> Iterator[None]:
        with _all_locked(url):
            yield

    def _ask(self, statement: str) -> None:
        with _connect(self._url.render_as_string(hide_password=False)) as link:
            link.cursor().execute(statement)


@contextlib.contextmanager
def _all_locked(url: str) -> Iterator[None]:
    """Nobody may write to a ledger on MySQL or MariaDB; everybody may read."""
    with _connect(url) as link:
        locks = ", ".join(f"{table} READ" for table in metadata.tables)
        link.cursor().execute(f"LOCK TABLES {locks}")
        yield


@contextlib.contextmanager
def _connect(url: str) -> Iterator[pymysql.connections.Connection]:  # type: ignore[type-arg]
    given = make_url(url).translate_connect_args(username="user")
    with contextlib.closing(pymysql.connect(**given, autocommit=True)) as link:
        yield link


def _migrate(url: str) -> None:
    database = Database(url)
    migrate.upgrade(database)
    database.close()


_all: list[Backend] = [SQLite(), PostgreSQL(), MariaDB()]
if _given := os.environ.get("FAILBETTER_TEST_MYSQL_URL"):
    _all.append(MySQL(_given))
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _all}
