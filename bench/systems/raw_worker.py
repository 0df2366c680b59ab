"""The raw limit's worker: claims 500 jobs in one commit, ends them in another, until none is left.

It runs no body and reads no payload; it marks jobs as it claims them, as bodies do elsewhere.
"""

from __future__ import annotations

import gc
import os
import sys

from bench import marks
from bench.systems.raw_tasks import connection, statements


def main() -> None:
    """Drain. With the argument `fail`, jobs end as the failed specimen did."""
    statements.check(connection)
    stride = int(os.environ[marks.STRIDE]) or sys.maxsize
    done = 0
    gc.collect()
    while True:
        if done == 0:
            marks.write(0)
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(statements.claim, statements.claim_values()).fetchall()
        connection.execute("COMMIT")
        if not rows:
            return
        claimed = [row[0] for row in rows]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statements.end, statements.end_values(claimed))
        connection.executemany(statements.insert_attempt, statements.attempts(claimed))
        connection.execute("COMMIT")
        for number in range(done + 1, done + len(rows) + 1):
            if number % stride == 0:
                marks.write(number)
        done += len(rows)


if __name__ == "__main__":
    main()
