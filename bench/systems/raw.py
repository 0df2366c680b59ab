"""The raw limit as a system: tables of a real ledger, plain `sqlite3`, batches of 500."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.specimen import Specimen
from bench.systems.base import Counts, System


class Raw(System):
    """`durable`: a sync at each commit (synchronous=FULL); else NORMAL."""

    family = "raw"
    store = "sqlite"
    tasks = "bench.systems.raw_tasks"
    counts = Counts(one=3_000, bulk=50_000, drain=80_000, spin=0, latency=0, retry=50_000)
    measures = frozenset({"enqueue", "drain", "retry"})
    drains = ("drain.1",)

    def __init__(self, python: Path, specimen: Path, durable: bool) -> None:
        super().__init__(python)
        self._specimen = specimen
        self.durability = "durable" if durable else "relaxed"
        self.key = "raw" if durable else "raw-relaxed"
        self.title = f"raw limit: plain sqlite3, {self.durability}"
        if not durable:
            self.measures = frozenset({"enqueue", "drain"})
            self.counts = Counts(one=20_000, bulk=50_000, drain=80_000, spin=0, latency=0)

    def prepare(self, folder: Path) -> None:
        Specimen.load(self._specimen).create(folder / "raw.db")

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {
            "BENCH_RAW_FILE": str(folder / "raw.db"),
            "BENCH_RAW_DURABLE": "1" if self.durability == "durable" else "0",
            "BENCH_SPECIMEN": str(self._specimen),
        }

    def worker_command(self, processes: int) -> Sequence[str]:
        return [str(self.python), "-m", "bench.systems.raw_worker"]
