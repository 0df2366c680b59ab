"""What the health document costs on a ledger with many jobs: `python -m bench.health [--url URL]`.

The ledger is made for it, in a temporary folder or in the empty database of `--url`. A tenth of the
jobs wait, a tenth have failed, 5,000 are held by a worker that is gone, the rest have succeeded.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

import failbetter
from failbetter.health import pages
from failbetter.health.figures import look
from failbetter.health.findings import Finding
from failbetter.health.looker import Looker

GONE, STRANDED, ROUNDS = 1, 5_000, 300


class Process:
    """A process of which there is nothing to say."""

    def not_alive(self) -> str | None:
        return None

    def not_ready(self) -> str | None:
        return None

    def findings(self) -> list[Finding]:
        return []


def fill(app: failbetter.App, jobs: int) -> None:
    """Give the ledger its past."""
    app.migrate()
    task = app.task(name="work")(lambda n: None)
    for first in range(0, jobs, 50_000):
        task.enqueue_many([(n,) for n in range(first, min(first + 50_000, jobs))])
    ended = "ended_at = created_at, rank = NULL, live = NULL"
    tenth, table = jobs // 10, "failbetter_jobs"
    with app.database.engine.begin() as connection:
        run = connection.exec_driver_sql
        ids = [row[0] for row in run(f"SELECT id FROM {table} ORDER BY id")]
        run(f"UPDATE {table} SET state = 'succeeded', {ended} WHERE id < {ids[jobs - 3 * tenth]}")
        run(f"UPDATE {table} SET state = 'failed', reason = 'error', {ended}"
            f" WHERE id >= {ids[jobs - 2 * tenth]} AND id < {ids[jobs - tenth]}")  # fmt: skip
        run(f"UPDATE {table} SET worker = {GONE}, rank = NULL, claimed = 1, state = 'running'"
            f" WHERE id >= {ids[jobs - STRANDED]}")  # fmt: skip
        worker = {"id": GONE, "name": "gone", "host": "h", "pid": 1, "fleet": "f", "beats": 0,
                  "lease": 30_000_000, "renewed_at": 1, "started_at": 1, "stopping": 0,
                  "code": "a", "queues": "[]", "tasks": "[]", "processes": 1, "concurrency": 1,
                  "idle": 0}  # fmt: skip
        values = ", ".join(f":{name}" for name in worker)
        connection.execute(
            text(f"INSERT INTO failbetter_workers ({', '.join(worker)}) VALUES ({values})"), worker
        )
    with app.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as open_one:
        open_one.exec_driver_sql("ANALYZE")


def measure(piece: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds a call: median and 99th percentile."""
    piece()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        piece()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=__doc__)
    parser.add_argument("--url", help="an empty database; else SQLite in a temporary folder")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        app = failbetter.App(options.url or f"sqlite:///{Path(folder) / 'jobs.db'}")
        fill(app, options.jobs)
        looker = Looker(app.database)

        def page(path: str) -> Callable[[], object]:
            return lambda: pages.answer("GET", path, Process(), looker.see())

        print(f"{options.jobs:,} jobs in {app.database.name}")
        for name, piece in (
            ("look", lambda: look(app.database)),
            ("app.health()", app.health),
            *((path, page(path)) for path in ("/readyz", "/health", "/metrics")),
        ):
            median, worst = measure(piece)
            print(f"{name:14} median {median:6.2f} ms   p99 {worst:6.2f} ms")
        app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
