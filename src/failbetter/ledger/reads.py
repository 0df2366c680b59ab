"""Reading jobs: one, a page, a count, groups; and the filters, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from failbetter.ledger import claims
from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.registry import Worker
from failbetter.ledger.schema import attempts, effects, jobs, workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Kind, Tx


class JobRow(msgspec.Struct, frozen=True):
    """A job's row, as read. Times in microseconds since the epoch."""

    id: int
    task: str
    queue: str
    priority: int
    state: str
    reason: str | None
    run_at: int
    created_at: int
    begun_at: int | None
    ended_at: int | None
    expires_at: int | None
    fence: int
    worker: int | None
    claimed: int | None
    cancel: int | None
    starts: int
    attempts: int
    crashes: int
    losses: int
    hand_backs: int
    suspect: int
    released_since: int | None
    payload: str
    policy: str
    unique_key: str | None
    exclusive_key: str | None
    subject: str | None
    tags: str | None
    result: str | None
    note: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    mirror_key: str | None
    held: int | None

    @property
    def keyed(self) -> bool:
        """Whether it has a unique key or a mirror, so that an act on it takes a look at others."""
        return self.unique_key is not None or self.mirror_key is not None


class AttemptRow(msgspec.Struct, frozen=True):
    """An ended attempt, as it was written."""

    fence: int
    number: int
    cause: str
    state: str
    reason: str | None
    run_at: int | None
    begun_at: int | None
    ended_at: int
    worker: str
    code: str | None
    error_type: str | None
    error_message: str | None
    traceback: str | None
    evidence: str | None


class EffectRow(msgspec.Struct, frozen=True):
    """An effect of a job; `done_at` None: intended, not known to have happened."""

    name: str
    intended_at: int
    done_at: int | None
    result: str | None


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are meant; None means any. Times in microseconds since the epoch.

    `error` with a dot is the full type name, without one its last part; `message` and `error`
    may hold `*` for anything. `since` and `until` bound the end (or, of a live job, its making).
    """

    ids: tuple[int, ...] | None = None
    task: str | None = None
    queue: str | None = None
    states: tuple[str, ...] | None = None
    reason: str | None = None
    error: str | None = None
    message: str | None = None
    tag: str | None = None
    fingerprint: str | None = None
    since: int | None = None
    until: int | None = None
    also: Filters | None = None
    """What they must match besides."""

    @property
    def narrow(self) -> bool:
        """Whether anything but the state is asked for."""
        if self.also is not None and self.also.narrow:
            return True
        own = set(self.__struct_fields__) - {"states", "also"}
        return any(getattr(self, name) is not None for name in own)


class GroupRow(msgspec.Struct, frozen=True):
    """Failed jobs that share a task, a reason and a cause."""

    fingerprint: str | None
    task: str
    reason: str | None
    error_type: str | None
    count: int
    first_at: int
    last_at: int
    sample: int


_job_columns = [jobs.c[name] for name in JobRow.__struct_fields__]
JOB = Prepared(select(*_job_columns).where(jobs.c.id == b("id")), "id")
ATTEMPTS = Prepared(
    select(*(attempts.c[name] for name in AttemptRow.__struct_fields__))
    .where(attempts.c.job_id == b("id"))
    .order_by(attempts.c.fence),
    "id",
)
EFFECTS = Prepared(
    select(*(effects.c[name] for name in EffectRow.__struct_fields__))
    .where(effects.c.job_id == b("id"))
    .order_by(effects.c.intended_at),
    "id",
)
# In the order of the index by state, so that nothing but that index is read.
_some_of_state = (
    select(jobs.c.ended_at)
    .where(jobs.c.state == b("state"))
    .order_by(jobs.c.ended_at)
    .limit(b("limit"))
    .offset(ZERO)
)
COUNT_UP_TO = Prepared(select(func.count()).select_from(_some_of_state.subquery()), "state limit")


def job(database: Database, number: int) -> JobRow | None:
    """One job, or None."""
    with database.look() as tx:
        row = tx.row(JOB, number)
    return None if row is None else JobRow(*row)


def attempts_of(database: Database, number: int) -> list[AttemptRow]:
    """A job's ended attempts, oldest first."""
    with database.look() as tx:
        return [AttemptRow(*row) for row in tx.rows(ATTEMPTS, number)]


def effects_of(database: Database, number: int) -> list[EffectRow]:
    """A job's effects, oldest first."""
    with database.look() as tx:
        return [EffectRow(*row) for row in tx.rows(EFFECTS, number)]


