"""The raw limit's producer on PostgreSQL: plain `psycopg` doing what the ledger does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench.pg_sql import Link, Statements
from bench.raw_sql import BATCH, ids
from bench.specimen import JOBS, Specimen

connection: Link = psycopg.connect(os.environ["BENCH_POSTGRES"], autocommit=True)
statements = Statements(Specimen.load(Path(os.environ["BENCH_SPECIMEN"])), connection)


class _Producer:
    def __init__(self) -> None:
        self._ids = ids()

    def one(self, body: str) -> Callable[[int], object]:
        insert, (_, *template) = statements.insert_job, statements.job(0)
        execute, numbers = connection.execute, self._ids

        def call(number: int) -> object:
            # In autocommit mode a statement is its own transaction.
            return execute(insert, (next(numbers), *template))

        return call

    def bulk(self, body: str) -> Callable[[range], object]:
        put = self._copy if os.environ["BENCH_RAW_BULK"] == "copy" else self._many

        def call(numbers: range) -> None:
            for start in range(0, len(numbers), BATCH):
                put([next(self._ids) for _ in numbers[start : start + BATCH]])

        return call

    @staticmethod
    def _copy(jobs: list[int]) -> None:
        statements.copy_jobs.put(connection, jobs)

    @staticmethod
    def _many(jobs: list[int]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(statements.insert_job, list(map(statements.job, jobs)))

    def ended(self, total: int) -> bool:
        live = f"SELECT 1 FROM {JOBS} WHERE state IN ('pending', 'running') LIMIT 1"
        return connection.execute(live).fetchone() is None

    def fail_all(self) -> None:
        connection.execute(statements.fail, statements.fail_values)

    def retry_all(self) -> int:
        return connection.execute(statements.retry, statements.retry_values).rowcount


producer = _Producer()
