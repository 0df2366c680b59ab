"""A ledger with a past: many ended jobs and their attempts, written by SQL in seconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bench.specimen import Row, Specimen

JOBS = 1_000_000
_MICROSECONDS_APART = 50_000
_ID_STEP = 50 << 22


def grow(ledger: Path, specimen: Specimen, jobs: int = JOBS) -> None:
    """Add `jobs` ended jobs, older than the specimen's, to a ledger that nobody has open."""
    connection = sqlite3.connect(ledger, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-400000")
    for table, row, key in (("failbetter_jobs", specimen.succeeded, "id"),
                            ("failbetter_attempts", specimen.attempt, "job_id")):  # fmt: skip
        sql, values = _fill(table, row, key, jobs)
        connection.execute(sql, values)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _fill(table: str, row: Row, key: str, jobs: int) -> tuple[str, list[object]]:
    """An insert of `jobs` rows like `row`, each a little older than the one after it."""
    choices, values = [], []
    for column, value in row.items():
        if column == key:
            choices.append(f"? - (? - n) * {_ID_STEP}")
            values += [value, jobs + 1]
        elif column.endswith("_at") and value is not None:
            choices.append(f"? - (? - n) * {_MICROSECONDS_APART}")
            values += [value, jobs + 1]
        else:
            choices.append("?")
            values.append(value)
    return (
        "WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < ?)"
        f" INSERT INTO {table} ({', '.join(row)}) SELECT {', '.join(choices)} FROM count",
        [jobs, *values],
    )
