"""One job in a child, from hand-out to what is told of its end. Read top to bottom."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from failbetter import ledger, logs, running
from failbetter.errors import EffectUncertain, Release, Retry
from failbetter.faultpoints import passing
from failbetter.job import MASK
from failbetter.lifecycle.fingerprint import Failure, fingerprint
from failbetter.lifecycle.states import Cause
from failbetter.limits import MAX_RESULT
from failbetter.records import Missing, references_in
from failbetter.resume import to_its_end
from failbetter.running import RunningJob, current
from failbetter.worker import doubts
from failbetter.worker.verdict import (
    MAX_MESSAGE,
    Described,
    Judged,
    describe,
    judge,
    secret_texts,
)
from failbetter.worker.wire import NULL, Committed, Ended, Partial, Returned

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from failbetter.app import App
    from failbetter.board import Ring
    from failbetter.records import Records, Reference
    from failbetter.task import Task
    from failbetter.worker.code import LoadedCode
    from failbetter.worker.wire import Handout

# Of each failed item so much of its error's message is kept.
MAX_ITEM_MESSAGE = 500
_encode = msgspec.json.Encoder().encode


def ledger_time(handout: Handout) -> int:
    """Now, in the ledger's microseconds since the epoch."""
    return time.monotonic_ns() // 1000 + handout.epoch


