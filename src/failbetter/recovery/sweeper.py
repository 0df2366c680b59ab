"""The sweep: what every worker does each second, and `failbetter maintain` where none runs.

A worker of this host is dead when nobody holds its lock file. A worker elsewhere is lost when a
whole lease has passed, by the sweeper's own monotonic clock and in unbroken contact with the
ledger, without its count of renewals moving: no two clocks are compared, so neither a clock that
jumps nor an outage of the ledger declares a fleet dead. That contact is a write: a worker's is
its own renewal, anyone else's a mark that each sweep makes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from failbetter import ids
from failbetter.errors import LedgerError
from failbetter.ledger import registry, turns
from failbetter.recovery import status
from failbetter.recovery.deciding import Gone, Report, gone, orphaning
from failbetter.recovery.guests import Vouch, gone_here
from failbetter.recovery.settling import BATCH, TURN, Settler
from failbetter.recovery.watch import Watch

if TYPE_CHECKING:
    from failbetter.ledger.database import Database

LEASE_RAN_OUT = "its lease ran out"
# Seconds for which a sweeper keeps the others of all hosts from doing the same.
_SWEEPING = 2.0
# Seconds after which a sweep leaves the rest to the next one.
_AT_MOST = 0.5


class Sweeper:
    """Finds dead and lost workers and hands back what they held. One for each process.

    `own`: the id of the worker that sweeps; None: it is none. `vouch`: why a silent worker in an
    engine's process is known to be gone, if it is; without it none is believed to be.
    """

    def __init__(
        self, database: Database, own: int | None = None, vouch: Vouch = lambda worker: None
    ) -> None:
        self._database = database
        self._own = own
        self._name = own if own is not None else ids.take()
        self._watch = Watch(own)
        self._settler = Settler(database, go_on=self._has_time)
        self._vouch = vouch
        self._dead_since: dict[int, float] = {}
        self._limit = 0.0
        self.swept_at: int | None = None
        """When it last swept and could (µs, by the ledger's clock)."""

    def tick(self, now: float) -> Report:
        """Sweep once; `now` in monotonic seconds. Raises LedgerError; what was done stays done."""
        report = Report()
        self._limit = time.monotonic() + _AT_MOST
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
            known = {worker.id for worker in workers}
            orphans = [orphaning(tx, n) for n in registry.orphaned(tx) if n not in known]
            overdue = bool(registry.expired(tx, tx.now(), 1))
        silent = {one.id for one in self._watch.look(now, workers)}
        others = [worker for worker in workers if worker.id != self._own]
        report.workers_examined += len(others)
        lost = []
        for worker in others:
            if self._database.sees_dead(worker.id, worker.fleet):
                # Only from this host can that be seen, so that nobody's turn is waited for.
                since = self._dead_since.setdefault(worker.id, now)
                one = gone_here(self._database.fleet, worker, now - since)
                if one is not None:
                    self._settle(one, report)
            elif worker.id in silent and worker.engine is None:
                lost.append(gone(worker, LEASE_RAN_OUT, silent=True))
            elif (
                worker.id in silent
                and (why := self._vouch(worker)) is not None
                # It may have died while the engine was asked: the next sweep sees of what.
                and not self._database.sees_dead(worker.id, worker.fleet)
            ):
                lost.append(gone(worker, why, silent=True))
        self._dead_since = {n: at for n, at in self._dead_since.items() if n in known}
        known |= {one.id for one in orphans}
        lost += [one for one in orphans if self._settler.is_due(one)]
        if (lost or overdue) and self._is_my_turn():
            for one in lost:
                self._settle(one, report)
            if overdue and self._settler.expire(report) == BATCH:
                report.more = True
        for number in self._database.fleet.strays(known):
            # Declared lost while it was frozen, and dead since: nobody else knows of its files.
            self._database.fleet.forget_dead(number)
        if report.handed_back or report.ended or report.expired or report.refused:
            with self._database.write(timeout=TURN) as tx:
                status.add_sweep(tx, report)

    def _settle(self, one: Gone, report: Report) -> None:
        begun = report.handed_back or report.ended  # however late it is, something is done
        if (begun and not self._has_time()) or not self._settler.settle(one, report):
            report.more = True

    def _has_time(self) -> bool:
        return time.monotonic() < self._limit

    def _is_my_turn(self) -> bool:
        with self._database.write(durable=False, timeout=TURN) as tx:
            return turns.take(tx, "sweep", self._name, _SWEEPING)
