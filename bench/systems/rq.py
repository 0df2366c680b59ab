"""RQ on a private Redis: its default worker, which forks for each job, and SimpleWorker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.redis_server import RedisServer
from bench.systems.base import Counts, System


class Rq(System):
    """One worker is `rq worker`; several processes are `rq worker-pool`."""

    family = "peer"
    store = "redis"
    durability = "relaxed"
    tasks = "bench.systems.rq_tasks"

    def __init__(self, python: Path, redis: RedisServer, forking: bool) -> None:
        super().__init__(python)
        self._redis = redis
        self._class = "rq.worker.Worker" if forking else "rq.worker.SimpleWorker"
        self.key = "rq-forking" if forking else "rq"
        self.title = f"RQ, Redis, {'forking Worker' if forking else 'SimpleWorker'}"
        if forking:
            # It enqueues as the other does; only its worker is its own.
            self.counts = Counts(one=0, bulk=0, drain=120, spin=0, latency=60)
            self.measures = frozenset({"drain", "latency", "memory"})
        else:
            self.counts = Counts(
                one=2_500, bulk=8_000, drain=800, spin=400, latency=100, retry=50_000
            )
            self.measures = frozenset({"enqueue", "drain", "scaling", "latency", "memory", "retry"})

    def prepare(self, folder: Path) -> None:
        self._redis.flush()

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {"BENCH_REDIS": self._redis.url}

    def worker_command(self, processes: int) -> Sequence[str]:
        rq = str(self.python.with_name("rq"))
        common = ("-q", "--url", self._redis.url, "-w", self._class)
        if processes == 1:
            return [rq, "worker", *common, "default"]
        return [rq, "worker-pool", *common, "-n", str(processes), "default"]
