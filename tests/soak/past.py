"""A ledger with a past: rows like those of jobs that really ran, in great number, by SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from failbetter.ledger.schema import attempts, jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Table

_APART: Final = 50_000
"""Microseconds between two jobs of the past."""
_ID_STEP: Final = 50 << 22
_CHUNK: Final = 500_000
_KEYS: Final = ("unique_key", "exclusive_key")


class Share(NamedTuple):
    """So many jobs that differ from one that really ran in their id, their times and their keys."""

    like: int
    jobs: int


def grow(dsn: str, shares: Sequence[Share]) -> None:
    """Add ended jobs, each with its attempts, older than all that there are; indexes are kept.

    Until `settle` the server knows nothing of them, as after a restore.
    """
    with psycopg.connect(dsn, autocommit=True) as link:
        for table in (jobs, attempts):
            link.execute(_alter(table, "SET (autovacuum_enabled = false)"))
        link.execute("SET synchronous_commit = off")
        for share in shares:
            for table, key in ((jobs, "id"), (attempts, "job_id")):
                statement = _copies(table, key)
                for first in range(1, share.jobs + 1, _CHUNK):
                    last = min(first + _CHUNK - 1, share.jobs)
                    link.execute(statement, {"like": share.like, "first": first, "last": last})


def _copies(table: Table, key: str) -> sql.Composed:
    """An insert of rows `first` to `last` like the rows of one job, each older than the next."""
    chosen: list[sql.Composable] = []
    for column in table.columns:
        name = sql.Identifier(column.name)
        if column.name == key:
            chosen.append(sql.SQL("{} - n * {}").format(name, sql.Literal(_ID_STEP)))
        elif column.name.endswith("_at"):
            chosen.append(sql.SQL("{} - n * {}").format(name, sql.Literal(_APART)))
        elif column.name in _KEYS:
            chosen.append(sql.SQL("{} || n").format(name))
        else:
            chosen.append(name)
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {chosen}"
        " FROM {table}, generate_series(%(first)s::bigint, %(last)s::bigint) AS n"
        " WHERE {key} = %(like)s"
    ).format(
        table=sql.Identifier(table.name),
        names=sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
        chosen=sql.SQL(", ").join(chosen),
        key=sql.Identifier(key),
    )


def settle(dsn: str) -> None:
    """What the server does by itself some time after, here at once."""
    with psycopg.connect(dsn, autocommit=True) as link:
        for table in (jobs, attempts):
            link.execute(_alter(table, "RESET (autovacuum_enabled)"))
            link.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table.name)))
        link.execute("CHECKPOINT")


def _alter(table: Table, what: LiteralString) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(table.name), sql.SQL(what))


def one(dsn: str, statement: Any, *values: Any) -> Any:
    """The first value that a statement returns."""
    with psycopg.connect(dsn, autocommit=True) as link:
        row = link.execute(statement, values or None).fetchone()
    return None if row is None else row[0]
