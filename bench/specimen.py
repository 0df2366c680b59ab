"""A failbetter ledger's tables and rows as found in a real database, for the raw limit to imitate.

Nothing of the schema is written down here: tables, indexes and triggers are copied from
`sqlite_master`, and which columns a claim, an ending or a retry changes is seen by comparing a
real job's row before and after. So the raw limit does the same work, however the ledger changes.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Specimen:
    """`ddl` as it stands in `sqlite_master`; the rest are rows, column -> value."""

    ddl: list[str]
    page_size: int
    pending: Row
    """A job just enqueued; `claimed`, `succeeded`: the same job later."""
    claimed: Row
    succeeded: Row
    attempt: Row
    """The attempt row that its ending wrote."""
    failed: Row
    """A job that failed for good; `retried`: the same job after a retry."""
    retried: Row

    def save(self, path: Path) -> None:
        """Write it to a file, for the raw limit's processes."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Specimen:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))

    def create(self, path: Path) -> None:
        """Make an empty database with these tables and indexes, in WAL mode."""
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA page_size={self.page_size}")
        connection.execute("PRAGMA journal_mode=WAL")
        for statement in self.ddl:
            connection.execute(statement)
        connection.close()


def read_ddl(connection: sqlite3.Connection) -> list[str]:
    """The statements that make this database's tables, then its indexes and triggers."""
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        " ORDER BY type <> 'table', rowid"
    )
    return [sql for (sql,) in found]


def read_row(connection: sqlite3.Connection, table: str, job: int) -> Row | None:
    """The job's row in `jobs`, or its only one in `attempts`; None when there is none."""
    column = "id" if table == "jobs" else "job_id"
    found = connection.execute(f"SELECT * FROM {table} WHERE {column} = ?", (job,))
    values = found.fetchone()
    if values is None:
        return None
    return dict(zip((d[0] for d in found.description), values, strict=True))


def changed(before: Row, after: Row) -> list[str]:
    """The columns in which two rows differ."""
    return [column for column in before if before[column] != after[column]]
