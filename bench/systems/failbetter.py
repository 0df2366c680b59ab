"""failbetter on SQLite, durable (its default) and relaxed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.systems.base import Counts, System


class Failbetter(System):
    """One worker is a supervisor and `--processes` children, `--concurrency 1`."""

    family = "failbetter"
    tasks = "bench.systems.failbetter_tasks"

    def __init__(self, python: Path, durable: bool, seed: Path | None = None) -> None:
        """`seed`: a database file that every session begins with a copy of."""
        super().__init__(python)
        self._seed = seed
        self.durability = "durable" if durable else "relaxed"
        self.key = "failbetter" if durable else "failbetter-relaxed"
        self.title = f"failbetter, SQLite, {self.durability}"
        one = 3_000 if durable else 10_000
        self.counts = Counts(
            one=one, bulk=50_000, drain=80_000, spin=5_000, latency=150, retry=50_000
        )
        if durable:
            self.measures = frozenset(
                {"enqueue", "drain", "scaling", "latency", "memory", "growth", "retry"}
            )
        else:
            self.measures = frozenset({"enqueue", "drain"})

    def grown(self, seed: Path) -> Failbetter:
        """The same system, on copies of a database that has a history."""
        return Failbetter(self.python, self.durability == "durable", seed)

    def prepare(self, folder: Path) -> None:
        if self._seed is not None:
            shutil.copyfile(self._seed, self.ledger(folder))
            # Else the copy is written out under the measurement, whose own syncs wait for it.
            with self.ledger(folder).open("rb+") as copy:
                os.fsync(copy.fileno())

    def ledger(self, folder: Path) -> Path:
        """The database's file in a session's folder."""
        return folder / "jobs.db"

    def environment(self, folder: Path) -> Mapping[str, str]:
        durability = "full" if self.durability == "durable" else "relaxed"
        return {"BENCH_LEDGER": str(self.ledger(folder)), "BENCH_DURABILITY": durability}

    def worker_command(self, processes: int) -> Sequence[str]:
        return [str(self.python), "-m", "failbetter", "-A", f"{self.tasks}:app", "worker",
                "--processes", str(processes), "--concurrency", "1"]  # fmt: skip
