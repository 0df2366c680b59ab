"""Fixtures of the fault tests. A further ledger database is a further `ledger_url`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.harness import Site, open_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ledger, for each kind of database there is."""
    assert request.param == "sqlite"
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def site(ledger_url: str, tmp_path: Path) -> Iterator[Site]:
    """A ledger, its tasks and its workers."""
    with open_site(ledger_url, tmp_path) as opened:
        yield opened
