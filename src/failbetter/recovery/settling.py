"""What becomes of what a gone worker held: decided job by job, written many at a time.

A job that cannot be moved, for a reason of its own, stops none of the others: the batch is cut in
halves until it is alone, and it is told of.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import board, ids
from failbetter.errors import LedgerError, LedgerFull, LedgerUnavailable, SchemaMismatch
from failbetter.faultpoints import passing
from failbetter.ledger import claims, losses, notes, registry
from failbetter.ledger.endings import Error, Settlement, own_error, settle
from failbetter.lifecycle.decide import Outcome, Transition, decide
from failbetter.lifecycle.states import Cause, State
from failbetter.recovery.report import GoneWorker, RecoveredJob

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

_NOT_BEGUN = "its body had not begun"
_EXPIRED = "it waited too long"


class Report(msgspec.Struct):
    """What one sweep did. `jobs` and `gone` are kept where somebody wants to read them."""

    workers_examined: int = 0
    workers_gone: int = 0
    handed_back: int = 0
    ended: int = 0
    expired: int = 0
    refused: int = 0
    more: bool = False
    """Whether there is more to do, which the next sweep does."""
    jobs: list[RecoveredJob] | None = None
    gone: list[GoneWorker] | None = None


class Gone(msgspec.Struct, frozen=True):
    """A worker that is no more. `last_heard` (µs since the epoch) None: not on record.

    `beats`: how often it had renewed its lease, if its silence is all that is known.
    """

    id: int
    name: str
    why: str
    host: str | None = None
    last_heard: int | None = None
    code: str | None = None
    beats: int | None = None

    @property
    def note(self) -> str:
        """The name under which the ledger remembers it, until all that it held is settled."""
        return f"gone {self.id}"

    def shown(self) -> GoneWorker:
        """As a report has it."""
        heard = None if self.last_heard is None else moment(self.last_heard)
        return GoneWorker(self.name, self.host, self.why, heard)


def gone(worker: registry.Worker, why: str, *, silent: bool = False) -> Gone:
    """A registered worker that is no more; `silent`: as far as its lease tells."""
    beats = worker.beats if silent else None
    return Gone(worker.id, worker.name, why, worker.host, worker.renewed_at, worker.code, beats)


def orphaning(tx: Tx, number: int) -> Gone:
    """The unregistered worker of that id, as whoever removed it has left it on record."""
    known = notes.read(tx, f"gone {number}")
    if known is not None:
        try:
            return msgspec.json.decode(known, type=Gone)
        except msgspec.MsgspecError:
            pass
    return Gone(number, f"worker {number}", "its worker is not registered")


def moment(micros: int) -> datetime:
    """A time of the ledger's."""
    return datetime.fromtimestamp(micros / 1e6, UTC)


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What is to become of one held job. `begun_at` None: its body had not begun."""

    job: Claimed
    transition: Transition
    begun_at: int | None
    checkpoint: losses.Checkpoint | None


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
            settle(tx, [_expiry(job, now) for job in batch])
        tell_expired(batch, now, report)
        _logger.info("%d jobs waited too long and have expired", len(batch))
        return len(batch)


def judge(
    tx: Tx, gone: Gone, batch: Sequence[registry.Held], begun: set[tuple[int, int]] | None
) -> list[Decision]:
    """Decide what becomes of each; `begun`: (id, fence) by its board, None if that is unknown."""
    first, last = batch[0].job.id, batch[-1].job.id
    doubted = losses.doubted(tx, gone.id, first, last)
    checkpoints = losses.checkpoints(tx, gone.id, first, last)
    now = tx.now()
    silent = 0.0 if gone.last_heard is None else max(now - gone.last_heard, 0) / 1e6
    found = []
    for held in batch:
        job = held.job
        # Without its board nobody knows: what was handed out counts as begun.
        had_begun = begun is None or held.running or (job.id, job.fence) in begun
        outcome = Outcome(
            Cause.LOST,
            begun=had_begun,
            uncertain=had_begun and job.id in doubted,
            silent=silent,
        )
        transition = decide(job.facts(), outcome, now, random)
        begun_at = (held.begun_at or now) if had_begun else None
        found.append(Decision(job, transition, begun_at, checkpoints.get(job.id)))
    return found


def write(tx: Tx, gone: Gone, decisions: Sequence[Decision]) -> set[int]:
    """Write what was decided; the ids of jobs whose attempt had ended meanwhile."""
    now = tx.now()
    unbegun = [(one.job.id, one.job.fence, gone.id) for one in decisions if one.begun_at is None]
    begun = [one for one in decisions if one.begun_at is not None]
    waiting = [one for one in begun if one.transition.state is State.PENDING]
    ended = [one for one in begun if one.transition.state is not State.PENDING]
    if unbegun:
        # To its old place: it goes first again.
        claims.give_back(tx, unbegun, now)
    made = [_loss(gone, one, now) for one in waiting]
    if made and not losses.hand_back(tx, made, gone.name, gone.code, now):
        ended = begun  # a thawed worker has ended some: one by one, then
    late = settle(tx, [_settlement(gone, one, now) for one in ended]) if ended else []
    return {one.id for one in late}


def tell(gone: Gone, decision: Decision, report: Report) -> None:
    """Count what became of one job."""
    to = decision.transition
    waits = to.state is State.PENDING
    if waits:
        report.handed_back += 1
    else:
        report.ended += 1
    if report.jobs is None:
        return
    why = _NOT_BEGUN if decision.begun_at is None else gone.why
    job = decision.job
    became = "handed_back" if waits else "ended"
    reason = None if to.reason is None else to.reason.value
    row = RecoveredJob(ids.to_text(job.id), job.task, became, to.state.value, reason, why)  # type: ignore[arg-type]
    report.jobs.append(row)


def tell_expired(batch: Sequence[Claimed], now: int, report: Report) -> None:
    """Count waiting jobs whose time was over."""
    report.expired += len(batch)
    if report.jobs is None:
        return
    for job in batch:
        to = _expiry(job, now).transition
        reason = None if to.reason is None else to.reason.value
        row = RecoveredJob(ids.to_text(job.id), job.task, "ended", to.state.value, reason, _EXPIRED)
        report.jobs.append(row)


def _loss(gone: Gone, one: Decision, now: int) -> losses.Loss:
    job = one.job
    return losses.Loss(
        job.id,
        job.fence,
        gone.id,
        job.starts + 1,
        now if one.begun_at is None else one.begun_at,
        _error(job.task, gone.name, gone.why),
        _evidence(gone, one.checkpoint),
        job.mirror_key,
    )


def _settlement(gone: Gone, one: Decision, now: int) -> Settlement:
    job = one.job
    return Settlement(
        id=job.id,
        fence=job.fence,
        holder=job.worker,
        number=job.starts + 1,
        priority=job.priority,
        transition=one.transition,
        cause=Cause.LOST,
        begun_at=one.begun_at,
        ended_at=now,
        worker=gone.name,
        code=gone.code,
        error=_error(job.task, gone.name, gone.why),
        evidence=_evidence(gone, one.checkpoint),
        mirror_key=job.mirror_key,
    )


@functools.lru_cache(maxsize=1_000)
def _error(task: str, name: str, why: str) -> Error:
    text = f"worker {name} was lost while it ran the job: {why}"
    return own_error(task, "failbetter.WorkerLost", text)


@functools.lru_cache(maxsize=1_000)
def _evidence(gone: Gone, checkpoint: losses.Checkpoint | None) -> str:
    found: dict[str, Any] = {"why": gone.why}
    if gone.host is not None:
        found["host"] = gone.host
    if gone.last_heard is not None:
        found["last_heard"] = moment(gone.last_heard).isoformat(timespec="milliseconds")
    if checkpoint is not None:
        found["checkpoint"] = checkpoint
    return msgspec.json.encode(found).decode()


def _expiry(job: Claimed, now: int) -> Settlement:
    transition = decide(job.facts(), Outcome(Cause.REFUSED), now, random)
    return Settlement(
        id=job.id,
        fence=job.fence,
        holder=job.worker,
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
