"""pgqueuer on PostgreSQL: batches of 100, woken by NOTIFY; asyncpg is its first driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.systems.base import Counts
from bench.systems.on_postgres import OnPostgres

BATCH = 100


class Pgqueuer(OnPostgres):
    """One worker is one process; two processes are two of them. Its bodies share an event loop."""

    key = "pgqueuer"
    title = f"pgqueuer, batches of {BATCH}"
    family = "peer"
    tasks = "bench.systems.pgqueuer_tasks"
    counts = Counts(one=2_000, bulk=40_000, drain=15_000, spin=0, latency=100, retry=20_000)
    measures = frozenset({"enqueue", "drain", "latency", "memory", "retry"})
    drains = ("drain.1", "drain.two-workers")

    def reach(self, url: str) -> Mapping[str, str]:
        return {**super().reach(url), "PGDSN": url}

    def installer(self) -> Sequence[str]:
        return [str(self.python.with_name("pgq")), "install"]

    def worker_command(self, processes: int) -> Sequence[str]:
        return [str(self.python), "-m", "bench.systems.pgqueuer_worker", str(BATCH)]
