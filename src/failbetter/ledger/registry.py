"""Workers in the ledger: who there is, who was heard of lately, what each one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, func, insert, literal_column, select, update

from failbetter.ledger import turns
from failbetter.ledger.claims import CLAIMED_COLUMNS, Claimed
from failbetter.ledger.kinds import Kind, Tx
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, workers
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from sqlalchemy import Select

MAINTAINS = "maintain"
"""The turn in which whoever sweeps without being a worker writes that it does."""


class Worker(msgspec.Struct, frozen=True):
    """A worker's row. `lease` in microseconds; `queues` and `tasks` as JSON lists."""

    id: int
    name: str
    host: str
    pid: int
    fleet: str
    lease: int
    beats: int
    renewed_at: int
    started_at: int
    stopping: int
    code: str | None
    queues: str
    tasks: str
    processes: int
    concurrency: int
    idle: int = 0
    swept_at: int | None = None
    restart_at: int | None = None
    engine: str | None = None
    keeper: str | None = None
    code_at: int | None = None
    newer_code: str | None = None
    restart_error: str | None = None

    @property
    def runs_code_since(self) -> int:
        """When it loaded the code that it runs."""
        return self.started_at if self.code_at is None else self.code_at

    def lease_expired(self, now: int) -> bool:
        """Whether, by the clock on the wall, nothing was heard for a lease. For readers only."""
        return now > self.renewed_at + self.lease


class Held(msgspec.Struct, frozen=True):
    """A claimed job as its sweeper sees it."""

    job: Claimed
    running: bool
    begun_at: int | None


_columns = list(workers.c)
REGISTER = Prepared(
    insert(workers).values({column.name: b(column.name) for column in _columns}),
    " ".join(column.name for column in _columns),
)
RENEW = Prepared(
    update(workers)
    .values(
        beats=workers.c.beats + ONE,
        renewed_at=b("now"),
        stopping=b("stopping"),
        swept_at=func.coalesce(b("swept_at"), workers.c.swept_at),
    )
    .where(workers.c.id == b("id")),
    "now stopping swept_at id",
)
DESCRIBE = Prepared(
    update(workers)
    .values(code=b("code"), code_at=b("now"), tasks=b("tasks"))
    .where(workers.c.id == b("id")),
    "code tasks now id",
)
IDLE = Prepared(update(workers).values(idle=b("idle")).where(workers.c.id == b("id")), "idle id")
SOMEONE_IDLES = Prepared(
    select(workers.c.id)
    .where(workers.c.idle == ONE, workers.c.fleet != b("fleet"))
    .limit(ONE)
    .offset(ZERO),
    "fleet",
)
REMOVE = Prepared(delete(workers).where(workers.c.id == b("id")), "id")
REMOVE_SILENT = Prepared(
    delete(workers).where(workers.c.id == b("id"), workers.c.beats == b("beats")), "id beats"
)
ALL = Prepared(select(*_columns).order_by(workers.c.id))
ONE_OF_THEM = Prepared(select(*_columns).where(workers.c.id == b("id")), "id")
HELD = Prepared(
    select(*CLAIMED_COLUMNS, jobs.c.state, jobs.c.begun_at)
    .where(jobs.c.worker == b("worker"), jobs.c.id > b("after"))
    .order_by(jobs.c.id)
    .limit(b("limit"))
    .offset(ZERO),
    "worker after limit",
)
HOLDS = Prepared(
    select(func.count()).select_from(jobs).where(jobs.c.worker == b("worker")), "worker"
)
_some_held = (
    select(jobs.c.worker).where(jobs.c.worker == b("worker")).limit(b("limit")).offset(ZERO)
)
COUNT_HELD_TO = Prepared(select(func.count()).select_from(_some_held.subquery()), "worker limit")
HELD_FENCES = Prepared(
    select(jobs.c.id, jobs.c.fence).where(jobs.c.worker == b("worker")), "worker"
)
CANCELLED = Prepared(
    select(jobs.c.id, jobs.c.fence).where(jobs.c.worker == b("worker"), jobs.c.cancel == ONE),
    "worker",
)
_held_by = jobs.c.worker
_first_holder = select(func.min(_held_by).label("worker")).where(_held_by.is_not(None))
_holder = _first_holder.cte("holders", recursive=True)
_next_holder = select(func.min(_held_by)).where(_held_by > _holder.c.worker)
_walked_holders = _holder.union_all(
    select(_next_holder.scalar_subquery()).where(_holder.c.worker.is_not(None))
)
_all_holders = (
    select(_held_by.label("worker")).where(_held_by.is_not(None)).distinct().subquery("holders")
)


def _holders(kind: Kind) -> Select[Any]:
    # From one holder to the next, one seek for each: DISTINCT would read all that is held, and
    # without statistics, as after a restore, even the whole table. But where there is no such
    # seek, each step would read the whole index.
    found = _walked_holders if kind.seeks_next else _all_holders
    return select(found.c.worker).where(found.c.worker.is_not(None))


