"""Ten million ended jobs beside none: what workers and health do costs the same.

Both ledgers are on one server and are measured turn by turn, so that noise hits both. The size is
`FAILBETTER_TEST_SOAK_JOBS`; a hundredth of it has failed for good.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from tests.faults.harness import open_site
from tests.servers.plans import plans_of
from tests.servers.postgres import PostgresServer
from tests.soak import past, served
from tests.soak.churn import Churn
from tests.soak.past import Share
from tests.soak.regular import LARGEST, regular, unbounded

from failbetter import ids
from failbetter.ledger import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from failbetter import App, Job

pytestmark = pytest.mark.soak

SIZE: Final = int(os.environ.get("FAILBETTER_TEST_SOAK_JOBS") or 10_000_000)
ROUNDS: Final = 40
JOBS: Final = 1_000
"""Of each round."""
DRAINED: Final = 4_000
WORSE: Final = 1.2
"""How many times the cost of the empty ledger that of the full one may be."""
DEAD: Final = 5_000
"""Jobs that end while somebody's transaction is open, so that nothing of them can be cleared."""
_APP: Final = "tests.soak.served:app"


class Side:
    """One of the two ledgers."""

    def __init__(self, server: PostgresServer, name: str, folder: Path) -> None:
        self.name = name
        self.server = server
        self.url = server.new_database(name)
        self.dsn = server.dsn.replace("dbname=postgres", f"dbname={name}")
        self.folder = folder / name
        self.folder.mkdir()
        self.app: App = served.make_app(self.url)
        migrate.upgrade(self.app.database)

    def enqueue(self, task: str, count: int = 1) -> list[Job]:
        """So many jobs of the task of that name."""
        return self.app.tasks[task].enqueue_many((n,) for n in range(count))

    def drain(self) -> None:
        """Have a worker do all there is."""
        with open_site(self.url, self.folder) as site:
            site.drain(app=_APP, patience=300)

    def drain_many(self) -> float:
        """Microseconds a job takes a worker, from the first body's beginning to the last's end."""
        made = self.enqueue("nothing", DRAINED)
        self.drain()
        spent = past.one(
            self.dsn,
            "SELECT max(ended_at) - min(begun_at) FROM failbetter_jobs WHERE id BETWEEN %s AND %s",
            ids.from_text(made[0].id),
            ids.from_text(made[-1].id),
        )
        return float(spent) / DRAINED


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server as people run it, on the disk: where `TMPDIR` says."""
    with PostgresServer.start({"shared_buffers": "512MB", "max_wal_size": "4GB"}) as started:
        yield started


def test_ended_jobs_make_nothing_slower(server: PostgresServer, tmp_path: Path) -> None:
    full, empty = (Side(server, name, tmp_path) for name in ("full", "empty"))
    with contextlib.closing(full.app), contextlib.closing(empty.app):
        _give_a_past(full)
        churns = [Churn(side.app) for side in (full, empty)]
        told = _plans(full, churns[0], "before any ANALYZE")
        for side in (full, empty):
            past.settle(side.dsn)
        told += _plans(full, churns[0], "analysed")
        ratios = _compare(churns)
        ratios["job of a worker"] = _compare_draining(full, empty)
        with _open_transaction(full.dsn):
            churns[0].round(DEAD)
            told += _plans(full, churns[0], "beside an open transaction", dead=DEAD)
    assert not told, "\n".join(told)
    worse = {verb: ratio for verb, ratio in ratios.items() if ratio > WORSE}
    assert not worse


def _give_a_past(side: Side) -> None:
    """Most jobs of the past are plain, some had keys and a time limit, and a few failed."""
    first = [side.enqueue(task)[0] for task in ("nothing", "kept", "hopeless")]
    side.drain()
    assert [job.refresh().state for job in first] == ["succeeded", "succeeded", "failed"]
    begun = time.monotonic()
    counts = (SIZE * 8 // 10, SIZE * 2 // 10, SIZE // 100)
    past.grow(
        side.dsn,
        [Share(ids.from_text(job.id), count) for job, count in zip(first, counts, strict=True)],
    )
    size = past.one(side.dsn, "SELECT pg_size_pretty(pg_database_size(current_database()))")
    print(f"\n{sum(counts):,} jobs of the past, {size}, in {time.monotonic() - begun:.0f} s")


def _plans(side: Side, churn: Churn, when: str, *, dead: int = 0) -> list[str]:
    """What is wrong with how the server ran what is asked regularly; nothing should be."""
    found = []
    for generic in (False, True):
        with_values = "without values" if generic else "by values"
        plans = plans_of(side.server, side.url, lambda: regular(side.app, churn), generic=generic)
        dearest = max(plans, key=lambda plan: plan.pages)
        print(
            f"{when}, planned {with_values}: {len(plans)} statements, at most {dearest.pages} pages"
        )
        found += [f"{when}, {with_values}: {bad}" for bad in unbounded(plans, LARGEST + dead)]
    return found


@contextlib.contextmanager
def _open_transaction(dsn: str) -> Iterator[None]:
    """Somebody's transaction, because of which no dead row can be cleared away."""
    with psycopg.connect(dsn) as link:
        link.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        link.execute("SELECT count(*) FROM failbetter_workers")
        yield


def _compare(churns: list[Churn]) -> dict[str, float]:
    """The ratio of every verb's cost, full to empty: the median of the rounds'."""
    by_verb: dict[str, list[float]] = {}
    typical: dict[str, list[float]] = {}
    for count in range(ROUNDS + 2):
        spent: list[dict[str, list[float]]] = [{}, {}]
        order = (0, 1) if count % 2 else (1, 0)
        for place in order:
            spent[place] = churns[place].round(JOBS)
        if count < 2:
            continue  # to warm up
        for verb in spent[0]:
            ours, other = (statistics.median(one[verb]) for one in spent)
            by_verb.setdefault(verb, []).append(ours / other)
            typical.setdefault(verb, []).append(other * 1e3)
    for verb, ratios in by_verb.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{verb:15} full/empty {middle:.2f} (quartiles {low:.2f} to {high:.2f},"
            f" {len(ratios)} rounds), empty {statistics.median(typical[verb]):.2f} ms"
        )
    return {verb: statistics.median(ratios) for verb, ratios in by_verb.items()}


def _compare_draining(full: Side, empty: Side) -> float:
    ratios = []
    for count in range(7):
        spent = {}
        for side in (full, empty) if count % 2 else (empty, full):
            spent[side.name] = side.drain_many()
        ratios.append(spent["full"] / spent["empty"])
    shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(f"job of a worker full/empty {shown}; empty {spent['empty']:.0f} µs")
    return statistics.median(ratios)
