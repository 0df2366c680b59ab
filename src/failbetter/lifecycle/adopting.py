"""What an engine says of a job of its own, in the ledger's words. Pure.

The engine stays the truth: whatever it says is so, and the ledger's row follows. What is decided
here is only how that is called, and whether an attempt has ended that is not recorded yet.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from failbetter.lifecycle import tracebacks
from failbetter.lifecycle.failure import Failure
from failbetter.lifecycle.states import ENDS, Cause, Reason, State

MAX_TRACEBACK = 40_000
MAX_MESSAGE = 4_000

_CALL = re.compile(r"([^\W\d][\w]*(?:\.[^\W\d][\w]*)*)\(")
_SIGNAL = re.compile(r"waitpid returned (\d+)(?: \(signal (\d+)\))?")


_LOST_BY = re.compile(r"signal (\d+)")


class Trouble(msgspec.Struct, frozen=True):
    """Why an attempt ended: the failure as its fingerprint is made of it, and its traceback."""

    failure: Failure
    traceback: str | None = None


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """A job as an engine has it. Times in microseconds since the epoch.

    `name`: what the engine calls it. `mark`: another one, once anything has changed there.
    `created_at` None: the engine does not say.
    `cause` of the last attempt's end, None while there is none; then `run` tells that attempt from
    others, whoever tells of it. `said`: how the engine describes the job to people. `message`:
    what it takes to put the job back.
    """

    name: str
    task: str
    queue: str
    mark: str
    state: State
    reason: Reason | None = None
    cause: Cause | None = None
    run: str | None = None
    created_at: int | None
    run_at: int
    begun_at: int | None = None
    ended_at: int | None = None
    worker: str = ""
    said: str = ""
    trouble: Trouble | None = None
    evidence: dict[str, Any] = {}
    message: str | None = None


class Known(msgspec.Struct, frozen=True):
    """What the ledger has of the job: its row's state, which attempt was recorded last (`run`),
    and whether a person has retried it and the engine does not have it yet (`to_send`)."""

    state: State
    created_at: int
    mark: str | None = None
    run: str | None = None
    to_send: bool = False


class Step(msgspec.Struct, frozen=True):
    """What is written. `anew`: as another job, for the known one has come to its end before.

    `records`: an attempt has ended that is not recorded yet. `moves`: the row is another than it
    was; else only the mark is kept.
    """

    anew: bool = False
    records: bool = False
    moves: bool = True


def step(known: Known | None, sight: Sight) -> Step | None:
    """How the ledger follows what was seen; None: it has seen that already, or nothing is to tell.

    A job that has never been in trouble has no row.
    """
    in_trouble = sight.state is State.FAILED or sight.cause not in (None, Cause.RETURNED)
    if known is None:
        return Step(anew=True, records=_ended(sight)) if in_trouble else None
    if known.mark == sight.mark:
        return None
    is_another = sight.created_at is not None and known.created_at != sight.created_at
    if is_another or known.state in (State.SUCCEEDED, State.DISCARDED):
        # Its id was given again, or it was run again after its end.
        if sight.state in ENDS and sight.run is not None and sight.run == known.run:
            return Step(moves=False)
        return Step(anew=True, records=_ended(sight)) if in_trouble else Step(moves=False)
    records = _ended(sight) and sight.run != known.run
    if known.to_send and not records and sight.state in ENDS:
        return Step(moves=False)
    return Step(records=records, moves=records or sight.state != known.state)


def _ended(sight: Sight) -> bool:
    return sight.cause is not None


def task_of(description: str, queue: str) -> str:
    """The task by what the engine says of the job: `shop.mail.send('ann')` is of `shop.mail.send`.

    What a user has described in other words goes by its queue.
    """
    found = _CALL.match(description)
    return found[1][:150] if found else f"job in {queue}"[:150]


def trouble_of(task: str, text: str, *, otherwise: str = "Error") -> Trouble:
    """What an engine's text says of why an attempt ended: a traceback, or else a sentence.

    `otherwise`: what a sentence is called, where an error's type would stand.
    """
    failure = tracebacks.read(task, text)
    if failure is None:
        return Trouble(Failure(task=task, error_type=otherwise, message=text.strip()[:MAX_MESSAGE]))
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
    message = failure.message[:MAX_MESSAGE]
    return Trouble(msgspec.structs.replace(failure, message=message), text)


GRACE = 20.0
"""Seconds by which a heartbeat may be late before its worker is believed to be gone."""


def lost(
    *, silent: float, interval: float, over: bool, process_gone: bool | None
) -> tuple[str, bool] | None:
    """Why an execution is believed to have lost its worker, and whether that is sure; None: it has
    not, as far as is known.

    `silent`: seconds for which no heartbeat has come, by the clock of whoever watches; they come
    every `interval`. `over`: the engine itself counts it as abandoned. `process_gone`: whether
    the process is seen to be gone; None: it cannot be seen from here.
    """
    if process_gone:
        return "its worker's process is gone", True
    if over:
        return "the engine counts it as abandoned: its heartbeats have ended", False
    if process_gone is None and silent > interval + GRACE:
        return f"nothing was heard of its worker for {silent:.0f} s", False
    return None


class Ended(msgspec.Struct, frozen=True):
    """How an attempt ended in RQ."""

    cause: Cause
    reason: Reason
    trouble: Trouble
    evidence: dict[str, Any] = {}


def ended_in_rq(task: str, text: str) -> Ended:
    """How an attempt ended, by what RQ kept of it (`exc_string`)."""
    if text.startswith("Work-horse terminated unexpectedly"):
        return Ended(
            Cause.CRASHED,
            Reason.CRASHED,
            trouble_of(task, text, otherwise="failbetter.Crashed"),
            _exit(text),
        )
    if "AbandonedJobError" in text[:200] or text.startswith("Job was stuck in intermediate queue"):
        return Ended(Cause.LOST, Reason.LOST, trouble_of(task, text, otherwise="failbetter.Lost"))
    if not text.strip():
        text = "it asked for more retries than it may have (it returned rq.Retry)"
        return Ended(Cause.RAISED, Reason.ERROR, trouble_of(task, text, otherwise="rq.Retry"))
    trouble = trouble_of(task, text)
    kind = trouble.failure.error_type.rpartition(".")[2]
    if kind in ("JobTimeoutException", "HorseMonitorTimeoutException"):
        return Ended(Cause.TIMED_OUT, Reason.TIMEOUT, trouble)
    if _is_unloadable(trouble.failure):
        return Ended(Cause.UNLOADABLE, Reason.UNLOADABLE, trouble)
    return Ended(Cause.RAISED, Reason.ERROR, trouble)


def ended_in_celery(task: str, kind: str, text: str) -> Ended:
    """How an attempt ended, by the type of what Celery's worker was told and its traceback."""
    trouble = trouble_of(task, text, otherwise=kind)
    name = kind.rpartition(".")[2]
    if name == "WorkerLostError":
        found = _LOST_BY.search(text)
        evidence = {"signal": int(found[1])} if found else {}
        return Ended(Cause.CRASHED, Reason.CRASHED, trouble, evidence)
    if name in ("TimeLimitExceeded", "SoftTimeLimitExceeded"):
        return Ended(Cause.TIMED_OUT, Reason.TIMEOUT, trouble)
    if name == "Terminated":
        return Ended(Cause.CANCELLED, Reason.CANCELLED, trouble)
    if name == "Retry" and trouble.failure.causes:
        # What it is tried again for.
        *earlier, last = trouble.failure.causes
        failure = msgspec.structs.replace(last, causes=earlier)
        return Ended(Cause.RAISED, Reason.ERROR, Trouble(failure, trouble.traceback))
    return Ended(Cause.RAISED, Reason.ERROR, trouble)


def _exit(text: str) -> dict[str, Any]:
    """What the status that `waitpid` returned tells: a signal, or else an exit code."""
    found = _SIGNAL.search(text)
    if found is None:
        return {}
    status = int(found[1])
    number = int(found[2]) if found[2] else status & 0x7F
    return {"signal": number} if number else {"exit_code": status >> 8}


def _is_unloadable(failure: Failure) -> bool:
    """Whether the function could not even be found or its arguments not be read: no body begun."""
    if failure.error_type.rpartition(".")[2] == "DeserializationError":
        return True
    functions = [frame.function for frame in failure.frames]
    return "import_attribute" in functions and "_execute" not in functions
