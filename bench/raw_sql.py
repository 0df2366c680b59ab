"""The raw limit's statements: the least SQL that moves rows as a ledger's own does.

Rows, changed columns and tables come from a `Specimen`; the only names written here are those
that a claim must search by.
"""

from __future__ import annotations

import sqlite3
import time
from itertools import chain, count
from pathlib import Path
from typing import Any

from bench.specimen import ATTEMPTS, JOBS, Row, Specimen, changed

BATCH = 500
_LARGEST_COUNTER = 1_000


def connect(path: Path, durable: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, with the ledger's settings."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.execute("PRAGMA cache_size=-16000")
    connection.execute("PRAGMA journal_size_limit=67108864")
    return connection


class Statements:
    """SQL texts and their constant parameters.

    What differs from job to job (text, times) is bound; counters, flags and NULL stand in the
    statement, so that the limit is not slowed by binding what never changes.
    """

    def __init__(self, specimen: Specimen) -> None:
        pending, claimed, succeeded = specimen.pending, specimen.claimed, specimen.succeeded
        self.insert_job, self._job = insert(JOBS, "id", pending)
        self.insert_attempt, self._attempt = insert(ATTEMPTS, "job_id", specimen.attempt)

        claim_set, self._claim_values = assign(claimed, changed(pending, claimed))
        # Every index column is named so that the ledger's own partial index serves the search.
        self.claim = (
            f"UPDATE {JOBS} SET {claim_set} WHERE id IN (SELECT id FROM {JOBS}"
            f" WHERE rank = {int(pending['rank'])} AND queue = ?"
            f" AND careful = {int(pending['careful'])} AND run_at <= ?"
            f" ORDER BY run_at LIMIT {BATCH}) RETURNING id, payload, policy"
        )
        self._claim_values.append(pending["queue"])

        end_set, self._end_values = assign(succeeded, changed(claimed, succeeded))
        fence = int(claimed["fence"])
        self.end = f"UPDATE {JOBS} SET {end_set} WHERE id = ? AND fence = {fence}"

        self.fail, self.fail_values, self.retry, self.retry_values = bulk_moves(specimen)

    def jobs(self, first: int, number: int) -> list[tuple[Any, ...]]:
        """Parameters of `insert_job` for jobs with ids from `first` on."""
        return [(job, *self._job) for job in range(first, first + number)]

    def claim_values(self) -> list[Any]:
        """Parameters of `claim`."""
        return [*self._claim_values, time.time_ns() // 1000]

    def end_values(self, ids: list[int]) -> list[tuple[Any, ...]]:
        """Parameters of `end` for these jobs."""
        return [(*self._end_values, job) for job in ids]

    def attempts(self, ids: list[int]) -> list[tuple[Any, ...]]:
        """Parameters of `insert_attempt` for these jobs."""
        return [(job, *self._attempt) for job in ids]

    def check(self, connection: sqlite3.Connection) -> None:
        """RuntimeError when the claim would read the whole table: then `claim` needs care."""
        plan = connection.execute(f"EXPLAIN QUERY PLAN {self.claim}", self.claim_values())
        steps = [row[-1] for row in plan]
        if any(step.startswith(f"SCAN {JOBS}") for step in steps):
            raise RuntimeError(f"the raw claim uses no index any more: {steps}")


def ids() -> count[int]:
    """Job ids as a client makes them: growing, in 63 bits."""
    return count(time.time_ns())


def insert(table: str, key: str, row: Row, mark: str = "?") -> tuple[str, list[Any]]:
    """An insert of rows like `row`, and its parameters after the key.

    `mark` is what the driver wants where a value is bound.
    """
    columns = [c for c, value in row.items() if c != key and value is not None]
    literals, bound = zip(*(written(row[c], mark) for c in columns), strict=True)
    names = ", ".join((key, *columns))
    values = ", ".join((mark, *literals))
    return f"INSERT INTO {table} ({names}) VALUES ({values})", list(chain(*bound))


def assign(row: Row, columns: list[str], mark: str = "?") -> tuple[str, list[Any]]:
    """A SET clause that gives `columns` the row's values, and its parameters."""
    literals, bound = zip(*(written(row[c], mark) for c in columns), strict=True)
    pairs = zip(columns, literals, strict=True)
    return ", ".join(f"{column} = {literal}" for column, literal in pairs), list(chain(*bound))


def bulk_moves(specimen: Specimen, mark: str = "?") -> tuple[str, list[Any], str, list[Any]]:
    """One statement that makes all pending jobs failed, one that retries them; parameters of each.

    The second is the least that a retry of everything can be: one update, in one transaction.
    """
    pending, failed, retried = specimen.pending, specimen.failed, specimen.retried
    fail, failing = assign(failed, [c for c in changed(pending, failed) if c != "id"], mark)
    again, retrying = assign(retried, changed(failed, retried), mark)
    return (
        f"UPDATE {JOBS} SET {fail} WHERE state = {mark}",
        [*failing, pending["state"]],
        f"UPDATE {JOBS} SET {again} WHERE state = {mark}",
        [*retrying, failed["state"]],
    )


def written(value: Any, mark: str = "?") -> tuple[str, list[Any]]:
    """A value as it stands in a statement, and what must be bound for it."""
    if value is None:
        return "NULL", []
    constant = isinstance(value, int) and abs(value) <= _LARGEST_COUNTER
    return (str(value), []) if constant else (mark, [value])
