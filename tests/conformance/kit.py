"""The ledger's verbs as tests want them: each in a transaction of its own, with short defaults."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

from failbetter.ledger import acts, claims, effects, reads, registry
from failbetter.ledger.claims import Claimed
from failbetter.ledger.database import Database
from failbetter.ledger.endings import Error, Settlement, settle
from failbetter.ledger.enqueue import NewJob, insert_jobs
from failbetter.ledger.filters import Filters
from failbetter.ledger.kinds.mysql import MySQL
from failbetter.ledger.kinds.postgres import Postgres
from failbetter.ledger.kinds.sqlite import SQLite
from failbetter.ledger.reads import AttemptRow, JobRow
from failbetter.ledger.registry import Worker
from failbetter.lifecycle.backoff import fixed
from failbetter.lifecycle.decide import Outcome, Transition, decide
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
"""A moment in the past: what is due then is due now."""

POLICY = Policy(backoff=fixed(10, jitter=False))


def wall() -> int:
    """The time now, in the ledger's microseconds."""
    return time.time_ns() // 1000


def set_clocks(monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    """For every ledger, it is that time for as long as the patch holds."""
    for kind in (SQLite, Postgres, MySQL):
        monkeypatch.setattr(kind, "now", lambda self: now)


def driver_connection(url: str, *, autocommit: bool = False) -> Any:
    """A connection of the database's own driver, as an application may have it."""
    given = make_url(url)
    if given.get_backend_name() == "sqlite":
        return sqlite3.connect(str(given.database))
    if given.get_backend_name() == "postgresql":
        return psycopg.connect(url.replace("+psycopg", ""), autocommit=autocommit)
    return pymysql.connect(**given.translate_connect_args(username="user"), autocommit=autocommit)


def new_job(policy: Policy = POLICY, **given: Any) -> NewJob:
    """A job to insert; everything has a default. `unique` and `exclusive` are short for keys."""
    for short in ("unique", "exclusive"):
        if short in given:
            given[f"{short}_key"] = given.pop(short)
    fields: dict[str, Any] = {
        "task": "work",
        "queue": "default",
        "priority": 0,
        "run_at": NOW,
        "created_at": NOW,
        "expires_at": None,
        "payload": "{}",
        "policy": policy.to_json(),
        **given,
    }
    return NewJob(**fields)


def new_worker(number: int = 1, **given: Any) -> Worker:
    """A worker to register."""
    fields: dict[str, Any] = {
        "id": number,
        "name": f"worker-{number}",
        "host": "here",
        "pid": 100 + number,
        "fleet": "elsewhere",
        "lease": 30 * SECOND,
        "beats": 0,
        "renewed_at": NOW,
        "started_at": NOW,
        "stopping": 0,
        "code": "v1",
        "queues": "[]",
        "tasks": '["work"]',
        "processes": 1,
        "concurrency": 1,
        **given,
    }
    return Worker(**fields)


def attempt_of(job: Claimed) -> tuple[int, int, int]:
    """Which attempt a claim began: id, fence, worker."""
    assert job.worker is not None
    return job.id, job.fence, job.worker


class Chance:
    """Always the same."""

    def random(self) -> float:
        return 0.5


def ending(
    job: Claimed,
    cause: Cause = Cause.RETURNED,
    *,
    now: int = NOW,
    worker: str = "worker-1",
    error: Error | None = None,
    result: str | None = None,
    note: str | None = None,
    evidence: str | None = None,
    **outcome: Any,
) -> Settlement:
    """How a worker would have an attempt end."""
    said = Outcome(cause, **outcome)
    return Settlement(
        job.id,
        job.fence,
        job.worker,
        job.starts + 1,
        job.priority,
        decide(job.facts(), said, now, Chance()),
        cause,
        now if said.begun else None,
        now,
        worker,
        "v1",
        result,
        note,
        error,
        evidence,
        mirror_key=job.mirror_key,
        about=job.about,
    )


class Ledger:
    """A database with its verbs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # -- jobs

    def insert(self, *new: NewJob) -> list[int]:
        """Insert jobs; their ids."""
        return [number for number, _ in insert_jobs(self.database, new)]

    def add(self, **given: Any) -> int:
        """Insert one job; its id."""
        return self.insert(new_job(**given))[0]

    def row(self, number: int) -> JobRow:
        """A job's row."""
        found = reads.job(self.database, number)
        assert found is not None
        return found

    def rows(self, **filters: Any) -> list[JobRow]:
        """All matching rows, newest first."""
        return [row for page in reads.pages(self.database, Filters(**filters)) for row in page]

    def attempts(self, number: int) -> list[AttemptRow]:
        """A job's ended attempts."""
        return reads.attempts_of(self.database, number)

    # -- workers

    def register(self, number: int = 1, **given: Any) -> int:
        """Register a worker; its id."""
        with self.database.write() as tx:
            registry.register(tx, new_worker(number, **given))
        return number

    def renew(self, worker: int = 1, now: int = NOW, *, stopping: bool = False) -> bool:
        """Renew a worker's lease."""
        with self.database.write() as tx:
            return registry.renew(tx, worker, now, stopping)

    def remove(self, worker: int = 1) -> bool:
        """Remove a worker."""
        with self.database.write() as tx:
            return registry.remove(tx, worker)

    def workers(self) -> list[Worker]:
        """All registered workers."""
        with self.database.look() as tx:
            return registry.all_workers(tx)

    def held(self, worker: int = 1, after: int = 0, limit: int = 100) -> list[registry.Held]:
        """What a worker holds."""
        with self.database.look() as tx:
            return registry.held(tx, worker, after, limit)

    # -- a job's way

    def claim(
        self, worker: int = 1, limit: int = 100, queues: Sequence[str] = (), now: int = NOW
    ) -> list[Claimed]:
        """Claim jobs."""
        return self.claim_and_due(worker, limit, queues, now)[0]

    def claim_and_due(
        self, worker: int = 1, limit: int = 100, queues: Sequence[str] = (), now: int = NOW
    ) -> tuple[list[Claimed], int | None]:
        """Claim jobs; with when the next falls due."""
        with self.database.write() as tx:
            return claims.claim(tx, worker, queues, limit, now)

    def soon(self) -> int:
        """When all that was just enqueued is due, also by clocks that were compared less well."""
        return self.database.now() + 1_000_000

    def claim_one(self, worker: int = 1, now: int = NOW) -> Claimed:
        """Claim the one job there must be."""
        (claimed,) = self.claim(worker, 1, now=now)
        return claimed

    def begin(self, *jobs: Claimed, now: int = NOW) -> None:
        """Write that bodies have begun."""
        with self.database.write() as tx:
            begun = [(now, *attempt_of(job)) for job in jobs]
            mirrored = [(job.id, job.mirror_key) for job in jobs if job.mirror_key is not None]
            claims.mark_begun(tx, begun, mirrored)

    def give_back(self, *jobs: Claimed, now: int = NOW) -> int:
        """Give claimed jobs back."""
        with self.database.write() as tx:
            return claims.give_back(tx, [attempt_of(job) for job in jobs], now)

    def settle(self, *endings: Settlement) -> list[Settlement]:
        """Write endings; the lost ones."""
        with self.database.write() as tx:
            return settle(tx, endings)

    def end(self, job: Claimed, cause: Cause = Cause.RETURNED, **given: Any) -> Transition:
        """End an attempt that must still be the current one; what became of the job."""
        made = ending(job, cause, **given)
        assert self.settle(made) == []
        return made.transition

    def fail(self, *, error: str = "ValueError", message: str = "no", **given: Any) -> int:
        """Insert a job and have it fail for good; its id. Needs worker 1."""
        number = self.add(**given)
        (job,) = (job for job in self.claim() if job.id == number)
        said = Error(error, message, "Traceback", f"1-{error}")
        self.end(job, Cause.RAISED, verdict="fail", error=said)
        return number

    # -- a person's acts

    def cancel(self, number: int, now: int = NOW) -> bool:
        """Cancel a job."""
        with self.database.write() as tx:
            return acts.cancel(tx, number, now)

    def retry(self, number: int, now: int = NOW) -> str | None:
        """Retry a job; None, or why not."""
        with self.database.write() as tx:
            return acts.retry(tx, number, now)

    def discard(self, number: int, now: int = NOW) -> str | None:
        """Discard a job; None, or why not."""
        with self.database.write() as tx:
            return acts.discard(tx, number, now)

    # -- effects

    def intend(self, job: Claimed, name: str = "e", now: int = NOW) -> tuple[str, str | None]:
        """Begin an effect."""
        with self.database.write() as tx:
            return effects.intend(tx, *attempt_of(job), name, now)

    def done(self, job: Claimed, name: str = "e", result: str | None = None, now: int = NOW) -> str:
        """An effect has happened."""
        with self.database.write() as tx:
            return effects.done(tx, *attempt_of(job), name, result, now)

    def not_done(self, job: Claimed, name: str = "e") -> str:
        """An effect has not happened."""
        with self.database.write() as tx:
            return effects.not_done(tx, *attempt_of(job), name)

    def in_doubt(self, number: int) -> bool:
        """Whether an effect of the job is in doubt."""
        with self.database.look() as tx:
            return effects.in_doubt(tx, number)


def unlike(one: JobRow, other: JobRow) -> dict[str, tuple[object, object]]:
    """The columns in which two rows differ, with both values."""
    left, right = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}
