"""Takes a `Specimen` from jobs that failbetter really ran."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from bench.session import Session, open_session
from bench.specimen import ATTEMPTS, JOBS, Connection, Row, Specimen, read_ddl, read_row
from bench.systems.failbetter import OfFailbetter

_TIMEOUT = 30.0


def capture(system: OfFailbetter, work: Path) -> Specimen:
    """Run one job that returns and one that fails and is retried; keep their rows at each step."""
    with open_session(system, work) as session:
        session.enqueue_one("linger", 1)
        eye = system.look(session.folder)
        try:
            (job,) = eye.execute(f"SELECT id FROM {JOBS}").fetchone()
            pending = _row(eye, job)
            session.start_workers()
            claimed = _changed_from(session, eye, job, pending)
            session.wait_ended()
            succeeded = _row(eye, job)
            attempt = read_row(eye, ATTEMPTS, job)

            session.enqueue_one("fail", 1)
            (other,) = eye.execute(f"SELECT id FROM {JOBS} WHERE id <> {job:d}").fetchone()
            session.wait_ended()
            session.stop_workers()
            failed = _row(eye, other)
            session.retry_all()
            retried = _row(eye, other)
            tables = _tables(eye)
        finally:
            eye.close()
    if attempt is None or failed == retried:
        raise RuntimeError("the specimen's job left no attempt, or its retry changed nothing")
    return Specimen(pending, claimed, succeeded, attempt, failed, retried, **tables)


def _tables(eye: Connection) -> dict[str, Any]:
    if not isinstance(eye, sqlite3.Connection):
        return {}
    (page_size,) = eye.execute("PRAGMA page_size").fetchone()
    return {"ddl": read_ddl(eye), "page_size": page_size}


def _row(eye: Connection, job: int) -> Row:
    row = read_row(eye, JOBS, job)
    if row is None:
        raise RuntimeError("a job's row has gone")
    return row


def _changed_from(session: Session, eye: Connection, job: int, pending: Row) -> Row:
    """The job's row as its claim left it: the first that differs."""
    deadline = time.monotonic() + _TIMEOUT
    while (row := _row(eye, job)) == pending:
        for worker in session.workers:
            worker.check()
        if time.monotonic() > deadline:
            raise RuntimeError("no worker claimed the specimen's job")
        time.sleep(0.0002)
    return row
