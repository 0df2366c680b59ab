"""What was interrupted: detect, decide, hand back. It runs nothing itself.

A worker of this host is dead when nobody holds its lock file. A worker elsewhere is lost when a
whole lease has passed, by the sweeper's own monotonic clock and in unbroken contact with the
ledger, without its count of renewals moving: no two clocks are compared, so neither a clock that
jumps nor an outage of the ledger declares a fleet dead.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import msgspec

from failbetter import board, ids
from failbetter.errors import LedgerError
from failbetter.ledger import effects, registry, turns
from failbetter.ledger.endings import Settlement, own_error, settle
from failbetter.lifecycle.decide import Outcome, Transition, decide
from failbetter.lifecycle.states import Cause, State

if TYPE_CHECKING:
    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_logger = logging.getLogger("failbetter.recovery")

# Rows a transaction: few enough that nobody waits long for the write lock.
_BATCH = 1_000
# Seconds. A sweep is done by a supervisor, which must not stop watching its children for it.
_TURN = 0.5
# Seconds for which a sweeper keeps the others of all hosts from doing the same.
_SWEEPING = 2.0


class Report(msgspec.Struct):
    """What one sweep did."""

    workers_examined: int = 0
    workers_gone: int = 0
    handed_back: int = 0
    ended: int = 0
    expired: int = 0


class _Watched(msgspec.Struct):
    beats: int
    since: float


class Sweeper:
    """Finds dead and lost workers and hands back what they held. One for each process."""

    def __init__(self, database: Database, own: int | None = None) -> None:
        self._database = database
        self._own = own
        self._name = own if own is not None else ids.take()
        self._watched: dict[int, _Watched] = {}
        self._last: float | None = None
        self._renewed = _Watched(-1, 0.0)

    def tick(self, now: float) -> Report:
        """Sweep once; `now` in monotonic seconds. Raises LedgerError; what was done stays done."""
        report = Report()
        try:
            self._sweep(now, report)
        except LedgerError:
            # Contact was broken: whatever was watched must be watched anew for a whole lease.
            self._watched.clear()
            raise
        if report.handed_back:
            self._database.wake()
        return report

    def _sweep(self, now: float, report: Report) -> None:
        with self._database.look() as tx:
            workers = registry.all_workers(tx)
            orphaned = registry.orphaned(tx)
            overdue = bool(registry.expired(tx, tx.now(), 1))
        self._notice_own_absence(now, workers)
        fleet = self._database.fleet
        known = {worker.id for worker in workers}
        silent = []
        for worker in workers:
            if worker.id == self._own:
                continue
            report.workers_examined += 1
            if self._database.sees_dead(worker.id, worker.fleet):
                # Only from this host can that be seen, so that nobody's turn is waited for.
                fleet.kill_remains(worker.id)
                self._recover(worker.id, worker.name, "its supervisor died", report)
                fleet.forget(worker.id)
            elif self._is_silent(worker, now):
                silent.append(worker)
        orphaned = [number for number in orphaned if number not in known]
        if (silent or orphaned or overdue) and self._is_my_turn():
            for worker in silent:
                self._recover(worker.id, worker.name, "its lease ran out", report, worker.beats)
            for number in orphaned:
                self._recover(number, f"worker {number}", "its worker is not registered", report)
            if overdue:
                self._expire(report)
        for number in fleet.strays(known):
            # Declared lost while it was frozen, and dead since: nobody else knows of its files.
            fleet.forget_dead(number)

    def _is_my_turn(self) -> bool:
        with self._database.write(durable=False, timeout=_TURN) as tx:
            return turns.take(tx, "sweep", self._name, _SWEEPING)

    def _notice_own_absence(self, now: float, workers: list[registry.Worker]) -> None:
        """A sweeper that was frozen has not watched anyone meanwhile, and one whose own renewals
        do not get through knows nothing from the silence of others."""
        shortest = min((worker.lease for worker in workers), default=0) / 1e6
        if self._last is not None and now - self._last > max(shortest / 2, 1.5):
            self._watched.clear()
        self._last = now
        for own in workers:
            if own.id == self._own and own.beats != self._renewed.beats:
                self._renewed = _Watched(own.beats, now)
            elif own.id == self._own and now - self._renewed.since > own.lease / 2e6:
                self._watched.clear()
        alive = {worker.id for worker in workers}
        for number in list(self._watched):
            if number not in alive:
                del self._watched[number]

    def _is_silent(self, worker: registry.Worker, now: float) -> bool:
        seen = self._watched.get(worker.id)
        if seen is None or seen.beats != worker.beats:
            self._watched[worker.id] = _Watched(worker.beats, now)
            return False
        return now - seen.since >= worker.lease / 1e6

    def _recover(
        self, number: int, name: str, why: str, report: Report, beats: int | None = None
    ) -> None:
        begun = board.begun(self._database.fleet.board_path(number))
        with self._database.write(timeout=_TURN) as tx:
            # First of all it may claim no more. Should we die here, its jobs are orphans.
            if beats is None:
                registry.remove(tx, number)
            elif not registry.remove_silent(tx, number, beats):
                return  # heard of in this very moment, or another sweeper is at it
        report.workers_gone += 1
        after = 0
        moved = 0
        while True:
            with self._database.write(timeout=_TURN) as tx:
                batch = registry.held(tx, number, after, _BATCH)
                endings = [self._ending(tx, one, name, why, begun) for one in batch]
                settle(tx, endings)
            if not batch:
                break
            after = batch[-1].job.id
            moved += len(batch)
            for ending in endings:
                if ending.transition.state is State.PENDING:
                    report.handed_back += 1
                else:
                    report.ended += 1
        _logger.warning("worker %s is gone (%s); %d jobs it held are settled", name, why, moved)

    def _ending(
        self,
        tx: Tx,
        held: registry.Held,
        name: str,
        why: str,
        begun: set[tuple[int, int]] | None,
    ) -> Settlement:
        job = held.job
        # Without its board nobody knows: what was handed out counts as begun.
        had_begun = begun is None or held.running or (job.id, job.fence) in begun
        outcome = Outcome(
            Cause.LOST, begun=had_begun, uncertain=had_begun and effects.in_doubt(tx, job.id)
        )
        now = tx.now()
        transition = decide(job.facts(), outcome, now, random)
        error = None
        if had_begun:
            text = f"worker {name} was lost while it ran the job: {why}"
            error = own_error(job.task, "failbetter.WorkerLost", text)
        return Settlement(
            id=job.id,
            fence=job.fence,
            number=job.starts + 1,
            priority=job.priority,
            transition=transition,
            cause=Cause.LOST,
            begun_at=(held.begun_at or now) if had_begun else None,
            ended_at=now,
            worker=name,
            code=None,
            error=error,
            evidence=msgspec.json.encode({"why": why}).decode(),
            mirror_key=job.mirror_key,
        )

    def _expire(self, report: Report) -> None:
        """End some of the jobs whose time is over; the next sweep goes on with the rest."""
        with self._database.write(timeout=_TURN) as tx:
            now = tx.now()
            batch = registry.expired(tx, now, _BATCH)
            settle(tx, [_expiry(job, now) for job in batch])
        report.expired = len(batch)
        _logger.info("%d jobs waited too long and have expired", len(batch))


def _expiry(job: Claimed, now: int) -> Settlement:
    transition: Transition = decide(job.facts(), Outcome(Cause.REFUSED), now, random)
    return Settlement(
        id=job.id,
        fence=job.fence,
        number=job.starts + 1,
        priority=job.priority,
        transition=transition,
        cause=Cause.REFUSED,
        begun_at=None,
        ended_at=now,
        worker="",
        code=None,
        mirror_key=job.mirror_key,
    )
