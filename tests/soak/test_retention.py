"""Jobs come, end and are deleted past their time, for as long as you like: nothing grows.

Beside a ledger full of jobs that are not past theirs, so that what autovacuum costs is real. The
size is `FAILBETTER_TEST_SOAK_JOBS`. Reported besides: how fast it deletes, and what groups of the
failed cost meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

import pytest
from tests.servers.postgres import PostgresServer
from tests.soak import past, served
from tests.soak.churn import Churn
from tests.soak.past import Share

from failbetter import ids
from failbetter.ledger import migrate
from failbetter.ledger.schema import attempts, jobs
from failbetter.retention import Keep, Pruner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter import App

pytestmark = pytest.mark.soak

SIZE: Final = int(os.environ.get("FAILBETTER_TEST_SOAK_JOBS") or 10_000_000)
OVERDUE: Final = SIZE // 10
"""Jobs that are past their time at the start; the rest is not."""
ROUNDS: Final = 60
JOBS: Final = 5_000
"""Of each round, all of which are past their time a moment later."""
GROWTH: Final = 1.3
"""How many times what the tables took at the end of the first half they may take at the end."""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server as people run it, but with autovacuum that looks every second."""
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB", "autovacuum_naptime": "1s"}
    with PostgresServer.start(settings) as started:
        yield started


def test_nothing_grows_while_jobs_come_and_go(server: PostgresServer) -> None:
    url = server.new_database("kept")
    dsn = server.dsn.replace("dbname=postgres", "dbname=kept")
    with contextlib.closing(served.make_app(url)) as app:
        migrate.upgrade(app.database)
        churn = Churn(app)
        oldest = _give_a_past(app, churn, dsn)
        keep = _keep(app, oldest)
        begun = time.monotonic()
        gone = _prune(app, keep)
        spent = time.monotonic() - begun
        print(f"\n{gone:,} of {SIZE:,} jobs deleted, {gone / spent:,.0f} a second")
        assert gone >= OVERDUE
        sizes = [_round(app, churn, dsn) for _ in range(ROUNDS)]
        begun = time.monotonic()
        groups = app.failed.groups()
        print(f"{len(groups)} groups of the failed in {time.monotonic() - begun:.2f} s")
    half, end = sizes[ROUNDS // 2], sizes[-1]
    for name in end:
        print(f"{name:36} {half[name] / 1e6:9.1f} MB halfway, {end[name] / 1e6:9.1f} MB at the end")
    grown = {name: end[name] / half[name] for name in end if half[name] > 1_000_000}
    assert {name: ratio for name, ratio in grown.items() if ratio > GROWTH} == {}


def _give_a_past(app: App, churn: Churn, dsn: str) -> int:
    """A full ledger; when the first of its jobs ended."""
    churn.round(100)
    made = app.jobs.where(state="succeeded").limit(1)
    (like,) = [ids.from_text(job.id) for job in made]
    past.grow(dsn, [Share(like, SIZE)])
    past.settle(dsn)
    return int(past.one(dsn, "SELECT min(ended_at) FROM failbetter_jobs"))


def _keep(app: App, oldest: int) -> Keep:
    """Such that a tenth is past its time."""
    age = (app.database.now() - oldest) / 1e6
    return Keep(succeeded=age * (1 - OVERDUE / SIZE), discarded=None, failed=None)


def _prune(app: App, keep: Keep) -> int:
    pruner = Pruner(app.database, keep, None)
    total = 0
    while gone := pruner.step():
        total += sum(gone.values())
    return total


def _round(app: App, churn: Churn, dsn: str) -> dict[str, int]:
    """Some jobs come and end; as many of the oldest are deleted. The sizes then, in bytes."""
    churn.round(JOBS)
    count = past.one(dsn, "SELECT count(*) FROM failbetter_jobs WHERE state = 'succeeded'")
    surplus = int(count) - (SIZE - OVERDUE)
    if surplus > 0:
        last = past.one(
            dsn,
            "SELECT ended_at FROM failbetter_jobs WHERE state = 'succeeded'"
            " ORDER BY ended_at OFFSET %s LIMIT 1",
            surplus,
        )
        age = (app.database.now() - int(last)) / 1e6
        _prune(app, Keep(succeeded=age, discarded=None, failed=age))
    return _sizes(dsn)


def _sizes(dsn: str) -> dict[str, int]:
    found = {}
    for table in (jobs, attempts):
        found[table.name] = int(past.one(dsn, "SELECT pg_relation_size(%s::regclass)", table.name))
        for index in table.indexes:
            name = str(index.name)
            found[name] = int(past.one(dsn, "SELECT pg_relation_size(%s::regclass)", name))
        pkey = f"{table.name}_pkey"
        found[pkey] = int(past.one(dsn, "SELECT pg_relation_size(%s::regclass)", pkey))
    return found