HOLDERS = Prepared(_holders)
ORPHANED = Prepared(
    lambda kind: _holders(kind).where(
        ~select(ONE).where(workers.c.id == literal_column("holders.worker")).exists()
    )
)
LAST_SWEPT = Prepared(select(func.max(workers.c.swept_at)))
# That nobody has claimed it is not asked of `rank`: the index of what waits would seem to do.
EXPIRED = Prepared(
    select(*CLAIMED_COLUMNS)
    .where(
        jobs.c.expires_at <= b("now"),
        jobs.c.live == ONE,
        jobs.c.claimed.is_(None),
    )
    .limit(b("limit"))
    .offset(ZERO),
    "now limit",
)


def register(tx: Tx, worker: Worker) -> None:
    """Add a worker: from now on it may claim."""
    tx.run(REGISTER, *(getattr(worker, column.name) for column in _columns))


def renew(tx: Tx, worker: int, now: int, stopping: bool, swept_at: int | None = None) -> bool:
    """Say that the worker lives; False when it was declared lost and removed.

    `swept_at`: when it last looked for interrupted jobs and could.
    """
    return tx.run(RENEW, now, int(stopping), swept_at, worker) == 1


def describe(tx: Tx, worker: int, code: str | None, tasks: str) -> None:
    """Note what code and tasks the worker's children have loaded, just now."""
    tx.run(DESCRIBE, code, tasks, tx.now(), worker)


def remove(tx: Tx, worker: int) -> bool:
    """Remove a worker; it can claim no more. False when it was gone already."""
    return tx.run(REMOVE, worker) == 1


def remove_silent(tx: Tx, worker: int, beats: int) -> bool:
    """Remove a worker unless it has renewed its lease since; whether it was removed."""
    return tx.run(REMOVE_SILENT, worker, beats) == 1


def set_idle(tx: Tx, worker: int, idle: bool) -> None:
    """Note that the worker waits for work, so that producers elsewhere tell of some."""
    tx.run(IDLE, int(idle), worker)


def someone_idles(tx: Tx, fleet: str) -> bool:
    """Whether a worker of another fleet folder than this one waits for work."""
    return tx.row(SOMEONE_IDLES, fleet) is not None


def all_workers(tx: Tx) -> list[Worker]:
    """All registered workers, oldest first."""
    return [Worker(*row) for row in tx.rows(ALL)]


def one(tx: Tx, worker: int) -> Worker | None:
    """A registered worker; None: there is none of this id (any more)."""
    found = tx.row(ONE_OF_THEM, worker)
    return None if found is None else Worker(*found)


def held(tx: Tx, worker: int, after: int, limit: int) -> list[Held]:
    """What a worker has claimed and not ended, by id, from beyond `after`."""
    return [
        Held(Claimed(*row[:-2]), row[-2] == State.RUNNING, row[-1])
        for row in tx.rows(HELD, worker, after, limit)
    ]


def count_held(tx: Tx, worker: int) -> int:
    """How many jobs a worker has claimed and not ended."""
    found = tx.row(HOLDS, worker)
    return 0 if found is None else int(found[0])


def holders(tx: Tx) -> list[int]:
    """Workers, registered or not, that hold jobs."""
    return [row[0] for row in tx.rows(HOLDERS)]


def last_sweep(tx: Tx) -> int | None:
    """When anyone last looked for interrupted jobs and could (µs); None: not on record.

    A worker writes that with its renewals, so that it may be a third of a lease late.
    """
    found = tx.row(LAST_SWEPT)
    marked = turns.holder(tx, MAINTAINS)
    swept: int | None = None if found is None else found[0]
    times = [swept, None if marked is None else marked[1]]
    return max((at for at in times if at is not None), default=None)


def count_held_to(tx: Tx, worker: int, limit: int) -> int:
    """How many jobs `worker` has claimed; of more than `limit`, so many are counted."""
    return int(tx.rows(COUNT_HELD_TO, worker, limit)[0][0])


def held_fences(tx: Tx, worker: int) -> set[tuple[int, int]]:
    """(id, fence) of what the ledger believes `worker` to hold."""
    return {(number, fence) for number, fence in tx.rows(HELD_FENCES, worker)}


def cancelled(tx: Tx, worker: int) -> list[tuple[int, int]]:
    """(id, fence) of what `worker` holds and a person has cancelled."""
    return [(number, fence) for number, fence in tx.rows(CANCELLED, worker)]


def orphaned(tx: Tx) -> list[int]:
    """Workers that hold jobs and are not registered (any more)."""
    return [row[0] for row in tx.rows(ORPHANED)]


def expired(tx: Tx, now: int, limit: int) -> list[Claimed]:
    """Waiting jobs whose time is over."""
    return [Claimed(*row) for row in tx.rows(EXPIRED, now, limit)]
