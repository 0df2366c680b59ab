"""Dramatiq on a private Redis, with its default of eight threads in each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.redis_server import RedisServer
from bench.systems.base import Counts, System


class Dramatiq(System):
    """One worker command of one or more processes."""

    key = "dramatiq"
    title = "Dramatiq, Redis"
    family = "peer"
    store = "redis"
    durability = "relaxed"
    tasks = "bench.systems.dramatiq_tasks"
    counts = Counts(one=6_000, bulk=0, drain=5_000, spin=1_000, latency=100)
    measures = frozenset({"enqueue", "drain", "scaling", "latency", "memory"})

    def __init__(self, python: Path, redis: RedisServer) -> None:
        super().__init__(python)
        self._redis = redis

    def prepare(self, folder: Path) -> None:
        self._redis.flush()

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {"BENCH_REDIS": self._redis.url}

    def worker_command(self, processes: int) -> Sequence[str]:
        return [str(self.python.with_name("dramatiq")), "--processes", str(processes), self.tasks]