def _like(kind: Kind, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """`*` stands for anything; everything else for itself, and case counts."""
    return kind.matches(column, pattern) if "*" in pattern else column == pattern


def _error(kind: Kind, pattern: str) -> ColumnElement[bool]:
    if "." in pattern:
        return _like(kind, jobs.c.error_type, pattern)
    last_part = kind.matches(jobs.c.error_type, f"*.{pattern}")
    return or_(_like(kind, jobs.c.error_type, pattern), last_part)


def condition(filters: Filters, kind: Kind) -> ColumnElement[bool]:
    """The filters as SQL."""
    parts: list[ColumnElement[bool]] = []
    moment = func.coalesce(jobs.c.ended_at, jobs.c.created_at)
    if filters.ids is not None:
        parts.append(jobs.c.id.in_(filters.ids))
    if filters.states is not None:
        parts.append(jobs.c.state.in_(filters.states))
    if filters.task is not None:
        parts.append(_like(kind, jobs.c.task, filters.task))
    if filters.queue is not None:
        parts.append(jobs.c.queue == filters.queue)
    if filters.reason is not None:
        parts.append(jobs.c.reason == filters.reason)
    if filters.error is not None:
        parts.append(_error(kind, filters.error))
    if filters.message is not None:
        parts.append(_like(kind, jobs.c.error_message, filters.message))
    if filters.fingerprint is not None:
        parts.append(jobs.c.fingerprint == filters.fingerprint)
    if filters.tag is not None:
        # Tags are kept as a JSON list.
        parts.append(kind.contains(jobs.c.tags, msgspec.json.encode(filters.tag).decode()))
    if filters.since is not None:
        parts.append(moment >= filters.since)
    if filters.until is not None:
        parts.append(moment < filters.until)
    if filters.also is not None:
        parts.append(condition(filters.also, kind))
    return and_(True, *parts)


def count(database: Database, filters: Filters) -> int:
    """How many jobs match."""
    rows = database.query(
        select(func.count()).select_from(jobs).where(condition(filters, database.kind))
    )
    return int(rows[0][0])


def pages(
    database: Database, filters: Filters, limit: int | None = None, size: int = 500
) -> Iterator[list[JobRow]]:
    """Matching jobs, newest first, by key: every page costs the same."""
    statement = (
        select(*_job_columns).where(condition(filters, database.kind)).order_by(jobs.c.id.desc())
    )
    below: int | None = None
    left = limit
    while left is None or left > 0:
        page: Select[Any] = statement.limit(size if left is None else min(size, left))
        if below is not None:
            page = page.where(jobs.c.id < below)
        rows = [JobRow(*tuple(row)) for row in database.query(page)]
        if not rows:
            return
        yield rows
        below = rows[-1].id
        if left is not None:
            left -= len(rows)


def keys(database: Database, filters: Filters, after: int, size: int) -> list[tuple[int, bool]]:
    """A page of matching ids, oldest first, each with whether the job is `keyed`: see JobRow."""
    keyed = or_(jobs.c.unique_key.is_not(None), jobs.c.mirror_key.is_not(None))
    statement = (
        select(jobs.c.id, keyed)
        .where(condition(filters, database.kind), jobs.c.id > after)
        .order_by(jobs.c.id)
        .limit(size)
    )
    return [(row[0], bool(row[1])) for row in database.query(statement)]


def groups(database: Database, filters: Filters) -> list[GroupRow]:
    """Matching jobs by cause, largest group first."""
    size = func.count()
    statement = (
        select(
            jobs.c.fingerprint,
            jobs.c.task,
            jobs.c.reason,
            jobs.c.error_type,
            size,
            func.min(jobs.c.ended_at),
            func.max(jobs.c.ended_at),
            func.max(jobs.c.id),
        )
        .where(condition(filters, database.kind))
        .group_by(jobs.c.fingerprint, jobs.c.task, jobs.c.reason, jobs.c.error_type)
        .order_by(size.desc(), func.max(jobs.c.id).desc())
    )
    return [GroupRow(*tuple(row)) for row in database.query(statement)]


def counts_by(tx: Tx, states: Sequence[str], limit: int) -> dict[str, int]:
    """How many jobs are in each of the given states; of more than `limit`, so many are counted."""
    return {str(state): tx.rows(COUNT_UP_TO, state, limit)[0][0] for state in states}


def oldest_due(tx: Tx, now: int) -> int | None:
    """When the longest-waiting claimable job fell due; None when none waits."""
    due = [lane.run_at for lane in claims.lanes(tx, []) if lane.run_at <= now]
    return min(due, default=None)


def worker(database: Database, number: int) -> Worker | None:
    """A worker's row, or None when it is not registered."""
    rows = database.query(select(*workers.c).where(workers.c.id == number))
    return Worker(*tuple(rows[0])) if rows else None
