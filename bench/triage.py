"""How long it takes to look through many failures: `python -m bench.triage [--jobs N] [--url URL]`.

Fills an empty ledger with failed jobs, set-based, and prints medians in milliseconds. Without a
URL the ledger is a SQLite file in a temporary folder. The jobs are of 20 tasks, 3 queues, 200
causes and 2 versions of the code; every filter is asked for something that few and something that
many jobs match, where it matters.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy
from sqlalchemy import text

import failbetter
from failbetter.ledger import migrate
from failbetter.lifecycle.policy import Policy

_SOURCE = {
    "sqlite": (
        "WITH RECURSIVE numbers(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :many)"
    ),
    "postgresql": (
        "WITH numbers AS (SELECT n FROM generate_series(CAST(1 AS bigint), :many) AS made(n))"
    ),
}
_JOBS = """
INSERT INTO failbetter_jobs (
    id, task, queue, priority, state, reason, careful, run_at, created_at, begun_at, ended_at,
    fence, starts, attempts, crashes, losses, hand_backs, suspect, payload, policy, tags,
    error_type, error_message, fingerprint, code
)
{source}
SELECT
    :first + n * 1000, 'shop.task_' || (n % 20), 'queue_' || (n % 3), 0, 'failed', 'error', 0,
    :now, :now + n, :now + n, :now + n, 2, 1 + n % 5, 1 + n % 5, 0, 0, 0, 0,
    '{{"path":"/srv/images/' || n || '.png","size": 3}}', :policy, '["billing"]',
    CASE WHEN n % 200 < 150 THEN 'requests.exceptions.ConnectionError' ELSE 'KeyError' END,
    'HTTPConnectionPool(host=''api'', port=443): max retries exceeded, ' || n,
    '1-' || substr(CAST(1000000000 + n * 7919 % 200 * 2654435761 AS TEXT) || '0000000000', 1, 16),
    'abcdef01234' || (n % 2)
FROM numbers
"""
_ATTEMPTS = """
INSERT INTO failbetter_attempts (
    job_id, fence, number, cause, state, reason, begun_at, ended_at, worker, code, error_type,
    error_message, traceback
)
SELECT
    id, 1, 1, 'raised', 'failed', 'error', begun_at, ended_at, 'host-' || (id / 1000 % 4), code,
    error_type, error_message, 'Traceback (most recent call last): …'
FROM failbetter_jobs
"""
_BASES = """
INSERT INTO failbetter_bases VALUES
    ('requests.exceptions.ConnectionError', 'OSError'), ('KeyError', 'LookupError')
"""


def fill(app: failbetter.App, many: int) -> None:
    """Failed jobs with their attempts; the statistics that a server gathers in time, at once."""
    with app.database.engine.connect() as connection:
        name = connection.dialect.name
        now = app.database.now() - many
        values = {"many": many, "first": 1 << 60, "now": now, "policy": Policy().to_json()}
        connection.execute(text(_JOBS.format(source=_SOURCE[name])), values)
        connection.execute(text(_ATTEMPTS))
        connection.execute(text(_BASES))
        connection.commit()
    if name == "postgresql":
        with app.database.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(text("VACUUM ANALYZE"))


def questions(failed: failbetter.Jobs) -> dict[str, Callable[[], object]]:
    """What a person asks."""
    key = failed.groups()[0].fingerprint
    assert key is not None

    def page(jobs: failbetter.Jobs) -> Callable[[], object]:
        return lambda: list(jobs.limit(50))

    def pages(jobs: failbetter.Jobs) -> Callable[[], object]:
        return lambda: sum(1 for _ in jobs.limit(50_000))

    where = failed.where
    return {
        "groups": failed.groups,
        "groups of a task": where(task="shop.task_3").groups,
        "groups since 1 h": where(since="1h").groups,
        "groups of an error": where(error="OSError").groups,
        "list": page(failed),
        "list of a cause": page(where(fingerprint=key)),
        "list of a task": page(where(task="shop.task_3")),
        "list of no task": page(where(task="nothing")),
        "list since 1 h": page(where(since="1h")),
        "list until 1 h ago": page(where(until="1h")),
        "list of a message": page(where(message="*, 77*")),
        "list of no message": page(where(message="*nothing*")),
        "50,000 in pages": pages(failed),
        "count": failed.count,
        "count of a cause": where(fingerprint=key).count,
        "count of a task": where(task="shop.task_3").count,
        "count of tasks": where(task="shop.*").count,
        "count without a task": failed.exclude(task="shop.task_3").count,
        "count of a queue": where(queue="queue_1").count,
        "count of a reason": where(reason="error").count,
        "count of an error": where(error="ConnectionError").count,
        "count of subclasses": where(error="OSError").count,
        "count of a code": where(code="abcdef012341").count,
        "count since 1 h": where(since="1h").count,
        "count of a message": where(message="*, 77*").count,
        "count of an argument": where(args={"path": "*77.png"}).count,
        "count of a tag": where(tag="billing").count,
        "count of attempts": where(attempts=">=3").count,
        "count of a worker": where(worker="host-1").count,
    }


def measure(url: str, many: int, rounds: int) -> None:
    """Fill, ask, print."""
    app = failbetter.App(url)
    if not app.database.kind.makes_schema:
        migrate.upgrade(app.database)
    app.database.ensure_schema()
    fill(app, many)
    print(f"{many:,} failed jobs, {sqlalchemy.make_url(url).get_backend_name()}, median ms")
    for name, ask in questions(app.failed).items():
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            ask()
            times.append(time.perf_counter() - begun)
        print(f"{name:24} {statistics.median(times) * 1000:9.1f}")
    app.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.triage", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="an empty database; else a SQLite file that is deleted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given.url or f"sqlite:///{Path(folder) / 'jobs.db'}", given.jobs, given.rounds)


if __name__ == "__main__":
    main()
