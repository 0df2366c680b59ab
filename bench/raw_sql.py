"""The raw limit's statements: the least SQL that moves rows as a ledger's own does.

Rows, changed columns and tables come from a `Specimen`; the only names written here are those
that a claim must search by.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

from bench.specimen import Row, Specimen, changed

BATCH = 500


def connect(path: Path, durable: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, with the ledger's settings."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.execute("PRAGMA cache_size=-16000")
    connection.execute("PRAGMA journal_size_limit=67108864")
    return connection


class Statements:
    """SQL texts and their constant parameters."""

    def __init__(self, specimen: Specimen) -> None:
        self._pending = specimen.pending
        self._attempt = specimen.attempt
        self.insert_job = _insert("jobs", specimen.pending)
        self.insert_attempt = _insert("attempts", specimen.attempt)

        claim_set = changed(specimen.pending, specimen.claimed)
        # Every index column is named so that the ledger's own partial index serves the search.
        self.claim = (
            f"UPDATE jobs SET {_assign(claim_set)} WHERE id IN (SELECT id FROM jobs"
            " WHERE rank = ? AND queue = ? AND careful = ? AND run_at <= ?"
            f" ORDER BY run_at LIMIT {BATCH}) RETURNING id, payload, policy"
        )
        self._claim_values = [specimen.claimed[c] for c in claim_set]
        self._search = [specimen.pending[c] for c in ("rank", "queue", "careful")]

        end_set = changed(specimen.claimed, specimen.succeeded)
        self.end = f"UPDATE jobs SET {_assign(end_set)} WHERE id = ? AND fence = ?"
        self._end_values = tuple(specimen.succeeded[c] for c in end_set)
        self._fence = specimen.claimed["fence"]

        retry_set = changed(specimen.failed, specimen.retried)
        self.retry = (
            f"UPDATE jobs SET {_assign(retry_set)} WHERE id IN"
            f" (SELECT id FROM jobs WHERE state = ? LIMIT {BATCH})"
        )
        self._retry_values = [*(specimen.retried[c] for c in retry_set), specimen.failed["state"]]

    def jobs(self, first: int, count: int) -> list[tuple[Any, ...]]:
        """Parameters of `insert_job` for jobs with ids from `first` on."""
        rest = tuple(v for c, v in self._pending.items() if c != "id")
        return [(number, *rest) for number in range(first, first + count)]

    def claim_values(self) -> list[Any]:
        """Parameters of `claim`."""
        return [*self._claim_values, *self._search, time.time_ns() // 1000]

    def end_values(self, ids: list[int]) -> list[tuple[Any, ...]]:
        """Parameters of `end` for these jobs."""
        return [(*self._end_values, job, self._fence) for job in ids]

    def attempts(self, ids: list[int]) -> list[tuple[Any, ...]]:
        """Parameters of `insert_attempt` for these jobs."""
        rest = tuple(v for c, v in self._attempt.items() if c != "job_id")
        return [(job, *rest) for job in ids]

    def retry_values(self) -> list[Any]:
        """Parameters of `retry`."""
        return self._retry_values

    def check(self, connection: sqlite3.Connection) -> None:
        """RuntimeError when the claim would read the whole table: then `claim` needs care."""
        plan = connection.execute(f"EXPLAIN QUERY PLAN {self.claim}", self.claim_values())
        steps = [row[-1] for row in plan]
        if any(step.startswith("SCAN jobs") for step in steps):
            raise RuntimeError(f"the raw claim uses no index any more: {steps}")


def ids() -> itertools.count[int]:
    """Job ids as a client makes them: growing, in 63 bits."""
    return itertools.count(time.time_ns())


def _insert(table: str, row: Row) -> str:
    # The key comes first, so that a row's parameters are the key and a constant rest.
    key = "id" if table == "jobs" else "job_id"
    columns = [key, *(c for c in row if c != key)]
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _assign(columns: list[str]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)
