"""failbetter on RQ: its ledger on SQLite or PostgreSQL, the jobs in RQ's workers.

Measured beside bare RQ on the same Redis: `rq`, `rq-forking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.postgres import PostgresServer
from bench.redis_server import RedisServer
from bench.systems.base import Counts, System
from bench.systems.failbetter import Failbetter, FailbetterPg

SIMPLE = "failbetter.rq.SimpleWorker"
FORKING = "failbetter.rq.Worker"

_ALL = Counts(one=2_500, bulk=8_000, drain=800, spin=0, latency=100)
# It enqueues as the other does; only its worker is its own.
_WORKER = Counts(one=0, bulk=0, drain=120, spin=0, latency=60)


class OnRq(System):
    """Jobs are sent at once; nothing here waits for a time, so that no `maintain` is needed."""

    drains = ("drain.1", "drain.2")
    _redis: RedisServer
    _class: str

    def on(self, redis: RedisServer, worker: str, key: str, ledger: str) -> None:
        """Say where its jobs run, and call it so."""
        self._redis = redis
        self._class = worker
        forking = worker == FORKING
        self.key = f"{key}-forking" if forking else key
        self.title = f"failbetter on RQ, {ledger}, {'forking' if forking else 'simple'}"
        self.counts = _WORKER if forking else _ALL
        self.measures = frozenset({"drain", "latency"} | (set() if forking else {"enqueue"}))

    def on_redis(self) -> Mapping[str, str]:
        """What its processes find in their environment, beside the ledger."""
        return {"BENCH_REDIS": self._redis.url, "FAILBETTER_APP": f"{self.tasks}:app"}

    def worker_command(self, processes: int) -> Sequence[str]:
        rq = str(self.python.with_name("rq"))
        common = ("-q", "--url", self._redis.url, "-w", self._class)
        if processes == 1:
            return [rq, "worker", *common, "default"]
        return [rq, "worker-pool", *common, "-n", str(processes), "default"]


class FailbetterRq(OnRq, Failbetter):
    """The ledger on SQLite, durable."""

    def __init__(self, python: Path, redis: RedisServer, worker: str) -> None:
        super().__init__(python, durable=True)
        self.on(redis, worker, "failbetter-rq", "SQLite")

    def prepare(self, folder: Path) -> None:
        self._redis.flush()
        super().prepare(folder)

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {**super().environment(folder), **self.on_redis()}


class FailbetterRqPg(OnRq, FailbetterPg):
    """The ledger on PostgreSQL."""

    def __init__(
        self, python: Path, server: PostgresServer, redis: RedisServer, worker: str
    ) -> None:
        super().__init__(python, server)
        self.on(redis, worker, "failbetter-rq-pg", "PostgreSQL")

    def prepare(self, folder: Path) -> None:
        self._redis.flush()
        super().prepare(folder)

    def reach(self, url: str) -> Mapping[str, str]:
        return {**super().reach(url), **self.on_redis()}
