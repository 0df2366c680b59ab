"""The raw limit's worker on PostgreSQL; see `raw_worker`."""

from __future__ import annotations

import gc
import os
import sys

from bench import marks
from bench.systems.raw_pg_tasks import connection, statements


def main() -> None:
    """Drain."""
    statements.check(connection)
    stride = int(os.environ[marks.STRIDE]) or sys.maxsize
    done = 0
    gc.collect()
    while True:
        if done == 0:
            marks.write(0)
        rows = connection.execute(statements.claim, statements.claim_values()).fetchall()
        if not rows:
            return
        claimed = [row[0] for row in rows]
        with connection.transaction():
            connection.execute(statements.end, statements.end_values(claimed))
            statements.copy_attempts.put(connection, claimed)
        for number in range(done + 1, done + len(rows) + 1):
            if number % stride == 0:
                marks.write(number)
        done += len(rows)


if __name__ == "__main__":
    main()