class Attempt:
    """A handed-out job and what its execution needs; made for each hand-out."""

    __slots__ = ("args", "begun_at", "handout", "kwargs", "running", "task")

    def __init__(self, handout: Handout) -> None:
        self.handout = handout
        self.begun_at: int | None = None
        self.task: Task[..., Any]
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.running: RunningJob

    def run(self) -> Any:
        """The sync body; before it, its records and what earlier attempts left in doubt."""
        if not self.task.arguments.has_records:
            return self._run(self.args, self.kwargs)
        loading = self._records.loading()
        try:
            return self._run(*loading.load(self.args, self.kwargs))
        finally:
            loading.close()

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        verify = self._verify
        if verify is not None:
            doubts.settle(self.running, verify, args, kwargs)
        return self.task.function(*args, **kwargs)

    async def arun(self) -> Any:
        """`run` for an async body; records are looked up in a thread."""
        if not self.task.arguments.has_records:
            return await self._arun(self.args, self.kwargs)
        loading = self._records.loading()
        try:
            found = await to_its_end(loading.load_elsewhere, self.args, self.kwargs)
            return await self._arun(*found)
        finally:
            await to_its_end(loading.close)

    async def _arun(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        verify = self._verify
        if verify is not None:
            await doubts.asettle(self.running, verify, args, kwargs)
        return await self.task.function(*args, **kwargs)

    @property
    def _records(self) -> Records:
        return self.task.app.records_of_jobs

    @property
    def _verify(self) -> Callable[..., object] | None:
        return self.task.options.verify if self.handout.number > 1 else None

    def secrets(self) -> list[str]:
        """The texts that are to be shown nowhere."""
        redact = self.task.options.policy.redact
        return secret_texts(self._by_name(), redact) if redact else []

    def is_redacted(self, reference: Reference) -> bool:
        """Whether the reference stands in an argument that is to be shown nowhere."""
        given = self._by_name()
        hidden = [given[name] for name in self.task.options.policy.redact if name in given]
        return reference in references_in(hidden, {})

    def _by_name(self) -> dict[str, Any]:
        return self.task.arguments.signature.bind_partial(*self.args, **self.kwargs).arguments

    def describe(self, error: BaseException) -> Described:
        """An error as text, masked."""
        return describe(error, self.task.name, self.secrets())

    def in_short(self, error: BaseException) -> tuple[str, str]:
        """An error's type and message, masked."""
        found = self.describe(error)
        return found.type, found.message[:MAX_ITEM_MESSAGE]


class Line(running.Line, Protocol):
    """To whom an executor tells what happens, and who does what a body asks for."""

    @property
    def busy(self) -> bool:
        """Whether an exception in this thread would strike the telling, and not the body."""

    def tell(self, message: msgspec.Struct) -> None:
        """Tell of an attempt's end."""

    def payload(self, handout: Handout) -> str:
        """Arguments that were too large for the hand-out."""

    def is_outdated(self, handout: Handout) -> bool:
        """Whether a newer job of the same subject has succeeded since this one was claimed."""

    def permit(self, handout: Handout, tries: int) -> int | None:
        """Another permit of the job's rate limit: its term; None: it must wait."""


class Executor:
    """Turns hand-outs into endings. Shared by the ways a child runs bodies (see `bodies`)."""

    def __init__(
        self,
        app: App,
        channel: Line,
        ring: Ring,
        worker: int,
        code: str,
        loaded: LoadedCode | None = None,
    ) -> None:
        """`loaded`: what is compared with the disk when a body has failed; None: nothing is."""
        self._app = app
        self._loaded = loaded
        self._worker = worker
        self._code = code
        self._channel = channel
        self._ring = ring
        self._ring_lock = threading.Lock()
        self._pid = os.getpid()

    @property
    def is_telling(self) -> bool:
        """Whether a message to the supervisor is under way."""
        return self._channel.busy

    def prepare(self, handout: Handout, args: bytes | None) -> Attempt | None:
        """Everything before the body; None when it came to an end already.

        `args` None: they are too large for a hand-out and are asked for.
        """
        passing("before_body")
        attempt = Attempt(handout)
        now = ledger_time(handout)
        task = self._app.tasks.get(handout.task)
        if task is None:
            text = f"no task {handout.task!r} is in the code that this worker runs"
            self._tell_unloadable(attempt, "failbetter.UnknownTask", text)
            return None
        # The last look before the body: time may have passed in the hand-out's queue.
        if handout.expires_at is not None and handout.expires_at <= now:
            self._channel.tell(_ended(attempt, Cause.REFUSED))
            return None
        if handout.version is not None:
            if self._channel.is_outdated(handout):
                self._channel.tell(_ended(attempt, Cause.REFUSED, verdict="discard"))
                return None
            now = ledger_time(handout)
        if handout.begin_by is not None:
            permitted = self._permitted(handout, handout.begin_by)
            if permitted is None:
                self._channel.tell(_ended(attempt, Cause.REFUSED, verdict="wait"))
                return None
            now = permitted
        attempt.task = task
        with self._ring_lock:
            self._ring.begin(handout.id, handout.fence, time.monotonic_ns())
        attempt.begun_at = now
        passing("in_body")
        try:
            raw = self._channel.payload(handout) if args is None else args
            attempt.args, attempt.kwargs = task.arguments.decode(raw)
        except Exception as error:
            # The text may repeat a value that is to be shown nowhere.
            what = "its parameters are redacted" if task.options.policy.redact else str(error)
            text = f"the stored arguments do not fit the task: {what}"[:MAX_MESSAGE]
            self._tell_unloadable(attempt, "failbetter.UndecodablePayload", text)
            return None
        attempt.running = RunningJob(
            handout.id,
            handout.fence,
            task.name,
            handout.queue,
            handout.number,
            self._channel,
            attempt.in_short,
            partial(self._transact, attempt),
            handout.version,
        )
        return attempt

    def _permitted(self, handout: Handout, begin_by: int) -> int | None:
        """When the body begins, within its rate limit; None: it must wait."""
        tries = 0
        while (now := ledger_time(handout)) > begin_by:
            permit = self._channel.permit(handout, tries)
            if permit is None:
                return None
            begin_by = permit
            tries += 1
        return now

    def _transact(
        self,
        attempt: Attempt,
        result: Callable[[], tuple[str | None, str | None]],
        timeout: float,
        given: Any,
    ) -> AbstractContextManager[Any]:
        handout = attempt.handout
        assert attempt.begun_at is not None
        success = ledger.committing.Success(
            handout.id,
            handout.fence,
            self._worker,
            attempt.begun_at,
            self._code,
            attempt.running.items_outcome,
        )
        return ledger.committing.committing(self._app.database, success, result, timeout, given)

    def enter(self, attempt: Attempt) -> None:
        """Make the job known to its body, in the thread or task that runs it."""
        current.set(attempt.running)
        logs.context.set(attempt.running.log_keys())

    def returned(self, attempt: Attempt, value: object) -> None:
        """Tell that the body returned."""
        passing("after_body")
        self._leave(attempt)
        if attempt.running.committed:
            self._tell_committed(attempt)
            return
        if attempt.running.uncertain:
            self._tell_uncertain(attempt)
            return
        result, note = self._storable(attempt, value)
        handout = attempt.handout
        assert attempt.begun_at is not None
        returned = Returned(
            handout.id, handout.fence, attempt.begun_at, ledger_time(handout), result, note
        )
        if attempt.running.items_outcome == "all":
            self._channel.tell(returned)
        else:
            self._tell_partial(attempt, returned)

    def _tell_committed(self, attempt: Attempt) -> None:
        self._channel.tell(Committed(attempt.handout.id, attempt.handout.fence))

    def _tell_partial(self, attempt: Attempt, returned: Returned) -> None:
        failed, first = attempt.running.failed_items
        error = attempt.describe(first or Exception())
        message = f"{failed} items failed; the first: {error.type}: {error.message}"
        self._channel.tell(
            Partial(
                returned,
                attempt.running.items_outcome,
                "failbetter.ItemsFailed",
                message[:MAX_MESSAGE],
                error.traceback,
                error.fingerprint,
            )
        )

    def _storable(self, attempt: Attempt, value: object) -> tuple[msgspec.Raw, str | None]:
        if value is None:
            return NULL, None
        try:
            encoded = _encode(value)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}" if _speaks(error) else "unknown"
            note = f"result missing: a {type(value).__name__} cannot be kept as JSON ({problem})"
        else:
            if len(encoded) <= MAX_RESULT:
                return msgspec.Raw(encoded), None
            note = f"result missing: {len(encoded)} bytes of JSON, the limit is {MAX_RESULT}"
        attempt.running.log.warning("%s; the job has succeeded all the same", note)
        return NULL, note

    def _tell_uncertain(self, attempt: Attempt) -> None:
        names = ", ".join(attempt.running.open_effects)
        message = (
            f"the body returned, but nobody knows whether its effect happened: {names}"
            " (it raised inside `once`, and the body went on)"
        )
        kind = "failbetter.EffectUncertain"
        self._channel.tell(
            _ended(
                attempt,
                Cause.RETURNED,
                uncertain=True,
                error_type=kind,
                error_message=message,
                fingerprint=fingerprint(Failure(task=attempt.task.name, error_type=kind)),
            )
        )

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """Tell what the body's exception means."""
        self._leave(attempt)
        if attempt.running.committed:
            attempt.running.log.error(
                "the body raised after its own transaction had committed the job's success, which"
                " stands",
                exc_info=error,
            )
            self._tell_committed(attempt)
            return
        if isinstance(error, Missing):
            self._tell_missing(attempt, error)
            return
        task = attempt.task
        in_judging: Exception | None = None
        try:
            judged = judge(error, task.options, attempt.handout.charged)
        except Exception as problem:  # the task's own backoff or Release raised
            judged, in_judging = Judged(Cause.RAISED), problem
        described = attempt.describe(_what_went_wrong(error))
        message = described.message
        if in_judging is not None:
            other = attempt.describe(in_judging)
            message = f"{message} (and judging it raised {other.type}: {other.message})"
        uncertain = attempt.running.uncertain or isinstance(error, EffectUncertain)
        # What a body says on purpose is not the fault of its code.
        is_failure = judged.cause is Cause.RAISED and not isinstance(error, Retry)
        self._channel.tell(
            _ended(
                attempt,
                judged.cause,
                verdict=judged.verdict,
                delay=judged.delay,
                at_least=judged.at_least,
                uncertain=uncertain,
                outage=judged.outage,
                error_type=described.type,
                error_message=message,
                traceback=described.traceback,
                fingerprint=described.fingerprint,
                bases=described.bases,
                newer=self._newer_code() if is_failure else None,
            )
        )

    def _newer_code(self) -> str | None:
        return None if self._loaded is None else self._loaded.newer()

    def _tell_missing(self, attempt: Attempt, error: Missing) -> None:
        options = attempt.task.options
        message = str(error)
        if options.policy.redact and attempt.is_redacted(error.reference):
            message = f"there is no {error.reference.shown(MASK)}"
        self._channel.tell(
            _ended(
                attempt,
                Cause.REFUSED,
                verdict=options.on_missing,
                missing=True,
                error_type="failbetter.MissingRecord",
                error_message=message[:MAX_MESSAGE],
            )
        )

    def _leave(self, attempt: Attempt) -> None:
        # A body that forked and let its copy return: the copy is no child of the supervisor's.
        if os.getpid() != self._pid:
            os._exit(0)
        attempt.running.leave()

    def _tell_unloadable(self, attempt: Attempt, kind: str, message: str) -> None:
        self._channel.tell(
            _ended(
                attempt,
                Cause.UNLOADABLE,
                verdict="fail",
                error_type=kind,
                error_message=message,
                newer=self._newer_code(),
            )
        )


def _what_went_wrong(error: BaseException) -> BaseException:
    """A body that says Release or Retry because of an error: the error is the evidence."""
    if isinstance(error, (Release, Retry)):
        return error.__cause__ or error.__context__ or error
    return error


def _speaks(error: BaseException) -> bool:
    try:
        str(error)
    except Exception:
        return False
    return True


def _ended(
    attempt: Attempt,
    cause: Cause,
    *,
    verdict: str = "retry",
    delay: float | None = None,
    at_least: bool = False,
    uncertain: bool = False,
    outage: bool = False,
    error_type: str | None = None,
    error_message: str | None = None,
    traceback: str | None = None,
    fingerprint: str | None = None,
    bases: tuple[str, ...] = (),
    missing: bool = False,
    newer: str | None = None,
) -> Ended:
    handout = attempt.handout
    return Ended(
        handout.id,
        handout.fence,
        attempt.begun_at,
        ledger_time(handout),
        cause.value,
        verdict,
        delay,
        at_least,
        uncertain,
        error_type,
        error_message,
        traceback,
        fingerprint,
        outage,
        bases,
        missing,
        newer,
    )
