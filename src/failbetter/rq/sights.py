"""What RQ has of its jobs, read as it is stored: nothing of a user's is unpickled or imported."""

from __future__ import annotations

import base64
import contextlib
import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rq.job import Job
from rq.results import Result

from failbetter.lifecycle.adopting import Ended, Sight, ended_in_rq, task_of, trouble_of
from failbetter.lifecycle.states import Cause, Reason, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

ENGINE = "rq"
OURS = "failbetter.rq.work."
"""How the functions of RQ jobs begin that only carry ids of our own."""

_STATES = {
    "created": State.PENDING,
    "queued": State.PENDING,
    "scheduled": State.PENDING,
    "deferred": State.PENDING,
    "ready_to_enqueue": State.PENDING,
    "started": State.RUNNING,
    "finished": State.SUCCEEDED,
    "failed": State.FAILED,
    "stopped": State.DISCARDED,
    "canceled": State.DISCARDED,
}
_MARKS = (
    "status",
    "enqueued_at",
    "started_at",
    "ended_at",
    "retries_left",
    "number_of_retries",
)
# What another attempt writes anew.
_NOT_KEPT = frozenset({"result", "exc_info", "last_heartbeat", "worker_name"})
_results: Any = Result
_OF_FAILURES = {"2", "5"}


class Raw(msgspec.Struct):
    """A job's hash, and what RQ kept of its last failure (None: nothing)."""

    name: str
    fields: dict[str, bytes]
    failure: str | None = None

    def text(self, field: str) -> str:
        """A field as text; "" if it is not there."""
        return self.fields.get(field, b"").decode("utf-8", "replace")

    def at(self, field: str) -> int | None:
        """A field that is a time, in microseconds since the epoch."""
        return micros(self.text(field))

    @property
    def status(self) -> str:
        """As RQ calls it."""
        return self.text("status") or "created"

    @property
    def description(self) -> str:
        """How RQ describes the job: with its function and arguments, or as the user has said."""
        return self.text("description")

    @property
    def is_ours(self) -> bool:
        """Whether it only carries a job of our own."""
        return self.description.startswith(OURS)

    @property
    def mark(self) -> str:
        """Another one, once anything has changed."""
        return " ".join(self.text(field) or "-" for field in _MARKS)

    @property
    def run(self) -> str | None:
        """What tells its last execution from others."""
        return self.text("started_at") or self.text("enqueued_at") or None


def micros(text: str) -> int | None:
    """A time as RQ writes it, in microseconds since the epoch."""
    with contextlib.suppress(ValueError):
        return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1e6)
    return None


def read(connection: Redis, names: Sequence[str]) -> list[Raw | None]:
    """The jobs of these ids; None for what is not there."""
    with connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(Job.key_for(name))
            pipeline.xrevrange(_results.get_key(name), "+", "-", count=1)
        answers = pipeline.execute()
    return [_raw(name, answers[2 * at], answers[2 * at + 1]) for at, name in enumerate(names)]


def _raw(name: str, found: dict[bytes, bytes], results: list[Any]) -> Raw | None:
    fields = {key.decode("utf-8", "replace"): value for key, value in found.items()}
    # A heartbeat that came after the job's end leaves a hash of nothing else.
    if "data" not in fields and "created_at" not in fields:
        return None
    return Raw(name, fields, _failure(fields, results))


def _failure(fields: dict[str, bytes], results: list[Any]) -> str | None:
    for _, payload in results:
        if payload.get(b"type", b"").decode() in _OF_FAILURES:
            told = payload.get(b"exc_string")
            return "" if told is None else _unpacked(base64.b64decode(told))
    told = fields.get("exc_info")
    return None if not told else _unpacked(told)


def _unpacked(told: bytes) -> str:
    with contextlib.suppress(zlib.error):
        told = zlib.decompress(told)
    return told.decode("utf-8", "replace")


