"""Two workers and fifty on one server: what a job costs, and what it costs to have no job.

Cost is CPU time, of the server and of all workers: on a machine of two cores fifty workers are
slower in no other way. The fleets take turns, so that a change of the machine's pace is seen.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import psutil
import psycopg
import pytest
from tests.faults.harness import Site, open_site, wait_until
from tests.servers.postgres import PostgresServer
from tests.soak import served

from failbetter.ledger import claims, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from failbetter import Job

pytestmark = pytest.mark.soak

FEW: Final = 2
MANY: Final = 50
JOBS: Final = 50_000
"""Of each round: so many that all workers are at it for most of the time."""
ROUNDS: Final = 4
LONE: Final = 30
"""Jobs that come one by one, when nobody has anything to do."""
IDLE: Final = 8.0
"""Seconds for which idle workers are watched."""
WORSE: Final = 1.5
"""How many times what it costs with two workers a job may cost with fifty."""
WAITING: Final = 0.1
"""Which share of the workers' connections may be waiting for one another's locks."""
_APP: Final = "tests.soak.served:app"


class Fleet:
    """Workers of one ledger, ready and idle."""

    def __init__(self, server: PostgresServer, site: Site, size: int) -> None:
        self.server = server
        self.site = site
        self.size = size
        self.app = served.make_app(site.url)
        self.waits: Counter[str] = Counter()
        """What the workers' connections were seen to be at."""
        for _ in range(size):
            site.worker(app=_APP, ready=False, log_level="WARNING")
        wait_until(lambda: len(site.registered()) == size, "all workers to register", 120)
        self.work_off(10 * size)

    def cpu(self) -> tuple[float, float]:
        """CPU seconds so far of the server, and of the workers with their children."""
        spent = 0.0
        for worker in self.site.workers:
            process = psutil.Process(worker.pid)
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                spent += times.user + times.system
        return self.server.cpu_seconds(), spent

    def work_off(self, count: int) -> float:
        """Have so many jobs done; how many a second."""
        task = self.app.tasks["nothing"]
        begun = time.monotonic()
        jobs = task.enqueue_many((n,) for n in range(count))
        wait_until(self._nothing_is_live, "the jobs to end", 120)
        self._all_ran_once(jobs[:: max(count // 20, 1)])
        return count / (time.monotonic() - begun)

    def _nothing_is_live(self) -> bool:
        time.sleep(0.05)  # a look costs the server something, too
        with self.app.database.look() as tx:
            return not claims.any_live(tx, [])

    def _all_ran_once(self, jobs: list[Job]) -> None:
        for job in jobs:
            assert (job.refresh().state, len(job.attempts)) == ("succeeded", 1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look all the time at what the workers' connections wait for."""
        over = threading.Event()

        def look() -> None:
            with psycopg.connect(self.server.dsn, autocommit=True) as link:
                while not over.wait(0.02):
                    self.waits.update(
                        name or "at work"
                        for (name,) in link.execute(
                            "SELECT CASE WHEN state = 'active' THEN wait_event_type ELSE 'idle' END"
                            " FROM pg_stat_activity WHERE application_name = 'failbetter'"
                        )
                    )

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def close(self) -> None:
        """Stop using the ledger."""
        self.app.close()


class Costs:
    """CPU milliseconds by what they were spent on, each measured several times."""

    def __init__(self) -> None:
        self.job: list[float] = []
        self.lone: list[float] = []
        self.idle: list[float] = []
        """Of a worker, in a second."""

    def measure(self, fleet: Fleet) -> None:
        """Measure a fleet, and say what was seen."""
        rates, servers = [], []
        for _ in range(ROUNDS):
            before = fleet.cpu()
            with fleet.watched():
                rates.append(fleet.work_off(JOBS))
            server, workers = _difference(before, fleet.cpu())
            servers.append(server / JOBS * 1e3)
            self.job.append((server + workers) / JOBS * 1e3)
        idle = self._watch_idle(fleet)
        lone = self._measure_lone(fleet, idle)
        print(
            f"{fleet.size} workers: {statistics.median(self.job[-ROUNDS:]):.3f} ms of CPU a job"
            f" ({min(self.job[-ROUNDS:]):.3f} to {max(self.job[-ROUNDS:]):.3f}; the server's part"
            f" {statistics.median(servers):.3f}), {statistics.median(rates):,.0f} jobs a second;"
            f" a lone job {lone:.1f} ms; connections: {_shares(fleet.waits)}"
        )

    def _watch_idle(self, fleet: Fleet) -> float:
        """CPU seconds that the idle fleet and its server take in a second."""
        before = fleet.cpu()
        begun = time.monotonic()
        time.sleep(IDLE)
        seconds = time.monotonic() - begun
        server, workers = _difference(before, fleet.cpu())
        self.idle.append((server + workers) / fleet.size / seconds * 1e3)
        print(
            f"{fleet.size} idle workers: each {workers / fleet.size / seconds:.2%} of a core,"
            f" the server {server / seconds:.2%} for all"
        )
        return (server + workers) / seconds

    def _measure_lone(self, fleet: Fleet, idle: float) -> float:
        """CPU milliseconds of a job that comes when all are idle, beyond what being idle costs."""
        before = fleet.cpu()
        begun = time.monotonic()
        for _ in range(LONE):
            job = fleet.app.tasks["nothing"].enqueue(1)
            fleet.site.wait_over([job])
            time.sleep(0.1)  # the others are done looking for it
            assert len(job.attempts) == 1
        seconds = time.monotonic() - begun
        spent = sum(_difference(before, fleet.cpu())) - idle * seconds
        self.lone.append(spent / LONE * 1e3)
        return self.lone[-1]


def _difference(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return after[0] - before[0], after[1] - before[1]


def _shares(waits: Counter[str]) -> str:
    return ", ".join(f"{name} {count / waits.total():.1%}" for name, count in waits.most_common())


def test_fifty_workers_cost_little_more_than_two(tmp_path: Path) -> None:
    costs = {FEW: Costs(), MANY: Costs()}
    with PostgresServer.start({"max_connections": "300"}) as server:
        for turn, size in enumerate((FEW, MANY, FEW)):
            url = server.new_database()
            folder = tmp_path / str(turn)
            folder.mkdir()
            with open_site(url, folder) as site:
                migrate.upgrade(site.app.database)
                fleet = Fleet(server, site, size)
                with contextlib.closing(fleet):
                    costs[size].measure(fleet)
            server.drop_database(url)
            if size == MANY:
                waiting = fleet.waits["Lock"] / fleet.waits.total()
    few, many = costs[FEW], costs[MANY]
    ratio = statistics.median(many.job) / statistics.median(few.job)
    idle = statistics.median(many.idle) / statistics.median(few.idle)
    print(f"{MANY} to {FEW} workers: a job {ratio:.2f} times, an idle worker {idle:.2f} times")
    assert ratio < WORSE
    assert idle < WORSE
    assert waiting < WAITING
