"""oban's jobs and producer; imported by its workers, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import psycopg
import uvloop  # type: ignore[import-not-found,unused-ignore]
from oban import Oban, job  # type: ignore[import-not-found,unused-ignore]

from bench import bodies
from bench.eye import Eye

_url = os.environ["BENCH_POSTGRES"]

# One attempt for the body that always fails, so that it is discarded at once.
_jobs = {
    name: job(queue="default", max_attempts=1 if name == "fail" else 20)(body)
    for name, body in bodies.ALL.items()
}


class _Producer:
    def __init__(self) -> None:
        self._eye = Eye(_url, "oban_jobs WHERE state IN ('available', 'executing')")
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._oban: Oban | None = None

    async def _client(self) -> Oban:
        return Oban(pool=await Oban.create_pool(_url))

    def _open(self) -> Oban:
        if self._oban is None:
            self._oban = self._runner.run(self._client())
        return self._oban

    def one(self, body: str) -> Callable[[int], object]:
        oban, run, new = self._open(), self._runner.run, _jobs[body].new
        return lambda number: run(oban.enqueue(new(number)))

    def bulk(self, body: str) -> Callable[[range], object]:
        oban, run, new = self._open(), self._runner.run, _jobs[body].new
        return lambda numbers: run(oban.enqueue_many([new(number) for number in numbers]))

    def ended(self, total: int) -> bool:
        return self._eye.sees_none()

    def retry_all(self) -> int:
        with psycopg.connect(_url) as link:
            found = link.execute("SELECT id FROM oban_jobs WHERE state = 'discarded'").fetchall()
        ids = [row[0] for row in found]
        return int(self._runner.run(self._open().retry_many_jobs(ids)))


producer = _Producer()
