"""The raw limit's statements on PostgreSQL, for plain psycopg; `raw_sql` says what they imitate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import psycopg

from bench.raw_sql import BATCH, assign, bulk_moves, insert, written
from bench.specimen import ATTEMPTS, JOBS, Row, Specimen, changed

MARK = "%s"
BINARY_MARK = "%b"

Link = psycopg.Connection[Any]


class Copy:
    """A binary COPY of rows like `row`, each with a `key` of its own: the fastest way in."""

    def __init__(self, link: Link, table: str, key: str, row: Row) -> None:
        columns = [c for c, value in row.items() if c != key and value is not None]
        names = ", ".join((key, *columns))
        found = link.execute(f"SELECT {names} FROM {table} LIMIT 0").description
        assert found is not None
        self._types = [column.type_code for column in found]
        self._statement = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)"
        self._rest = [row[c] for c in columns]

    def put(self, link: Link, keys: Iterable[int]) -> None:
        """Write a row for each key."""
        with link.cursor() as cursor, cursor.copy(self._statement) as copy:
            copy.set_types(self._types)
            for key in keys:
                copy.write_row((key, *self._rest))


class Statements:
    """SQL texts and their constant parameters."""

    def __init__(self, specimen: Specimen, link: Link) -> None:
        pending, claimed, succeeded = specimen.pending, specimen.claimed, specimen.succeeded
        self.insert_job, self._bound = insert(JOBS, "id", pending, MARK)
        self.copy_jobs = Copy(link, JOBS, "id", pending)
        self.copy_attempts = Copy(link, ATTEMPTS, "job_id", specimen.attempt)

        claim_set, self._claim_values = assign(claimed, changed(pending, claimed), MARK)
        self.claim = (
            f"UPDATE {JOBS} SET {claim_set} WHERE id IN (SELECT id FROM {JOBS}"
            f" WHERE rank = {int(pending['rank'])} AND queue = {MARK}"
            f" AND careful = {int(pending['careful'])} AND run_at <= {MARK}"
            f" ORDER BY run_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED) RETURNING id, payload, policy"
        )
        self._claim_values.append(pending["queue"])

        columns = changed(claimed, succeeded)
        self.fail, self.fail_values, self.retry, self.retry_values = bulk_moves(specimen, MARK)

        self.end, self._ended = _end(succeeded, columns, int(claimed["fence"]))

    def job(self, key: int) -> tuple[Any, ...]:
        """Parameters of `insert_job`."""
        return (key, *self._bound)

    def claim_values(self) -> list[Any]:
        """Parameters of `claim`."""
        return [*self._claim_values, time.time_ns() // 1000]

    def end_values(self, ids: list[int]) -> list[list[Any]]:
        """Parameters of `end`: an array for each column."""
        return [ids, *([value] * len(ids) for value in self._ended)]

    def check(self, link: Link) -> None:
        """RuntimeError when the claim would read the whole table: then `claim` needs care."""
        plan = link.execute(f"EXPLAIN {self.claim}", self.claim_values()).fetchall()
        if any(f"Seq Scan on {JOBS}" in step for (step,) in plan):
            raise RuntimeError(f"the raw claim uses no index any more: {plan}")


def _end(row: Row, columns: list[str], fence: int) -> tuple[str, list[Any]]:
    """An update of many jobs at once, and a job's element of each array but that of the ids."""
    pairs, names, types, values = [], ["id"], ["bigint"], []
    for column in columns:
        text, bound = written(row[column], f"v.{column}")
        pairs.append(f"{column} = {text}")
        if bound:
            names.append(column)
            types.append("bigint" if isinstance(row[column], int) else "text")
            values.append(row[column])
    arrays = ", ".join(f"{BINARY_MARK}::{kind}[]" for kind in types)
    statement = (
        f"UPDATE {JOBS} AS j SET {', '.join(pairs)}"
        f" FROM unnest({arrays}) AS v ({', '.join(names)}) WHERE j.id = v.id AND j.fence = {fence}"
    )
    return statement, values
