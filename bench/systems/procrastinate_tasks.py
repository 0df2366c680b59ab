"""procrastinate's tasks and producer; imported by its workers, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

import procrastinate  # type: ignore[import-not-found,unused-ignore]
import psycopg

from bench import bodies
from bench.eye import Eye

_url = os.environ["BENCH_POSTGRES"]

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_url))
_tasks = {name: app.task(name=name)(body) for name, body in bodies.ALL.items()}


class _Producer:
    def __init__(self) -> None:
        self._eye = Eye(_url, "procrastinate_jobs WHERE status IN ('todo', 'doing')")

    def one(self, body: str) -> Callable[[int], object]:
        app.open()
        defer = _tasks[body].defer
        return lambda number: defer(n=number)

    def bulk(self, body: str) -> Callable[[range], object]:
        app.open()
        defer = _tasks[body].batch_defer
        return lambda numbers: defer(*({"n": number} for number in numbers))

    def ended(self, total: int) -> bool:
        return self._eye.sees_none()

    def fail_all(self) -> None:
        with psycopg.connect(_url) as link:
            link.execute("UPDATE procrastinate_jobs SET status = 'failed', attempts = 1")

    def retry_all(self) -> int:
        app.open()
        failed = list(app.job_manager.list_jobs(status="failed"))
        for job in failed:
            app.job_manager.retry_job_by_id(job.id, retry_at=datetime.now(UTC))
        return len(failed)


producer = _Producer()
