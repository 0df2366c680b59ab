"""Huey on SQLite: its consumer with one worker thread, or two worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.systems.base import Counts, System


class Huey(System):
    """`fsync` is `on`, or `default`: whatever SQLite was built with."""

    family = "peer"
    store = "sqlite"
    durability = "durable"
    tasks = "bench.systems.huey_tasks"
    counts = Counts(one=6_000, bulk=0, drain=6_000, spin=1_000, latency=100)
    measures = frozenset({"enqueue", "drain", "scaling", "latency", "memory"})

    def __init__(self, python: Path, fsync: str) -> None:
        super().__init__(python)
        self._fsync = fsync
        self.key = "huey" if fsync == "on" else "huey-default"
        self.title = f"Huey, SQLite, fsync {'on' if fsync == 'on' else 'as by default'}"

    def prepare(self, folder: Path) -> None:
        pass

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {"BENCH_HUEY_FILE": str(folder / "huey.db"), "BENCH_HUEY_FSYNC": self._fsync}

    def worker_command(self, processes: int) -> Sequence[str]:
        kind = "thread" if processes == 1 else "process"
        # It polls; its default of 100 ms to 10 s would only measure the setting.
        polling = ("-d", "0.005", "-m", "0.02")
        consumer = str(self.python.with_name("huey_consumer"))
        return [consumer, "-q", "-n", "-k", kind, "-w", str(processes), *polling,
                f"{self.tasks}.huey"]  # fmt: skip
