"""procrastinate on PostgreSQL: its worker, one job at a time, woken by NOTIFY (its defaults)."""

from __future__ import annotations

from collections.abc import Sequence

from bench.systems.base import Counts
from bench.systems.on_postgres import OnPostgres


class Procrastinate(OnPostgres):
    """One worker is one process; two processes are two of them."""

    key = "procrastinate"
    title = "procrastinate"
    family = "peer"
    tasks = "bench.systems.procrastinate_tasks"
    counts = Counts(one=800, bulk=10_000, drain=600, spin=0, latency=80, retry=50_000)
    measures = frozenset({"enqueue", "drain", "latency", "memory", "retry"})
    drains = ("drain.1", "drain.two-workers")

    def _command(self, *arguments: str) -> Sequence[str]:
        program = str(self.python.with_name("procrastinate"))
        return [program, "--log-level", "warning", "--app", f"{self.tasks}.app", *arguments]

    def installer(self) -> Sequence[str]:
        return self._command("schema", "--apply")

    def worker_command(self, processes: int) -> Sequence[str]:
        return self._command("worker", "--concurrency", "1", "--listen-notify")
