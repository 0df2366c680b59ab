"""Fixtures of the fault tests. A further ledger database is a further `new_ledger`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.faults.harness import Site, open_site
from tests.servers import mariadb
from tests.servers.postgres import fresh_database, shared_server

from failbetter.ledger import migrate
from failbetter.ledger.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    NewLedger = Callable[[Path], str]


def on_sqlite(folder: Path) -> str:
    """A ledger in a file of the folder."""
    return f"sqlite:///{folder / 'jobs.db'}"


def on_postgresql(folder: Path) -> str:
    """A ledger in a database of its own on the test run's private server."""
    return fresh_database("ledger", migrated)


def on_mariadb(folder: Path) -> str:
    """A ledger in a database of its own on the test run's private MariaDB."""
    return mariadb.fresh_database("ledger", migrated)


def migrated(url: str) -> None:
    """Make the tables."""
    database = Database(url)
    migrate.upgrade(database)
    database.close()


@pytest.fixture(params=[on_sqlite, on_postgresql], ids=["sqlite", "postgresql"])
def new_ledger(request: pytest.FixtureRequest) -> NewLedger:
    """Makes an empty ledger for a folder and gives its URL; for each kind of database there is."""
    made: NewLedger = request.param
    if made is on_postgresql:
        shared_server()  # from this thread, which lasts: a server dies with the one it came from
    return made


@pytest.fixture
def site(new_ledger: NewLedger, tmp_path: Path) -> Iterator[Site]:
    """A ledger, its tasks and its workers."""
    with open_site(new_ledger(tmp_path), tmp_path) as opened:
        yield opened


class SideBySide(Protocol):
    """Runs scenarios, by name, each on a site of its own."""

    def __call__(self, **scenarios: Callable[[Site], None]) -> None: ...


@pytest.fixture
def side_by_side(new_ledger: NewLedger, tmp_path: Path) -> SideBySide:
    """For scenarios that mostly wait: all at once, and every failure is told."""

    def run_one(name: str, scenario: Callable[[Site], None]) -> str | None:
        folder = tmp_path / name
        folder.mkdir()
        with open_site(new_ledger(folder), folder) as opened:
            try:
                scenario(opened)
            except Exception as error:
                error.add_note(f"in the scenario {name}")
                raise
        return None

    def run(**scenarios: Callable[[Site], None]) -> None:
        with ThreadPoolExecutor(len(scenarios)) as pool:
            running = [pool.submit(run_one, *item) for item in scenarios.items()]
        errors = [error for one in running if (error := one.exception()) is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several scenarios failed", errors)

    return run
