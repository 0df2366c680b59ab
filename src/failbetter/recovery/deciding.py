"""What becomes of one gone worker's jobs: decided job by job, written many at a time."""

from __future__ import annotations

import functools
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ids
from failbetter.ledger import claims, losses, notes
from failbetter.ledger.endings import (
    Error,
    Settlement,
    error_of_death,
    own_error,
    settle,
)
from failbetter.lifecycle.decide import Outcome, Transition, decide
from failbetter.lifecycle.states import Cause, State
from failbetter.recovery.report import GoneWorker, RecoveredJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger import registry
    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.kinds import Tx

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
    cause: Cause = Cause.LOST
    """What its bodies ended of."""
    evidence: dict[str, Any] = {}

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
            gone.cause,
            begun=had_begun,
            uncertain=had_begun and job.id in doubted,
            silent=silent,
            alone=len(batch) == 1,
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
    if gone.cause is not Cause.LOST:
        ended = begun  # few, and each is charged in its own way
    elif made and not losses.hand_back(tx, made, gone.name, gone.code, now):
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
        to = expiry(job, now).transition
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
        number=job.starts + 1,
        priority=job.priority,
        transition=one.transition,
        cause=gone.cause,
        begun_at=one.begun_at,
        ended_at=now,
        worker=gone.name,
        code=gone.code,
        error=error_of_death(job, gone.cause, gone.why, gone.evidence)
        or _error(job.task, gone.name, gone.why),
        evidence=_evidence(gone, one.checkpoint),
        mirror_key=job.mirror_key,
        holder=job.worker,
    )


@functools.lru_cache(maxsize=1_000)
def _error(task: str, name: str, why: str) -> Error:
    text = f"worker {name} was lost while it ran the job: {why}"
    return own_error(task, "failbetter.WorkerLost", text)


def _evidence(gone: Gone, checkpoint: losses.Checkpoint | None) -> str:
    known = _known(gone.why, gone.host, gone.last_heard, checkpoint)
    if not gone.evidence:
        return known
    return msgspec.json.encode({**msgspec.json.decode(known), **gone.evidence}).decode()


@functools.lru_cache(maxsize=1_000)
def _known(
    why: str, host: str | None, last_heard: int | None, checkpoint: losses.Checkpoint | None
) -> str:
    """Of many jobs that one worker held, mostly the same."""
    found: dict[str, Any] = {"why": why}
    if host is not None:
        found["host"] = host
    if last_heard is not None:
        found["last_heard"] = moment(last_heard).isoformat(timespec="milliseconds")
    if checkpoint is not None:
        found["checkpoint"] = checkpoint
    return msgspec.json.encode(found).decode()


def expiry(job: Claimed, now: int) -> Settlement:
    transition = decide(job.facts(), Outcome(Cause.REFUSED), now, random)
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
        holder=job.worker,
    )
