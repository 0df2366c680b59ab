"""failbetter on SQLite, durable (its default) and relaxed, and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from bench.specimen import Connection
from bench.systems.base import Counts, System
from bench.systems.on_postgres import OnPostgres


class OfFailbetter(System):
    """One worker is a supervisor and `--processes` children, `--concurrency 1`."""

    family = "failbetter"
    tasks = "bench.systems.failbetter_tasks"
    drains = ("drain.1", "drain.2", "drain.two-workers")

    def command(self, *arguments: str) -> Sequence[str]:
        """A command of failbetter's."""
        return [str(self.python), "-m", "failbetter", "-A", f"{self.tasks}:app", *arguments]

    def worker_command(self, processes: int) -> Sequence[str]:
        return self.command("worker", "--processes", str(processes), "--concurrency", "1")

    @abstractmethod
    def look(self, folder: Path) -> Connection:
        """An onlooker's connection to a session's ledger."""


class Failbetter(OfFailbetter):
    """On SQLite."""

    store = "sqlite"

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
        url = f"sqlite:///{self.ledger(folder)}"
        return {"BENCH_LEDGER": url, "BENCH_DURABILITY": durability}

    def look(self, folder: Path) -> Connection:
        return sqlite3.connect(self.ledger(folder), isolation_level=None, timeout=30)


class FailbetterPg(OnPostgres, OfFailbetter):
    """On PostgreSQL."""

    key = "failbetter-pg"
    title = "failbetter"
    counts = Counts(one=3_000, bulk=50_000, drain=50_000, spin=0, latency=150, retry=50_000)
    measures = frozenset({"enqueue", "drain", "latency", "memory", "retry"})

    def installer(self) -> Sequence[str]:
        return self.command("migrate")

    def reach(self, url: str) -> Mapping[str, str]:
        ledger = url.replace("postgresql:", "postgresql+psycopg:", 1)
        return {**super().reach(url), "BENCH_LEDGER": ledger, "BENCH_DURABILITY": "full"}

    def look(self, folder: Path) -> Connection:
        link: psycopg.Connection[Any] = psycopg.connect(self.url(folder), autocommit=True)
        return link
