"""Removes gone workers and settles what they held, batch by batch.

A job that cannot be moved, for a reason of its own, stops none of the others: the batch is cut in
halves until it is alone, and it is told of.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from failbetter import board, ids
from failbetter.errors import LedgerError, LedgerFull, LedgerUnavailable, SchemaMismatch
from failbetter.faultpoints import passing
from failbetter.ledger import notes, registry
from failbetter.ledger.endings import settle
from failbetter.recovery.deciding import Gone, Report, expiry, judge, tell, tell_expired, write
from failbetter.recovery.report import RecoveredJob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_logger = logging.getLogger("failbetter.recovery")

BATCH = 1_000
"""Rows a transaction: few enough that nobody waits long for the write lock."""
TURN = 0.5
"""Seconds. A sweep is done by a supervisor, which must not stop watching its children for it."""
# A job that cannot be moved is tried again by the sweeps after so many seconds.
_AGAIN = 60.0


class Settler:
    """Settles what gone workers held.

    `in_each`: what else each transaction does. `go_on`: asked between batches; False ends it.
    `turn`: seconds to wait for one's turn to write.
    """

    def __init__(
        self,
        database: Database,
        *,
        in_each: Callable[[Tx], None] = lambda tx: None,
        go_on: Callable[[], bool] = lambda: True,
        turn: float = TURN,
    ) -> None:
        self._database = database
        self._in_each = in_each
        self._go_on = go_on
        self.turn = turn
        # What could not be moved, by (id, fence): when it was tried (monotonic s).
        self._refused: dict[tuple[int, int], float] = {}

    # -- a gone worker

    def settle(self, gone: Gone, report: Report) -> bool:
        """Remove the worker and settle all that it held; False when told to stop in between.

        Raises LedgerError when the ledger cannot do it; what was done stays done.
        """
        fleet = self._database.fleet
        here = fleet.is_dead(gone.id)
        if here:
            # What still runs of it must not go on beside the next attempt.
            fleet.kill_remains(gone.id)
        begun = board.begun(fleet.board_path(gone.id))
        is_news = self._remove(gone)
        if is_news is None:
            return True  # heard of in this very moment, or another sweeper is at it
        if is_news:
            report.workers_gone += 1
            if report.gone is not None:
                report.gone.append(gone.shown())
        before = report.handed_back + report.ended
        after = 0
        while True:
            after, finished = self._next_batch(gone, after, begun, report)
            if finished or not self._go_on():
                break
        moved = report.handed_back + report.ended - before
        if is_news or moved:
            text = "worker %s is gone (%s); %d jobs it held are settled"
            _logger.warning(text, gone.name, gone.why, moved)
        if here and finished:
            fleet.forget(gone.id)
        return finished

    def is_due(self, orphan: Gone) -> bool:
        """Whether an unregistered worker holds more than what cannot be moved."""
        if not self._refused:
            return True
        with self._database.look() as tx:
            batch = registry.held(tx, orphan.id, 0, BATCH)
        return not all(self._was_refused(one.job) for one in batch)

    def _remove(self, gone: Gone) -> bool | None:
        """First of all it may claim no more. Should we die here, its jobs are orphans.

        Whether this is the first that is heard of its end; None when it has not ended.
        """
        with self._database.write(durable=False, timeout=self.turn) as tx:
            self._in_each(tx)
            if gone.beats is None:
                registry.remove(tx, gone.id)
            elif not registry.remove_silent(tx, gone.id, gone.beats):
                return None
            is_news = notes.read(tx, gone.note) is None
            if is_news:
                kept = msgspec.structs.replace(gone, beats=None)
                notes.write(tx, gone.note, msgspec.json.encode(kept).decode())
        passing("after_removal")
        return is_news

    def _next_batch(
        self, gone: Gone, after: int, begun: set[tuple[int, int]] | None, report: Report
    ) -> tuple[int, bool]:
        """Settle the next of its jobs; the last one's id, and whether it was the last of all."""
        with self._database.look() as tx:
            batch = registry.held(tx, gone.id, after, BATCH)
        due = [one for one in batch if not self._was_refused(one.job)]
        finished = len(batch) < BATCH
        done = self._settle_some(gone, due, begun, report)
        if finished and done and len(due) == len(batch):
            self._forget(gone)
        return (batch[-1].job.id if batch else after), finished

    def _settle_some(
        self,
        gone: Gone,
        batch: Sequence[registry.Held],
        begun: set[tuple[int, int]] | None,
        report: Report,
    ) -> bool:
        """Settle these; whether none of them was refused."""
        if not batch:
            return True
        try:
            with self._database.write(durable=False, timeout=self.turn) as tx:
                self._in_each(tx)
                decisions = judge(tx, gone, batch, begun)
                lost = write(tx, gone, decisions)
                passing("in_recovery")
        except Exception as error:
            if self._is_the_ledgers(error):
                raise
            if len(batch) == 1:
                self._refuse(batch[0].job, error, report)
                return False
            half = len(batch) // 2
            first = self._settle_some(gone, batch[:half], begun, report)
            return self._settle_some(gone, batch[half:], begun, report) and first
        for decision in decisions:
            if decision.job.id not in lost:
                tell(gone, decision, report)
        return True

    def _forget(self, gone: Gone) -> None:
        with self._database.write(durable=False, timeout=self.turn) as tx:
            notes.remove(tx, gone.note)

    # -- what cannot be moved

    def _is_the_ledgers(self, error: Exception) -> bool:
        """Whether the ledger is in trouble, and not a single row: then it takes no write at all."""
        if isinstance(error, (LedgerFull, SchemaMismatch)):
            return True
        if isinstance(error, LedgerUnavailable) and error.passing:
            return True
        if not isinstance(error, LedgerError):
            return False
        try:
            with self._database.write(durable=False, timeout=self.turn) as tx:
                notes.write(tx, "written", str(tx.now()))
        except LedgerError:
            return True
        return False

    def _was_refused(self, job: Claimed) -> bool:
        at = self._refused.get((job.id, job.fence))
        return at is not None and time.monotonic() - at < _AGAIN

    def _refuse(self, job: Claimed, error: Exception, report: Report) -> None:
        why = str(error) if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
        report.refused += 1
        if report.jobs is not None:
            row = RecoveredJob(ids.to_text(job.id), job.task, "refused", "running", None, why)
            report.jobs.append(row)
        if (job.id, job.fence) not in self._refused:
            _logger.error(
                "[%s] the job cannot be handed back: %s. The others go on; this one is tried"
                " again every %g s",
                job.task,
                why,
                _AGAIN,
                extra={"job_id": ids.to_text(job.id), "task": job.task},
            )
        self._refused[job.id, job.fence] = time.monotonic()

    # -- waiting jobs whose time is over

    def expire(self, report: Report) -> int:
        """End a batch of them; how many there were."""
        with self._database.write(durable=False, timeout=self.turn) as tx:
            self._in_each(tx)
            now = tx.now()
            batch = registry.expired(tx, now, BATCH)
            settle(tx, [expiry(job, now) for job in batch])
        tell_expired(batch, now, report)
        _logger.info("%d jobs waited too long and have expired", len(batch))
        return len(batch)
