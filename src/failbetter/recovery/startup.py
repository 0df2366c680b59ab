"""Recovery at one go, before an application serves: bounded in time, and with a full report."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from failbetter import board
from failbetter.errors import LedgerError, LedgerFull, LedgerUnavailable, SchemaMismatch
from failbetter.faultpoints import passing
from failbetter.ledger import migrate, notes, registry
from failbetter.recovery import status
from failbetter.recovery.deciding import (
    Gone,
    Report,
    gone,
    judge,
    moment,
    orphaning,
    tell,
    tell_expired,
)
from failbetter.recovery.guests import known_dead
from failbetter.recovery.lock import Lock, Overtaken
from failbetter.recovery.report import RecoveryProgress, RecoveryReport, WatchedWorker
from failbetter.recovery.settling import BATCH, Settler
from failbetter.recovery.sweeper import LEASE_RAN_OUT
from failbetter.recovery.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx
    from failbetter.recovery.report import RecoveryOutcome

R = TypeVar("R")

_logger = logging.getLogger("failbetter.recovery")

# Seconds to wait for one's turn to write.
_TURN = 5.0
# Seconds between two looks at workers that are watched.
_LOOK = 0.25
# What is left is counted up to so many waiting jobs whose time is over.
_MOST = 100_000


class Ask(msgspec.Struct, frozen=True):
    """What is asked of a recovery; times in seconds."""

    force: bool = False
    timeout: float = 30.0
    skip_window: float = 0.0
    dry_run: bool = False
    max_retries: int = 3
    retry_delay: float = 5.0
    progress: Callable[[RecoveryProgress], object] | None = None


class _Undo(Exception):
    """Undoes the write by which a dry run finds out whether one is possible."""


class _Found(msgspec.Struct):
    """What one look at the ledger shows."""

    workers: list[registry.Worker]
    gone: list[Gone]
    silent: list[registry.Worker]
    """Their leases have run out by the ledger's clock, which alone is not believed."""
    overdue: bool

    def leased(self, tx: Tx) -> int:
        """How many jobs are under a live lease."""
        apart = {one.id for one in self.gone} | {one.id for one in self.silent}
        alive = [one.id for one in self.workers if one.id not in apart]
        return sum(registry.count_held(tx, number) for number in alive)


def needs_recovery(database: Database) -> bool:
    """Whether some job is held by a worker that is gone, as far as one look can tell, or overdue.

    A database that is not there yet has no such jobs. Raises LedgerError when it cannot be known.
    """
    try:
        if not database.exists():
            database.kind.check_location()  # of a folder that is not mounted nothing is known
            return False
    except OSError as error:
        raise LedgerUnavailable(f"{database.name} cannot be looked at: {error}") from error
    found = _look(database)
    if found.overdue:
        return True
    suspects = {one.id for one in found.gone} | {one.id for one in found.silent}
    with database.look() as tx:
        return any(registry.count_held(tx, number) for number in suspects)


def _look(database: Database) -> _Found:
    with database.look() as tx:
        now = tx.now()
        workers = registry.all_workers(tx)
        orphans = [orphaning(tx, number) for number in registry.orphaned(tx)]
        overdue = bool(registry.expired(tx, now, 1))
    dead = {one.id for one in workers if database.sees_dead(one.id, one.fleet)}
    known = {one.id for one in workers}
    return _Found(
        workers,
        [
            *(known_dead(database.fleet, one) for one in workers if one.id in dead),
            *(one for one in orphans if one.id not in known),
        ],
        # Of an engine's process, silence says nothing.
        [
            one
            for one in workers
            if one.id not in dead and one.lease_expired(now) and one.engine is None
        ],
        overdue,
    )


