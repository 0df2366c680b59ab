"""The raw limit's producer: plain `sqlite3` doing what the ledger does, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.raw_sql import BATCH, Statements, connect, ids
from bench.specimen import Specimen

connection = connect(Path(os.environ["BENCH_RAW_FILE"]), os.environ["BENCH_RAW_DURABLE"] == "1")
statements = Statements(Specimen.load(Path(os.environ["BENCH_SPECIMEN"])))


class _Producer:
    def __init__(self) -> None:
        self._ids = ids()
        self._next = next(self._ids)

    def one(self, body: str) -> Callable[[int], object]:
        insert, template = statements.insert_job, statements.jobs(0, 1)[0][1:]
        execute, numbers = connection.execute, self._ids

        def call(number: int) -> object:
            # In autocommit mode a statement is its own transaction.
            return execute(insert, (next(numbers), *template))

        return call

    def bulk(self, body: str) -> Callable[[range], object]:
        def call(numbers: range) -> None:
            for start in range(0, len(numbers), BATCH):
                count = min(BATCH, len(numbers) - start)
                first = next(self._ids)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statements.insert_job, statements.jobs(first, count))
                connection.execute("COMMIT")
                for _ in range(count):
                    next(self._ids)

        return call

    def ended(self, total: int) -> bool:
        live = "SELECT 1 FROM failbetter_jobs WHERE state IN ('pending', 'running') LIMIT 1"
        return connection.execute(live).fetchone() is None

    def fail_all(self) -> None:
        connection.execute(statements.fail, statements.fail_values)

    def retry_all(self) -> int:
        return connection.execute(statements.retry, statements.retry_values).rowcount


producer = _Producer()
