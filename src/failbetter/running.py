"""The job as its own body sees it: `failbetter.current_job()`."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import msgspec

from failbetter import ids
from failbetter.errors import AttemptLost, EffectUncertain, NotInJob
from failbetter.limits import MAX_RESULT
from failbetter.logs import TaskLogger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("failbetter.job")
_encode = msgspec.json.Encoder().encode


class Effects(Protocol):
    """What a body needs of the ledger for its effects; its supervisor does it for the child."""

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Answer:
        """`kind`: intend, done or not_done. Returns when it is committed."""


class Answer(Protocol):
    """`status`: go, done, uncertain or lost; `value`: a stored result, as JSON text."""

    @property
    def status(self) -> str: ...
    @property
    def value(self) -> str | None: ...


class RunningJob:
    """One attempt of a job, from inside its body. Valid until the body ends."""

    def __init__(
        self,
        number: int,
        fence: int,
        task: str,
        queue: str,
        attempt: int,
        effects: Effects,
    ) -> None:
        self._number = number
        self._fence = fence
        self._effects = effects
        self._cancelled = threading.Event()
        self._open_effects: set[str] = set()
        self.task = task
        self.queue = queue
        self.attempt = attempt
        """Counts the attempts of this job whose body began, this one included: from 1."""

    @property
    def id(self) -> str:
        """The job's id."""
        return ids.to_text(self._number)

    @property
    def cancelled(self) -> bool:
        """Whether someone asked for this job to be cancelled."""
        return self._cancelled.is_set()

    def ask_to_cancel(self) -> None:
        """Set `cancelled`; the worker's doing."""
        self._cancelled.set()

    @property
    def log(self) -> TaskLogger:
        """A logger that prefixes the task and carries the job's id, attempt and queue."""
        return TaskLogger(_logger, self.log_keys())

    @property
    def open_effects(self) -> list[str]:
        """Effects that were begun in this attempt and did not come to a known end."""
        return sorted(self._open_effects)

    @property
    def uncertain(self) -> bool:
        """Whether there are such effects."""
        return bool(self._open_effects)

    def log_keys(self) -> dict[str, Any]:
        """The `extra` of every record about this attempt."""
        return {
            "job_id": self.id,
            "task": self.task,
            "attempt": self.attempt,
            "queue": self.queue,
        }

    def effect_key(self, name: str) -> str:
        """A key for a provider's idempotency header: the same in every attempt of this job."""
        return f"failbetter-{self.id}-{name}"

    def once(
        self,
        name: str,
        function: Callable[[], T],
        *,
        not_done: tuple[type[BaseException], ...] = (),
    ) -> T:
        """Run an effect at most once per job and return its result, now or from an earlier attempt.

        `name` names the effect within the job. That it is about to happen is on disk before
        `function` is called, that it has happened before `once` returns. The result is kept as
        JSON and must survive that. An exception of the types `not_done` says that it did not
        happen; any other exception, or a death, leaves it uncertain and ends the job
        `failed(uncertain)`.

        Raises AttemptLost when this attempt is not the job's current one any more,
        EffectUncertain when an earlier attempt left the effect in doubt, TypeError for a result
        that cannot be kept.
        """
        intent = self._intend(name)
        if intent.status == "done":
            return _restored(intent)  # type: ignore[no-any-return]
        try:
            result = function()
        except not_done:
            self._take_back(name)
            raise
        self._happened(name, result)
        return result

    async def aonce(
        self,
        name: str,
        function: Callable[[], Awaitable[T]],
        *,
        not_done: tuple[type[BaseException], ...] = (),
    ) -> T:
        """`once` for a function that is awaited."""
        try:
            intent = await _to_its_end(self._intend, name)
        except asyncio.CancelledError:
            if name in self._open_effects:  # intended, and certainly not begun
                await _to_its_end(self._take_back, name)
            raise
        if intent.status == "done":
            return _restored(intent)  # type: ignore[no-any-return]
        try:
            result = await function()
        except not_done:
            await _to_its_end(self._take_back, name)
            raise
        await _to_its_end(self._happened, name, result)
        return result

    def _intend(self, name: str) -> Answer:
        if not 0 < len(name) <= 100:
            raise ValueError("an effect's name is a text of 1 to 100 characters")
        if name in self._open_effects:
            raise ValueError(f"the effect {name!r} is under way in this attempt already")
        answer = self._ask("intend", name, None)
        if answer.status == "uncertain":
            self._open_effects.add(name)
            raise EffectUncertain(
                f"an earlier attempt began the effect {name!r} and did not come to report whether"
                " it happened; the job ends failed(uncertain) for a person to settle"
            )
        if answer.status == "go":
            self._open_effects.add(name)
        return answer

    def _take_back(self, name: str) -> None:
        self._tell_end("not_done", name, None)

    def _happened(self, name: str, result: object) -> None:
        text, problem = _kept(result)
        self._tell_end("done", name, text)
        if problem is not None:
            raise TypeError(
                f"the effect {name!r} happened and is noted, but not its result: {problem}"
            )

    def _tell_end(self, kind: str, name: str, value: str | None) -> None:
        try:
            self._ask(kind, name, value)
        finally:
            # Even if the wait is interrupted: it is on its way, before this attempt's ending.
            self._open_effects.discard(name)

    def _ask(self, kind: str, name: str, value: str | None) -> Answer:
        answer = self._effects.ask(kind, self._number, self._fence, name, value)
        if answer.status == "lost":
            raise AttemptLost(
                f"job {self.id} is not this attempt's any more (it was handed back or ended);"
                " whatever this body still does changes nothing in the ledger"
            )
        return answer


async def _to_its_end(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run in a thread and wait for it, even if cancelled meanwhile: then raise that afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _kept(result: object) -> tuple[str | None, str | None]:
    """An effect's result as JSON text, or why it cannot be kept."""
    try:
        text = _encode(result).decode()
    except (TypeError, ValueError, OverflowError) as error:
        return None, f"it has no form in JSON: {error}"
    if len(text) > MAX_RESULT:
        return None, f"as JSON it has {len(text)} characters, the limit is {MAX_RESULT}"
    return text, None


def _restored(answer: Answer) -> Any:
    return None if answer.value is None else msgspec.json.decode(answer.value)


current: contextvars.ContextVar[RunningJob | None] = contextvars.ContextVar(
    "failbetter_current_job", default=None
)


def current_job() -> RunningJob:
    """The job whose body runs here. Raises NotInJob where none does."""
    found = current.get()
    if found is None:
        raise NotInJob(
            "current_job() works only while a worker runs a job's body, in its own thread or task"
        )
    return found
