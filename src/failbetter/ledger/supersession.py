"""Versions of what jobs are about: an older job than the last success of its subject is not run.

Only jobs with a subject and a version pay for it. A subject is its task's: another task that has
succeeded with the same subject has done something else. The last success is a row of its own, so
that the jobs of a subject may be deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import insert, literal_column, null, select, update

from failbetter.ledger import events
from failbetter.ledger.mirrors import follow
from failbetter.ledger.prepared import ONE, Prepared, b
from failbetter.ledger.schema import jobs, subjects
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.kinds import Tx


class About(msgspec.Struct, frozen=True, gc=False):
    """What a job is about, and in which version of it."""

    task: str
    subject: str
    version: int


has_newer_success = (
    select(ONE)
    .where(
        subjects.c.task == jobs.c.task,
        subjects.c.subject == jobs.c.subject,
        subjects.c.version > jobs.c.version,
    )
    .exists()
)
"""Whether a newer job of the same subject has succeeded: a condition on a job's row."""

OUTDATED = Prepared(select(jobs.c.id).where(jobs.c.id == b("id"), has_newer_success), "id")
OUTDATED_OF_WORKER = Prepared(
    select(jobs.c.id).where(
        jobs.c.worker == b("worker"), jobs.c.version.is_not(None), has_newer_success
    ),
    "worker",
)
SUPERSEDE = Prepared(
    update(jobs)
    .values(
        state=literal_column(f"'{State.DISCARDED}'"),
        reason=literal_column(f"'{Reason.SUPERSEDED}'"),
        rank=null(),
        live=null(),
        claimed=null(),
        worker=null(),
        cancel=null(),
        ended_at=b("now"),
        fence=jobs.c.fence + ONE,
    )
    .where(jobs.c.id == b("id"), jobs.c.fence == b("fence")),
    "now id fence",
)
RAISE = Prepared(
    update(subjects)
    .values(version=b("version"), job_id=b("job_id"), at=b("at"))
    .where(
        subjects.c.task == b("task"),
        subjects.c.subject == b("subject"),
        subjects.c.version < b("below"),
    ),
    "version job_id at task subject below",
)
FIRST = Prepared(
    lambda kind: kind.insert_unless(
        insert(subjects).values(
            task=b("task"),
            subject=b("subject"),
            version=b("version"),
            job_id=b("job_id"),
            at=b("at"),
        ),
        [subjects.c.task, subjects.c.subject],
    ),
    "task subject version job_id at",
)


def let_through(tx: Tx, worker: int, claimed: list[Claimed], now: int) -> list[Claimed]:
    """Of what that worker has just claimed, what is not out of date; the rest ends, superseded."""
    if all(job.version is None for job in claimed):
        return claimed
    # Also what it held before, and whose bodies may have begun.
    found = {row[0] for row in tx.rows(OUTDATED_OF_WORKER, worker)}
    outdated = [job for job in claimed if job.id in found]
    if not outdated:
        return claimed
    tx.many(SUPERSEDE, [(now, job.id, job.fence) for job in outdated])
    follow(tx, [(job.id, job.mirror_key) for job in outdated if job.mirror_key is not None])
    events.ended(tx, [job.id for job in outdated])
    return [job for job in claimed if job.id not in found]


def is_outdated(tx: Tx, number: int) -> bool:
    """Whether a newer job of the same subject has succeeded by now."""
    return tx.row(OUTDATED, number) is not None


def record(tx: Tx, succeeded: Iterable[tuple[int, About]], at: int) -> None:
    """Note the successes, (job, what it is about) each, in the transaction that writes them.

    The highest version of a subject stands, in whichever order they come.
    """
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for number, about in succeeded:
        key = about.task, about.subject
        newest[key] = max(newest.get(key, (about.version, number)), (about.version, number))
    # In one order everywhere, so that two workers do not each wait for the other's row.
    rows = [(*key, *newest[key]) for key in sorted(newest)]
    raised = [(version, job, at, task, subject, version) for task, subject, version, job in rows]
    if tx.many(RAISE, raised) == len(rows):
        return
    firsts = [(task, subject, version, job, at) for task, subject, version, job in rows]
    if tx.many(FIRST, firsts) < len(rows):
        tx.many(RAISE, raised)  # somebody else's first came in between