class Recovery:
    """One recovery."""

    def __init__(self, database: Database, ask: Ask) -> None:
        self._database = database
        self._ask = ask
        self._began = time.monotonic()
        self._deadline = self._began + ask.timeout
        self._lock = Lock(database)
        self._report = Report(jobs=[], gone=[])
        self._total = 0
        self._waits_for: str | None = None
        self._watch = Watch()
        self._heard_of: set[int] = set()
        """Workers that renewed their lease although, by the ledger's clock, it had run out."""
        self._settler = Settler(
            database, in_each=self._lock.keep, go_on=self._go_on, turn=self._patience()
        )

    def run(self) -> RecoveryReport:
        """Do it. Raises LedgerError when the ledger cannot do its part."""
        self._reach(self._validate)
        if self._was_done_lately():
            return self._told("skipped")
        if self._ask.dry_run:
            return self._try_dry()
        holder = self._reach(lambda: self._lock.take(self._pause))
        if holder is not None:
            self._lock.close()
            return self._told("locked", by=holder)
        try:
            return self._locked()
        except Overtaken:
            return self._told("locked", by="another process")
        finally:
            self._lock.release()

    def _locked(self) -> RecoveryReport:
        passing("after_recover_lock")
        if self._was_done_lately():  # by whoever had the lock
            return self._told("skipped")
        try:
            finished = self._reach(self._work)
            told = self._reach(lambda: self._summary(finished))
        except LedgerError:
            raise
        except BaseException:  # a signal, or what `progress` raised: it stops here, and says so
            with contextlib.suppress(LedgerError):
                self._record("stopped")
            raise
        passing("before_recorded")
        self._reach(lambda: self._record(told.outcome))
        if self._report.handed_back:
            self._database.wake()
        return told

    # -- time

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _patience(self) -> float:
        return min(max(self._left(), 0.1), _TURN)

    def _go_on(self) -> bool:
        report = self._report
        done = report.handed_back + report.ended + report.expired
        if self._ask.progress is not None:
            self._ask.progress(RecoveryProgress(done, max(self._total, done), self._waits_for))
        self._settler.turn = self._patience()
        return self._left() > 0

    def _pause(self, seconds: float, why: str) -> bool:
        """Wait; whether there is any time left after that."""
        self._waits_for = why
        limit = time.monotonic() + seconds
        while self._go_on() and (left := limit - time.monotonic()) > 0:
            time.sleep(min(0.1, left, max(self._left(), 0)))
        self._waits_for = None
        return self._left() > 0

    def _reach(self, work: Callable[[], R]) -> R:
        """Do it, and again after a pause while the ledger is out of reach."""
        failures = 0
        while True:
            try:
                return work()
            except (Overtaken, SchemaMismatch, LedgerFull):
                raise
            except LedgerError as error:
                failures += 1
                if failures > self._ask.max_retries or self._left() < self._ask.retry_delay:
                    raise
                _logger.warning("%s; trying again in %g s", error, self._ask.retry_delay)
                why = f"{error}; trying again in {self._ask.retry_delay:g} s"
                self._pause(self._ask.retry_delay, why)

    # -- before anything else

    def _validate(self) -> None:
        """The tables are there, of a version that this one can use; and a write is possible."""
        database = self._database
        database.ensure_schema()
        found = database.revision()
        if found is None:
            raise SchemaMismatch(
                f"{database.name} has no tables of failbetter; run `failbetter migrate` once"
            )
        if found != database.own_revision:
            migrate.check_usable(database, found)
        with (
            contextlib.suppress(_Undo),
            database.write(durable=not self._ask.dry_run, timeout=self._patience()) as tx,
        ):
            notes.write(tx, "written", str(tx.now()))
            if self._ask.dry_run:
                raise _Undo

    def _was_done_lately(self) -> bool:
        if self._ask.force or self._ask.skip_window <= 0:
            return False
        with self._database.look() as tx:
            done = status.last(tx)
            now = tx.now()
        return (
            done is not None
            and done.outcome in ("recovered", "nothing", "partial")
            and 0 <= now - done.at < self._ask.skip_window * 1e6
        )

    # -- the work

    def _work(self) -> bool:
        """Recover all that can be; False when the time was over before that."""
        found = _look(self._database)
        self._count(found)
        for one in found.gone:
            if not self._go_on() or not self._settler.settle(one, self._report):
                return False
        while found.overdue and self._go_on():
            found.overdue = self._settler.expire(self._report) == BATCH
        for number in self._database.fleet.strays({one.id for one in found.workers}):
            self._database.fleet.forget_dead(number)
        return not found.overdue and self._watch_silent(found.silent)

    def _count(self, found: _Found) -> None:
        with self._database.look() as tx:
            self._total += sum(registry.count_held(tx, one.id) for one in found.gone)

    def _watch_silent(self, silent: list[registry.Worker]) -> bool:
        """Watch those that can be watched for a whole lease; the others are told of."""
        left = {one.id: one.beats for one in silent if one.lease / 1e6 < self._left()}
        while left:
            with self._database.write(durable=False, timeout=self._patience()) as tx:
                self._lock.keep(tx)  # contact, by a write
            with self._database.look() as tx:
                workers = registry.all_workers(tx)
            self._heard_of |= {
                one.id for one in workers if one.beats != left.get(one.id, one.beats)
            }
            known = {one.id for one in workers} - self._heard_of
            left = {number: beats for number, beats in left.items() if number in known}
            for one in self._watch.look(time.monotonic(), workers):
                if one.id in left:
                    del left[one.id]
                    lost = gone(one, LEASE_RAN_OUT, silent=True)
                    if not self._settler.settle(lost, self._report):
                        return False
            if left and not self._pause(_LOOK, self._waiting(workers, left)):
                break
        return True

    @staticmethod
    def _waiting(workers: list[registry.Worker], left: Mapping[int, int]) -> str:
        names = ", ".join(one.name for one in workers if one.id in left)
        return f"the lease of {names} ran out; waiting for another one, should it be alive"

    # -- what is said of it

    def _summary(self, finished: bool) -> RecoveryReport:
        found = _look(self._database)
        found.silent = [one for one in found.silent if one.id not in self._heard_of]
        with self._database.look() as tx:
            left = sum(registry.count_held(tx, one.id) for one in found.gone)
            if found.overdue:
                left += len(registry.expired(tx, tx.now(), _MOST))
            left -= self._report.refused
            watched = [_watched(tx, one) for one in found.silent]
            leased = found.leased(tx)
        done = self._report
        outcome: RecoveryOutcome = "nothing"
        if not finished and left > 0:
            outcome = "timed_out"
        elif done.refused:
            outcome = "partial"
        elif done.handed_back or done.ended or done.expired:
            outcome = "recovered"
        left = max(left, 0) if outcome == "timed_out" else 0
        return self._told(outcome, watched=watched, leased=leased, left=left)

    def _told(
        self,
        outcome: RecoveryOutcome,
        *,
        by: str | None = None,
        watched: list[WatchedWorker] | None = None,
        leased: int = 0,
        left: int = 0,
    ) -> RecoveryReport:
        report = self._report
        return RecoveryReport(
            outcome=outcome,
            jobs=report.jobs or [],
            handed_back=report.handed_back,
            ended=report.ended + report.expired,
            expired=report.expired,
            refused=report.refused,
            gone=report.gone or [],
            watched=watched or [],
            leased=leased,
            left=left,
            by=by,
            dry_run=self._ask.dry_run,
            seconds=time.monotonic() - self._began,
        )

    def _record(self, outcome: str) -> None:
        with self._database.write(timeout=self._patience()) as tx:
            self._lock.keep(tx)
            done = status.Last(tx.now(), outcome, self._lock.name, status.counts(self._report))
            status.write_last(tx, done)

    # -- only look

    def _try_dry(self) -> RecoveryReport:
        report = self._report
        found = _look(self._database)
        for one in found.gone:
            assert report.gone is not None
            report.gone.append(one.shown())
            self._try_one(one)
        if found.overdue:
            with self._database.look() as tx:
                tell_expired(registry.expired(tx, tx.now(), _MOST), tx.now(), report)
        with self._database.look() as tx:
            watched = [_watched(tx, one) for one in found.silent]
            leased = found.leased(tx)
        some = report.handed_back or report.ended or report.expired
        return self._told("recovered" if some else "nothing", watched=watched, leased=leased)

    def _try_one(self, one: Gone) -> None:
        begun = board.begun(self._database.fleet.board_path(one.id))
        after, finished = 0, False
        while not finished and self._go_on():
            with self._database.look() as tx:
                batch = registry.held(tx, one.id, after, BATCH)
                decisions = judge(tx, one, batch, begun) if batch else []
            for decision in decisions:
                tell(one, decision, self._report)
            finished = len(batch) < BATCH
            after = batch[-1].job.id if batch else after


def _watched(tx: Tx, one: registry.Worker) -> WatchedWorker:
    held = registry.count_held(tx, one.id)
    return WatchedWorker(one.name, one.host, moment(one.renewed_at), one.lease / 1e6, held)
