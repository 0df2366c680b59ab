"""Reading jobs: one, a page, a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Select, func, or_, select

from failbetter.ledger import claims, holds
from failbetter.ledger.filters import Filters, condition
from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.registry import Worker
from failbetter.ledger.schema import attempts, effects, jobs, workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx


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
    origin: str | None = None

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


# So many ids are asked for at once: databases bound the values of one statement.
_AT_ONCE = 500
# Above every id.
_NO_ID = (1 << 63) - 1
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


def jobs_of(database: Database, numbers: Sequence[int]) -> dict[int, JobRow]:
    """The jobs of these ids, as far as they are there."""
    found: dict[int, JobRow] = {}
    for at in range(0, len(numbers), _AT_ONCE):
        some = select(*_job_columns).where(jobs.c.id.in_(numbers[at : at + _AT_ONCE]))
        found |= {row[0]: JobRow(*tuple(row)) for row in database.query(some)}
    return found


def attempts_of(database: Database, number: int) -> list[AttemptRow]:
    """A job's ended attempts, oldest first."""
    with database.look() as tx:
        return [AttemptRow(*row) for row in tx.rows(ATTEMPTS, number)]


def effects_of(database: Database, number: int) -> list[EffectRow]:
    """A job's effects, oldest first."""
    with database.look() as tx:
        return [EffectRow(*row) for row in tx.rows(EFFECTS, number)]


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
    # The first page is bounded, too: what has a bound is looked for in the order of the ids.
    below = _NO_ID
    left = limit
    while left is None or left > 0:
        page: Select[Any] = statement.limit(size if left is None else min(size, left))
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


def counts_by(tx: Tx, states: Sequence[str], limit: int) -> dict[str, int]:
    """How many jobs are in each of the given states; of more than `limit`, so many are counted."""
    return {str(state): tx.rows(COUNT_UP_TO, state, limit)[0][0] for state in states}


def oldest_due(tx: Tx, now: int, queue: str | None = None) -> int | None:
    """When the longest-waiting claimable job fell due; None when none waits. `queue`: of that.

    What is held on purpose is no news, nor what waits for a rate limit.
    """
    held = holds.standing(tx).queues
    found = claims.lanes(tx, [] if queue is None else [queue])
    lanes = [lane for lane in found if lane.queue not in held and lane.line is None]
    return min((lane.run_at for lane in lanes if lane.run_at <= now), default=None)


def worker(database: Database, number: int) -> Worker | None:
    """A worker's row, or None when it is not registered."""
    rows = database.query(select(*workers.c).where(workers.c.id == number))
    return Worker(*tuple(rows[0])) if rows else None
