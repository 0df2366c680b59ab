"""The tables. Hot ones hold integers and text only, so that a driver can run them unconverted.

Times are microseconds since the epoch. What is `1 or NULL` is so on purpose: a unique index
over it binds only the rows where it is 1, on every database, with no partial index needed.
Partial indexes are used where a database has them, for size alone; nothing depends on one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

from failbetter.limits import KEY_LENGTH

REVISION = "0001"
"""The migration this version of the code works with."""

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("task", String(KEY_LENGTH), nullable=False),
    Column("queue", String(KEY_LENGTH), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(16)),
    # Minus the priority while the job waits for a claim, else NULL: the claim reads only these.
    Column("rank", Integer),
    # 1: claimed one by one, because at most one of its exclusive key may run.
    Column("careful", SmallInteger, nullable=False),
    Column("run_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("expires_at", BigInteger),
    # Counts every claim and every ending: whoever wrote it last owns the row.
    Column("fence", Integer, nullable=False),
    Column("worker", BigInteger),
    Column("live", SmallInteger),
    Column("claimed", SmallInteger),
    Column("cancel", SmallInteger),
    Column("starts", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("hand_backs", Integer, nullable=False),
    Column("suspect", SmallInteger, nullable=False),
    Column("released_since", BigInteger),
    Column("payload", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("unique_key", String(KEY_LENGTH)),
    Column("exclusive_key", String(KEY_LENGTH)),
    Column("subject", String(KEY_LENGTH)),
    Column("tags", Text),
    Column("result", Text),
    Column("note", Text),
    Column("error_type", String(KEY_LENGTH)),
    Column("error_message", Text),
    Column("fingerprint", String(40)),
)


def _where(condition: str) -> dict[str, Any]:
    # Naming a dialect loads it, which costs every worker memory: only those in use are named.
    return {"sqlite_where": text(condition)}


Index(
    "jobs_waiting",
    jobs.c.rank,
    jobs.c.queue,
    jobs.c.careful,
    jobs.c.run_at,
    **_where("rank IS NOT NULL"),
)
Index("jobs_by_worker", jobs.c.worker, **_where("worker IS NOT NULL"))
Index(
    "jobs_unique",
    jobs.c.unique_key,
    jobs.c.live,
    unique=True,
    **_where("unique_key IS NOT NULL"),
)
Index(
    "jobs_exclusive",
    jobs.c.exclusive_key,
    jobs.c.claimed,
    unique=True,
    **_where("exclusive_key IS NOT NULL"),
)
Index("jobs_expiring", jobs.c.expires_at, jobs.c.live, **_where("expires_at IS NOT NULL"))
Index("jobs_by_state", jobs.c.state, jobs.c.ended_at)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("cause", String(20), nullable=False),
    # What the attempt's end made of the job.
    Column("state", String(12), nullable=False),
    Column("reason", String(16)),
    Column("run_at", BigInteger),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger, nullable=False),
    Column("worker", String(KEY_LENGTH), nullable=False),
    Column("code", String(64)),
    Column("error_type", String(KEY_LENGTH)),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("evidence", Text),
    sqlite_with_rowid=False,
)

effects = Table(
    "effects",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(KEY_LENGTH), primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("intended_at", BigInteger, nullable=False),
    Column("done_at", BigInteger),
    Column("result", Text),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(KEY_LENGTH), nullable=False),
    Column("host", String(KEY_LENGTH), nullable=False),
    Column("pid", Integer, nullable=False),
    # Which lock folder its lock file is in; a lock can be judged only from the same one.
    Column("fleet", String(64), nullable=False),
    Column("lease", BigInteger, nullable=False),
    # Counts renewals: a sweeper watches it by its own clock, so no two clocks are compared.
    Column("beats", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("stopping", SmallInteger, nullable=False),
    Column("code", String(64)),
    Column("queues", Text, nullable=False),
    Column("tasks", Text, nullable=False),
    Column("processes", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
)
