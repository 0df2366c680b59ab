"""A failbetter ledger's tables and rows as found in a real database, for the raw limit to imitate.

Nothing of the schema is written down here: tables, indexes and triggers are copied from
`sqlite_master` (on PostgreSQL, a migrated database is copied whole), and which columns a claim,
an ending or a retry changes is seen by comparing a real job's row before and after. So the raw
limit does the same work, however the ledger changes.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

JOBS, ATTEMPTS = "failbetter_jobs", "failbetter_attempts"
Row = dict[str, Any]


class Connection(Protocol):
    """What a connection of `sqlite3` and one of `psycopg` have in common."""

    def execute(self, statement: Any, /) -> Any:
        """Run a statement; its cursor."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Specimen:
    """Rows, column -> value; and on SQLite, what its tables are made by."""

    pending: Row
    """A job just enqueued; `claimed`, `succeeded`: the same job later."""
    claimed: Row
    succeeded: Row
    attempt: Row
    """The attempt row that its ending wrote."""
    failed: Row
    """A job that failed for good; `retried`: the same job after a retry."""
    retried: Row
    ddl: list[str] = field(default_factory=list)
    """As it stands in `sqlite_master`."""
    page_size: int = 0

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


def read_row(connection: Connection, table: str, job: int) -> Row | None:
    """The job's row in the table of jobs, or its only one in that of attempts; None without one."""
    column = "id" if table == JOBS else "job_id"
    found = connection.execute(f"SELECT * FROM {table} WHERE {column} = {job:d}")
    values = found.fetchone()
    if values is None:
        return None
    return dict(zip((d[0] for d in found.description), values, strict=True))


def changed(before: Row, after: Row) -> list[str]:
    """The columns in which two rows differ."""
    return [column for column in before if before[column] != after[column]]
