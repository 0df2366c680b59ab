"""failbetter's tasks and producer; imported by its workers, too."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import failbetter
from bench import bodies

_url = os.environ["BENCH_LEDGER"]

_redis = os.environ.get("BENCH_REDIS")

app = failbetter.App(
    _url,
    engine=None if _redis is None else failbetter.RQ(_redis),
    durability="full" if os.environ["BENCH_DURABILITY"] == "full" else "relaxed",
)
# One attempt for the body that always fails, so that it is in the failed ledger at once.
_tasks = {
    name: app.task(max_attempts=1 if name == "fail" else 5)(body)
    for name, body in bodies.ALL.items()
}

_LIVE = "failbetter_jobs WHERE state IN ('pending', 'running')"


def _onlooker() -> Callable[[], bool]:
    """Tells whether no job is waiting or running, as anybody may who can read the database.

    That costs less than a query made for the occasion.
    """
    if not _url.startswith("sqlite:"):
        # Here, so that workers on SQLite are not weighed with it.
        from bench.eye import Eye

        return Eye(os.environ["BENCH_POSTGRES"], _LIVE).sees_none
    path = _url.removeprefix("sqlite:///")
    eye = sqlite3.connect(path, isolation_level=None, timeout=30)
    return lambda: eye.execute(f"SELECT 1 FROM {_LIVE} LIMIT 1").fetchone() is None


class _Producer:
    def __init__(self) -> None:
        self._none_live: Callable[[], bool] | None = None
        self._preview: failbetter.Preview | None = None

    def one(self, body: str) -> Callable[[int], object]:
        return _tasks[body].enqueue

    def bulk(self, body: str) -> Callable[[range], object]:
        task = _tasks[body]

        def call(numbers: range) -> object:
            return task.enqueue_many([(n,) for n in numbers])

        return call

    def ended(self, total: int) -> bool:
        if self._none_live is None:
            self._none_live = _onlooker()
        return self._none_live()

    def group(self) -> object:
        return app.failed.groups()

    def preview(self) -> object:
        self._preview = app.failed.preview()
        return self._preview

    def retry_all(self) -> int:
        preview = self._preview or app.failed.preview()
        self._preview = None
        return preview.retry().moved


producer = _Producer()
