"""The raw limit on PostgreSQL: failbetter's own tables, plain psycopg, batches of 500."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.postgres import PostgresServer
from bench.systems.base import Counts
from bench.systems.failbetter import FailbetterPg
from bench.systems.on_postgres import OnPostgres


class RawPg(OnPostgres):
    """`bulk`: `copy`, the faster way, or `executemany`, for information and for nothing else."""

    family = "raw"
    tasks = "bench.systems.raw_pg_tasks"
    drains = ("drain.1",)

    def __init__(self, python: Path, server: PostgresServer, specimen: Path, bulk: str) -> None:
        super().__init__(python, server)
        self._specimen = specimen
        self._bulk = bulk
        self._failbetter = FailbetterPg(python, server)
        if bulk == "copy":
            self.key = "raw-pg"
            self.title = "raw limit: plain psycopg, COPY in bulk"
            self.counts = Counts(one=3_000, bulk=50_000, drain=50_000, spin=0, latency=0,
                                 retry=50_000)  # fmt: skip
            self.measures = frozenset({"enqueue", "drain", "retry"})
        else:
            self.key = "raw-pg-executemany"
            self.title = "raw limit: plain psycopg, executemany in bulk"
            self.counts = Counts(one=0, bulk=30_000, drain=0, spin=0, latency=0)
            self.measures = frozenset({"enqueue"})

    def installer(self) -> Sequence[str]:
        return self._failbetter.installer()

    def reach(self, url: str) -> Mapping[str, str]:
        own = {"BENCH_SPECIMEN": str(self._specimen), "BENCH_RAW_BULK": self._bulk}
        return {**self._failbetter.reach(url), **own}

    def worker_command(self, processes: int) -> Sequence[str]:
        return [str(self.python), "-m", "bench.systems.raw_pg_worker"]
