"""The sweep: what every worker does each second, and `failbetter maintain` where none runs.

A worker of this host is dead when nobody holds its lock file. A worker elsewhere is lost when a
whole lease has passed, by the sweeper's own monotonic clock and in unbroken contact with the
ledger, without its count of renewals moving: no two clocks are compared, so neither a clock that
jumps nor an outage of the ledger declares a fleet dead. That contact is a write: a worker's is
its own renewal, anyone else's a mark that each sweep makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from failbetter import ids
from failbetter.errors import LedgerError
from failbetter.ledger import registry, turns
from failbetter.recovery import status
from failbetter.recovery.settling import TURN, Report, Settler, gone, orphaning
from failbetter.recovery.watch import Watch

if TYPE_CHECKING:
    from failbetter.ledger.database import Database

SUPERVISOR_DIED = "its supervisor died"
LEASE_RAN_OUT = "its lease ran out"
# Seconds for which a sweeper keeps the others of all hosts from doing the same.
_SWEEPING = 2.0


class Sweeper:
    """Finds dead and lost workers and hands back what they held. One for each process.

    `own`: the id of the worker that sweeps; None: it is none.
    """

    def __init__(self, database: Database, own: int | None = None) -> None:
        self._database = database
        self._own = own
        self._name = own if own is not None else ids.take()
        self._watch = Watch(own)
        self._settler = Settler(database)
        self.swept_at: int | None = None
        """When it last swept and could (µs, by the ledger's clock)."""

    def tick(self, now: float) -> Report:
        """Sweep once; `now` in monotonic seconds. Raises LedgerError; what was done stays done."""
        report = Report()
        try:
            self._sweep(now, report)
        except LedgerError:
            self._watch.forget()
            raise
        if report.handed_back:
            self._database.wake()
        self.swept_at = self._database.now()
        return report

    def _sweep(self, now: float, report: Report) -> None:
        if self._own is None:
            with self._database.write(durable=False, timeout=TURN) as tx:
                turns.mark(tx, registry.MAINTAINS, self._name)
        with self._database.look() as tx:
            workers = registry.all_workers(tx)
            orphans = [orphaning(tx, number) for number in registry.orphaned(tx)]
            overdue = bool(registry.expired(tx, tx.now(), 1))
        fleet = self._database.fleet
        lost = []
        for worker in self._watch.look(now, workers):
            lost.append(gone(worker, LEASE_RAN_OUT, silent=True))
        for worker in workers:
            if worker.id == self._own:
                continue
            report.workers_examined += 1
            if self._database.sees_dead(worker.id, worker.fleet):
                # Only from this host can that be seen, so that nobody's turn is waited for.
                fleet.kill_remains(worker.id)
                self._settler.settle(gone(worker, SUPERVISOR_DIED), report)
                fleet.forget(worker.id)
                lost = [one for one in lost if one.id != worker.id]
        known = {worker.id for worker in workers}
        orphans = [one for one in orphans if one.id not in known]
        if (lost or orphans or overdue) and self._is_my_turn():
            for one in [*lost, *orphans]:
                self._settler.settle(one, report)
            if overdue:
                # Only some: the next sweep goes on with the rest.
                self._settler.expire(report)
        for number in fleet.strays(known):
            # Declared lost while it was frozen, and dead since: nobody else knows of its files.
            fleet.forget_dead(number)
        if report.handed_back or report.ended or report.expired or report.refused:
            with self._database.write(timeout=TURN) as tx:
                status.add_sweep(tx, report)

    def _is_my_turn(self) -> bool:
        with self._database.write(durable=False, timeout=TURN) as tx:
            return turns.take(tx, "sweep", self._name, _SWEEPING)
