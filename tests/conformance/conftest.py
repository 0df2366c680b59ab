"""Fixtures: every test that asks for a database runs once on each backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import profiles
from tests.conformance.backends import BACKENDS, Backend
from tests.conformance.kit import NOW, Ledger, set_clocks

from failbetter import App
from failbetter.ledger.database import Database

profiles.load()


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def backend(request: pytest.FixtureRequest) -> Backend:
    """The kind of database that the test runs on."""
    found: Backend = request.param
    return found


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every ledger, it is NOW."""
    set_clocks(monkeypatch, NOW)


@pytest.fixture
def empty_url(backend: Backend, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    with backend.empty(tmp_path) as url:
        yield url


@pytest.fixture
def database_url(backend: Backend, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is ready for use."""
    with backend.migrated(tmp_path) as url:
        yield url


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], Ledger]]:
    """Opens the same ledger once more, as another process would."""
    opened: list[Database] = []

    def once_more() -> Ledger:
        opened.append(Database(database_url))
        return Ledger(opened[-1])

    yield once_more
    for database in opened:
        database.close()


@pytest.fixture
def ledger(connect: Callable[[], Ledger]) -> Ledger:
    """A ledger without workers."""
    return connect()


@pytest.fixture
def worked(ledger: Ledger) -> Ledger:
    """A ledger at which worker 1 is registered."""
    ledger.register(1)
    return ledger


@pytest.fixture
def app(database_url: str) -> Iterator[App]:
    """An app on the ledger."""
    made = App(database_url)
    yield made
    made.close()
