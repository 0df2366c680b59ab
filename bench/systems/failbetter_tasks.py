"""failbetter's tasks and producer; imported by its workers, too."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import failbetter
from bench import bodies

_path = os.environ["BENCH_LEDGER"]

app = failbetter.App(
    f"sqlite:///{_path}",
    durability="full" if os.environ["BENCH_DURABILITY"] == "full" else "relaxed",
)
# One attempt for the body that always fails, so that it is in the failed ledger at once.
_tasks = {
    name: app.task(max_attempts=1 if name == "fail" else 5)(body)
    for name, body in bodies.ALL.items()
}


class _Producer:
    def __init__(self) -> None:
        self._eye: sqlite3.Connection | None = None

    def one(self, body: str) -> Callable[[int], object]:
        return _tasks[body].enqueue

    def bulk(self, body: str) -> Callable[[range], object]:
        task = _tasks[body]

        def call(numbers: range) -> object:
            return task.enqueue_many([(n,) for n in numbers])

        return call

    def ended(self, total: int) -> bool:
        # As any onlooker may: reading the file costs less than a query made for the occasion.
        if self._eye is None:
            self._eye = sqlite3.connect(_path, isolation_level=None, timeout=30)
        live = "SELECT 1 FROM jobs WHERE state IN ('pending', 'running') LIMIT 1"
        return self._eye.execute(live).fetchone() is None

    def retry_all(self) -> int:
        failed = app.failed.count()
        app.failed.retry(all=True)
        return failed - app.failed.count()


producer = _Producer()
