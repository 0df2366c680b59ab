"""How long it takes to group, preview and make pending again 50,000 failed jobs.

`python -m bench.triage_ops [COUNT [URL]]`: medians of a few turns; without a URL on SQLite. The
URL's database must be empty. The failures are written straight into the ledger's tables.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import update

from failbetter import App
from failbetter.ledger.schema import jobs

COUNT = 50_000
TURNS = 3
_CHUNK = 5_000
T = TypeVar("T")


def work(path: str) -> None:
    """What the failed jobs were to do."""


def _fail_everything(app: App) -> None:
    """Make all jobs failed, as a worker would leave them after their one attempt."""
    failed = update(jobs).values(
        state="failed",
        reason="error",
        rank=None,
        live=None,
        starts=1,
        attempts=1,
        fence=jobs.c.fence + 2,
        # One after the other, over the last minute or so.
        ended_at=app.database.now() - 1_000_000 - jobs.c.id % 60_000_000,
        error_type="builtins.ConnectionError",
        error_message="connection refused",
        fingerprint="1-outage",
    )
    with app.database.engine.begin() as connection:
        connection.execute(failed)


def _timed(seconds: list[float], act: Callable[[], T]) -> T:
    began = time.perf_counter()
    found = act()
    seconds.append(time.perf_counter() - began)
    return found


def measure(app: App, count: int) -> dict[str, float]:
    """Medians in seconds, by what was done."""
    app.migrate()
    task = app.task(name="work")(work)
    for first in range(0, count, _CHUNK):
        numbers = range(first, min(first + _CHUNK, count))
        task.enqueue_many([(f"/data/{number}.png",) for number in numbers])
    found: dict[str, list[float]] = {"grouped": [], "previewed": [], "pending again": []}
    for _ in range(TURNS):
        _fail_everything(app)
        _timed(found["grouped"], app.failed.groups)
        preview = _timed(found["previewed"], app.failed.preview)
        operation = _timed(found["pending again"], preview.retry)
        if operation.moved != count:
            raise RuntimeError(f"{operation.moved} of {count} jobs were moved")
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[2] if len(sys.argv) > 2 else f"sqlite:///{Path(folder) / 'jobs.db'}"
        app = App(url)
        for name, seconds in measure(app, count).items():
            print(f"{name:14} {seconds:6.3f} s for {count:,} jobs")
        app.close()


if __name__ == "__main__":
    main()