def message_of(raw: Raw) -> str:
    """What it takes to put the job back, also when Redis has lost it."""
    kept = {
        name: base64.b64encode(value).decode()
        for name, value in raw.fields.items()
        if name not in _NOT_KEPT
    }
    return msgspec.json.encode({"id": raw.name, "hash": kept}).decode()


class Message(msgspec.Struct):
    """What `message_of` keeps."""

    id: str
    hash: dict[str, str]

    def fields(self) -> dict[str, bytes]:
        """The job's hash."""
        return {name: base64.b64decode(value) for name, value in self.hash.items()}


def message(text: str | None) -> Message | None:
    """What was kept of a job, if it was."""
    return None if text is None else msgspec.json.decode(text, type=Message)


def sight(raw: Raw) -> Sight:
    """The job as RQ has it now."""
    state = _STATES.get(raw.status, State.PENDING)
    if state is State.FAILED:
        text = "RQ has kept no error of it" if raw.failure is None else raw.failure
        return _ended(raw, state, ended_in_rq(_task(raw), text))
    if raw.status == "stopped":
        return _ended(raw, state, _stopped(raw), reason=Reason.CANCELLED)
    if state is State.DISCARDED:
        return _made(raw, state, Reason.CANCELLED)
    if state is State.SUCCEEDED:
        return _made(raw, state, None, cause=Cause.RETURNED, run=raw.run)
    return _made(raw, state, None)


def failure(raw: Raw, text: str, run: str | None, evidence: dict[str, Any], worker: str) -> Sight:
    """The job as RQ has it now that an attempt has failed with this text: `run`, on `worker`."""
    state = _STATES.get(raw.status, State.PENDING)
    end = ended_in_rq(_task(raw), text)
    if raw.status == "stopped":
        end = _stopped(raw)
    reason = {State.FAILED: end.reason, State.DISCARDED: Reason.CANCELLED}.get(state)
    found = _ended(raw, state, end, reason=reason)
    return msgspec.structs.replace(
        found,
        run=run or found.run,
        begun_at=(run and micros(run)) or found.begun_at,
        evidence={**end.evidence, **evidence},
        worker=worker,
    )


def lost(raw: Raw, why: str, evidence: dict[str, Any], worker: str, how: str) -> Sight:
    """The job, of which RQ believes that it runs or waits, and which nothing will go on with.

    `how`: in a word, so that it is another sight than what RQ says.
    """
    trouble = trouble_of(_task(raw), why, otherwise="failbetter.Lost")
    found = _ended(raw, State.FAILED, Ended(Cause.LOST, Reason.LOST, trouble, evidence))
    return msgspec.structs.replace(
        found, mark=f"{raw.mark} {how}", worker=worker or found.worker, ended_at=None
    )


def _stopped(raw: Raw) -> Ended:
    text = raw.failure or "stopped by a person"
    trouble = trouble_of(_task(raw), text, otherwise="failbetter.Cancelled")
    return Ended(Cause.CANCELLED, Reason.CANCELLED, trouble)


def _ended(raw: Raw, state: State, end: Ended, *, reason: Reason | None = None) -> Sight:
    made = _made(raw, state, reason or (end.reason if state is State.FAILED else None))
    return msgspec.structs.replace(
        made,
        cause=end.cause,
        run=raw.run,
        trouble=end.trouble,
        evidence=end.evidence,
        message=message_of(raw),
    )


def _made(
    raw: Raw,
    state: State,
    reason: Reason | None,
    *,
    cause: Cause | None = None,
    run: str | None = None,
) -> Sight:
    created = raw.at("created_at") or raw.at("enqueued_at") or 0
    return Sight(
        name=raw.name,
        task=_task(raw),
        queue=raw.text("origin"),
        mark=raw.mark,
        state=state,
        reason=reason,
        cause=cause,
        run=run,
        created_at=created,
        run_at=raw.at("enqueued_at") or created,
        begun_at=raw.at("started_at"),
        ended_at=raw.at("ended_at"),
        worker=raw.text("worker_name"),
        said=raw.description,
    )


def _task(raw: Raw) -> str:
    return task_of(raw.description, raw.text("origin"))
