"""Takes a `Specimen` from jobs that failbetter really ran."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from bench.session import Session, open_session
from bench.specimen import Row, Specimen, read_ddl, read_row
from bench.systems.failbetter import Failbetter

_TIMEOUT = 30.0


def capture(system: Failbetter, work: Path) -> Specimen:
    """Run one job that returns and one that fails and is retried; keep their rows at each step."""
    with open_session(system, work) as session:
        session.enqueue_one("linger", 1)
        eye = sqlite3.connect(system.ledger(session.folder), isolation_level=None, timeout=30)
        try:
            (job,) = eye.execute("SELECT id FROM jobs").fetchone()
            pending = _row(eye, job)
            session.start_workers()
            claimed = _changed_from(session, eye, job, pending)
            session.wait_ended()
            succeeded = _row(eye, job)
            attempt = read_row(eye, "attempts", job)

            session.enqueue_one("fail", 1)
            (other,) = eye.execute("SELECT id FROM jobs WHERE id <> ?", (job,)).fetchone()
            session.wait_ended()
            session.stop_workers()
            failed = _row(eye, other)
            session.retry_all()
            retried = _row(eye, other)
            ddl, (page_size,) = read_ddl(eye), eye.execute("PRAGMA page_size").fetchone()
        finally:
            eye.close()
    if attempt is None or failed == retried:
        raise RuntimeError("the specimen's job left no attempt, or its retry changed nothing")
    return Specimen(ddl, page_size, pending, claimed, succeeded, attempt, failed, retried)


def _row(eye: sqlite3.Connection, job: int) -> Row:
    row = read_row(eye, "jobs", job)
    if row is None:
        raise RuntimeError("a job's row has gone")
    return row


def _changed_from(session: Session, eye: sqlite3.Connection, job: int, pending: Row) -> Row:
    """The job's row as its claim left it: the first that differs."""
    deadline = time.monotonic() + _TIMEOUT
    while (row := _row(eye, job)) == pending:
        for worker in session.workers:
            worker.check()
        if time.monotonic() > deadline:
            raise RuntimeError("no worker claimed the specimen's job")
        time.sleep(0.0002)
    return row
