"""oban (for Python) on PostgreSQL, woken by NOTIFY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.systems.base import Counts
from bench.systems.on_postgres import OnPostgres

LIMIT = 100
"""Jobs that its queue may hold at once: it claims and acknowledges no more than that together."""


class Oban(OnPostgres):
    """One worker is one process; two processes are two of them. Its bodies share an event loop."""

    key = "oban"
    title = f"oban, queue limit {LIMIT}"
    family = "peer"
    tasks = "bench.systems.oban_tasks"
    counts = Counts(one=1_500, bulk=6_000, drain=5_000, spin=0, latency=100, retry=10_000)
    measures = frozenset({"enqueue", "drain", "latency", "memory", "retry"})
    drains = ("drain.1", "drain.two-workers")

    def reach(self, url: str) -> Mapping[str, str]:
        return {**super().reach(url), "OBAN_DSN": url}

    def installer(self) -> Sequence[str]:
        return [str(self.python.with_name("oban")), "install"]

    def worker_command(self, processes: int) -> Sequence[str]:
        # Naming the module spares it the search of the whole folder.
        return [str(self.python.with_name("oban")), "start", "--queues", f"default:{LIMIT}",
                "--cron-modules", self.tasks, "--log-level", "WARNING"]  # fmt: skip
