"""pgqueuer's entrypoints and producer; imported by its workers, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-not-found,unused-ignore]
import psycopg
from pgqueuer import PgQueuer  # type: ignore[import-not-found,unused-ignore]
from pgqueuer.db import (  # type: ignore[import-not-found,unused-ignore]
    AsyncpgDriver,
    SyncPsycopgDriver,
)
from pgqueuer.queries import (  # type: ignore[import-not-found,unused-ignore]
    Queries,
    SyncQueries,
)

from bench import bodies
from bench.eye import Eye

_url = os.environ["BENCH_POSTGRES"]


def _entrypoint(body: Callable[[int], int]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def run(job: Any) -> None:
        body(int(job.payload))

    return run


@asynccontextmanager
async def main() -> AsyncIterator[PgQueuer]:
    """What its workers are made of."""
    connection = await asyncpg.connect(_url)
    try:
        queue = PgQueuer(AsyncpgDriver(connection))
        for name, body in bodies.ALL.items():
            # By default it deletes what has failed.
            queue.entrypoint(name, on_failure="hold")(_entrypoint(body))
        yield queue
    finally:
        await connection.close()


async def _requeue_all() -> int:
    connection = await asyncpg.connect(_url)
    queries = Queries(AsyncpgDriver(connection))
    ids = [job.id for job in await queries.list_failed_jobs(limit=1_000_000)]
    await queries.requeue_jobs(ids)
    await connection.close()
    return len(ids)


class _Producer:
    def __init__(self) -> None:
        self._eye = Eye(_url, "pgqueuer WHERE status IN ('queued', 'picked')")
        self._queries: SyncQueries | None = None

    def _enqueue(self) -> Callable[..., object]:
        if self._queries is None:
            driver = SyncPsycopgDriver(psycopg.connect(_url, autocommit=True))
            self._queries = SyncQueries(driver)
        call: Callable[..., object] = self._queries.enqueue
        return call

    def one(self, body: str) -> Callable[[int], object]:
        enqueue = self._enqueue()
        return lambda number: enqueue(body, str(number).encode())

    def bulk(self, body: str) -> Callable[[range], object]:
        enqueue = self._enqueue()

        def call(numbers: range) -> object:
            payloads = [str(number).encode() for number in numbers]
            return enqueue([body] * len(numbers), payloads, [0] * len(numbers))

        return call

    def ended(self, total: int) -> bool:
        return self._eye.sees_none()

    def retry_all(self) -> int:
        return asyncio.run(_requeue_all())


producer = _Producer()
