"""What a look at the ledger sees: plain figures, from which document and metrics are made.

A look costs the same however many jobs there are: what can be many is counted up to a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from failbetter import ledger, recovery, retention
from failbetter.errors import LedgerUnavailable
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from failbetter.ledger.adopted import Followed
    from failbetter.ledger.database import Database
    from failbetter.ledger.holds import HoldRow
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.outbox import Waiting
    from failbetter.ledger.registry import Worker
    from failbetter.ledger.sending import Carrying
    from failbetter.recovery.report import RecoveryStatus
    from failbetter.retention import Pruned

COUNTED = [State.PENDING, State.RUNNING, State.FAILED]
# Counting costs what there is to count, and a health check must stay cheap when things go badly.
MOST = 1_000


class Figures(msgspec.Struct, frozen=True):
    """The ledger at one moment. Times in microseconds since the epoch, by the ledger's clock.

    `counts`, `mirrored.count` and `stranded` go to `most` + 1, which means more than `most`.
    """

    ledger: str
    now: int
    most: int
    alive: list[Worker]
    silent: list[Worker]
    """Registered, and either seen to be dead or not heard of for a lease."""
    counts: dict[str, int]
    oldest: int | None
    """When the job fell due that has waited longest."""
    mirrored: Waiting
    stranded: int
    """Jobs whose worker is gone: to be handed back by the next sweep."""
    holds: list[HoldRow]
    """What is kept waiting on purpose, or is being let go of."""
    recovery: RecoveryStatus
    """Recovery as the ledger has it: the last one, the last sweep, what sweeps have done."""
    followed: list[Followed] = []
    """How following engines' own jobs goes, where somebody has."""
    carrying: Carrying | None = None
    """The engine that carries the jobs, and what it was not sent yet; None: there is none."""
    pruned: Pruned | None = None
    """What pruning has done; None where nothing was past its time yet."""

    @property
    def outdated(self) -> list[Worker]:
        """Living workers whose code is not what was loaded last, by any, or is on their disk."""
        if not self.alive:
            return []
        newest = max(self.alive, key=lambda worker: (worker.runs_code_since, worker.id))
        return [
            worker
            for worker in self.alive
            if worker.code != newest.code or worker.newer_code is not None
        ]


def look(database: Database) -> Figures:
    """See how the ledger stands. Raises LedgerError when it cannot be asked."""
    if not database.exists():
        raise LedgerUnavailable(
            f"there is no database {database.name} yet; the first job or worker makes it"
        )
    with database.look() as tx:
        now = tx.now()
        workers = ledger.registry.all_workers(tx)
        silent = [
            worker
            for worker in workers
            if database.sees_dead(worker.id, worker.fleet)
            # In an engine's process a body may keep the lease from being renewed.
            or (worker.engine is None and worker.lease_expired(now))
        ]
        gone = {worker.id for worker in silent}
        return Figures(
            ledger=database.name,
            now=now,
            most=MOST,
            alive=[worker for worker in workers if worker.id not in gone],
            silent=silent,
            counts=ledger.reads.counts_by(tx, COUNTED, MOST + 1),
            oldest=ledger.reads.oldest_due(tx, now),
            mirrored=ledger.outbox.waiting(tx, MOST + 1),
            stranded=_stranded(tx, [*gone, *ledger.registry.orphaned(tx)]),
            holds=ledger.holds.every(tx),
            recovery=recovery.status.look(database),
            followed=ledger.adopted.all_noted(tx),
            carrying=ledger.sending.carrying(tx, MOST + 1),
            pruned=retention.look(tx, now),
        )


def _stranded(tx: Tx, gone: list[int]) -> int:
    """How many jobs these workers hold; no further than needed."""
    count = 0
    for worker in gone:
        count += ledger.registry.count_held_to(tx, worker, MOST + 1 - count)
        if count > MOST:
            break
    return count
