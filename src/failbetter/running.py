"""The job as its own body sees it: `failbetter.current_job()`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from failbetter import ids, resume
from failbetter.doubt import Doubt, Happened
from failbetter.durations import Duration, as_version, seconds
from failbetter.errors import AttemptLost, EffectUncertain, NotInJob
from failbetter.limits import MAX_RESULT
from failbetter.logs import TaskLogger
from failbetter.resume import Items, OnError, Series, to_its_end
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from failbetter.lifecycle.decide import Items as ItemsOutcome
    from failbetter.resume import Answer

T = TypeVar("T")

# Seconds between two reports of a body's own count.
_REPORT_EVERY = 0.5

_logger = logging.getLogger("failbetter.job")
_encode = msgspec.json.Encoder().encode


class Line(Protocol):
    """What a body needs of the ledger; its supervisor does it for the child."""

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Answer:
        """Ask for something and return when it is committed; the kinds are `worker.requests`'."""

    def post(self, kind: str, number: int, fence: int, name: str, value: str | None) -> None:
        """Ask for something and go on: it is written before the attempt's end is."""


class Transact(Protocol):
    """A transaction on the ledger's database at whose end the attempt succeeds."""

    def __call__(
        self,
        result: Callable[[], tuple[str | None, str | None]],
        timeout: float,
        given: Any,
    ) -> AbstractContextManager[Any]:
        """`result`: asked for at the end: as JSON, with a note. `given`: the caller's own."""


def _name_only(error: BaseException) -> tuple[str, str]:
    return type(error).__qualname__, str(error)


class RunningJob:
    """One attempt of a job, from inside its body. Valid until the body ends."""

    def __init__(
        self,
        number: int,
        fence: int,
        task: str,
        queue: str,
        attempt: int,
        line: Line,
        describe: resume.Describe = _name_only,
        transact: Transact | None = None,
        version: int | None = None,
    ) -> None:
        self._number = number
        self._fence = fence
        self._line = line
        self._describe = describe
        self._transact = transact
        self._in_transaction = False
        self.committed = False
        """Whether the body's own transaction has written the job's success."""
        self._lists: dict[str, Series[Any]] = {}
        self._count: resume.Size | None = None
        self._reported = 0.0
        self._cursor: tuple[Any] | None = None
        self._cancelled = threading.Event()
        self._open_effects: set[str] = set()
        self.version = version
        """Of what the job is about, as its task's `version` said: a datetime in microseconds
        since the epoch; None: it has none."""
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

    def newer_than(self, stored: int | datetime | None) -> bool:
        """Whether this job's version is above `stored`, that of what is in its place now.

        None: there is nothing yet. For the write itself say the same in SQL, where nobody comes in
        between: `UPDATE … SET …, version = :v WHERE key = :k AND version < :v`. Raises ValueError
        for a job without a version, TypeError for what is no version.
        """
        if self.version is None:
            raise ValueError(f"job {self.id} has no version; give its task subject= and version=")
        known = as_version(stored)
        return known is None or self.version > known

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
            intent = await to_its_end(self._intend, name)
        except asyncio.CancelledError:
            if name in self._open_effects:  # intended, and certainly not begun
                await to_its_end(self._take_back, name)
            raise
        if intent.status == "done":
            return _restored(intent)  # type: ignore[no-any-return]
        try:
            result = await function()
        except not_done:
            await to_its_end(self._take_back, name)
            raise
        await to_its_end(self._happened, name, result)
        return result

    def doubts(self) -> list[Doubt]:
        """Effects that earlier attempts left in doubt."""
        answer = self._ask("doubts", "", None)
        found = msgspec.json.decode(answer.value or "[]", type=list[_Doubtful])
        return [Doubt(one.name, self.effect_key(one.name), _at(one.intended_at)) for one in found]

    def settle(self, doubt: Doubt, happened: Happened | None) -> None:
        """Note what became of an effect in doubt; None: it has not happened."""
        text: str | None = None
        if happened is not None:
            text, problem = _kept(happened.result)
            if text is None:
                raise TypeError(f"verify's result of {doubt.name!r} cannot be kept: {problem}")
        self._ask("settle", doubt.name, text)

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

    @contextlib.contextmanager
    def transaction(
        self,
        *,
        result: object = None,
        connection: Any = None,
        timeout: Duration = 10,
    ) -> Iterator[Any]:
        """What is written in this block commits together with the job's success: exactly once.

        Yields a SQLAlchemy connection to the ledger's database; or `connection`, the caller's own
        connection or session of SQLAlchemy's to it, whose transaction it then commits. When the
        block ends, the job has succeeded with `result` (a value, or a function that is called at
        the end), whatever its body still does. On an exception in the block, or when this attempt
        is not the job's current one any more (AttemptLost), nothing of it is written.

        `timeout`: how long the block may take; others may wait for what it locks (on SQLite, for
        every write). Inside it, effects and progress cannot be told, and a job is enqueued with
        `using(connection=…)`. Raises RuntimeError for that, and TimeoutError.
        """
        if self._transact is None:
            raise NotInJob(
                "a transaction with its job's success is had only where a worker runs it"
            )
        if self._in_transaction or self.committed:
            raise RuntimeError(
                "job.transaction() is used once in an attempt: with it, the job ends"
            )
        if self.uncertain:
            raise RuntimeError(
                f"effects are in doubt, so the job cannot succeed: {self.open_effects}"
            )

        def kept() -> tuple[str | None, str | None]:
            text, problem = _kept(result() if callable(result) else result)
            if problem is not None:
                return None, f"result missing: {problem}"
            return (None if text == "null" else text), None

        self._in_transaction = True
        try:
            with self._transact(kept, seconds(timeout), connection) as opened:
                yield opened
            self.committed = True
        finally:
            self._in_transaction = False

    # -- lists of items

    def remaining(
        self,
        items: Iterable[T],
        *,
        key: Callable[[T], object] | None = None,
        name: str = "items",
        every: int = 1,
    ) -> Iterator[T]:
        """Go through `items`, those left out that an earlier attempt of this job has finished.

        An item is finished when the loop comes back for the next one: that is on disk before the
        next one begins. An exception, or leaving the loop, leaves its item unfinished.

        `key`: a function from an item to what names it in every attempt (a text, a number, or what
        has a form in JSON); None: the item itself. `name`: of the list, where a body has several.
        `every`: note finished items in groups of up to so many (at most 10,000), which is faster;
        after a death fewer than that many are done again. `items` is read that far ahead, and up
        to 1,000 ahead while finished ones are passed over; it may have any length. Drives
        `Job.progress`. What earlier attempts dealt with and is no longer there is logged.

        Raises AttemptLost when this attempt is not the job's current one any more, TypeError for
        a key that cannot be, ValueError for a second list of the same name.
        """
        return resume.one_by_one(self._open(items, key, name, every))

    def aremaining(
        self,
        items: Iterable[T],
        *,
        key: Callable[[T], object] | None = None,
        name: str = "items",
        every: int = 1,
    ) -> AsyncIterator[T]:
        """`remaining` for async bodies: `async for item in job.aremaining(items): …`."""
        return resume.one_by_one_async(self._open(items, key, name, every))

    def each(
        self,
        items: Iterable[T],
        function: Callable[[T], object],
        *,
        key: Callable[[T], object] | None = None,
        name: str = "items",
        concurrency: int = 1,
        errors: OnError = "raise",
        every: int = 1,
    ) -> Items:
        """Call `function` with each item that no earlier attempt has finished; what became of them.

        `concurrency`: how many at a time, in threads. `errors`: "raise" stops at the first item
        that raises, when those that run have ended, and raises that; "collect" notes it and goes
        on: a body that returns after that has not plainly succeeded. Its job ends as its task's
        `on_partial` says, and `failed(partial)` when no item at all was finished. A later attempt
        runs the failed items again. What a body says of its whole job (`Release`, `Fail`, …)
        always ends it. `key`, `name` and `every` as in `remaining`, and what is raised.
        """
        resume.check_function(function, is_async=False)
        series = self._open(items, key, name, every, concurrency, errors)
        return resume.run_each(series, function, concurrency, errors, self._describe)

    async def aeach(
        self,
        items: Iterable[T],
        function: Callable[[T], Awaitable[object]],
        *,
        key: Callable[[T], object] | None = None,
        name: str = "items",
        concurrency: int = 1,
        errors: OnError = "raise",
        every: int = 1,
    ) -> Items:
        """`each` for async bodies: awaits what `function` returns, `concurrency` at a time."""
        resume.check_function(function, is_async=True)
        series = self._open(items, key, name, every, concurrency, errors)
        return await resume.run_each_async(series, function, concurrency, errors, self._describe)

    def _open(
        self,
        items: Iterable[T],
        key: Callable[[T], object] | None,
        name: str,
        every: int,
        concurrency: int = 1,
        errors: OnError = "raise",
    ) -> Series[T]:
        resume.check_list(name, every, concurrency, errors)
        if name in self._lists:
            raise ValueError(
                f"a list named {name!r} was begun in this attempt already; give the second one a"
                " name= of its own, or its items would count as the first one's"
            )
        series = Series(name, items, key, every, self._ask)
        self._lists[name] = series
        return series

    @property
    def items_outcome(self) -> ItemsOutcome:
        """Whether items of this attempt failed, and whether any at all was ever finished."""
        lists = self._lists.values()
        if not any(one.failed for one in lists):
            return "all"
        return "some" if any(one.any_done for one in lists) else "none"

    @property
    def failed_items(self) -> tuple[int, BaseException | None]:
        """How many items of this attempt failed, and the first error."""
        lists = self._lists.values()
        first = next((one.first_error for one in lists if one.first_error is not None), None)
        return sum(one.failed for one in lists), first

    # -- progress of the body's own

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far the body is: `done` of `total` (None: not known). Shown by `Job.progress`.

        Never goes back: less than was said before, in whichever attempt, is not believed. Kept
        about twice a second and when the body ends; also a sign that it has not stalled.
        """
        if done < 0 or (total is not None and total < 0):
            raise ValueError(f"progress is a number of things from 0, not {done!r} of {total!r}")
        self._count = resume.Size(total, done)
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY:
            self._reported = now
            self._report()

    def _report(self) -> None:
        if self._count is not None:
            self._post("count", "", _encode(self._count).decode())
            self._count = None

    def save_cursor(self, value: object) -> None:
        """Keep where the body is, for a later attempt's `cursor`; on disk when this returns.

        `value`: whatever has a form in JSON. Raises AttemptLost, TypeError.
        """
        text, problem = _kept(value)
        if text is None:
            raise TypeError(f"this cannot be kept as a cursor: {problem}")
        self._ask("save_cursor", "", text)
        self._cursor = (msgspec.json.decode(text),)

    asave_cursor = twin(save_cursor)

    @property
    def cursor(self) -> Any:
        """What was saved last with `save_cursor`, in whichever attempt; None: nothing was."""
        if self._cursor is None:
            answer = self._ask("cursor", "", None)
            self._cursor = (_restored(answer),)
        return self._cursor[0]

    def leave(self) -> None:
        """The body has ended: what it has not told yet is told before its end is."""
        for one in self._lists.values():
            one.leave(self._post)
        self._report()

    def _post(self, kind: str, name: str, value: str | None) -> None:
        self._line.post(kind, self._number, self._fence, name, value)

    def _ask(self, kind: str, name: str, value: str | None) -> Answer:
        if self._in_transaction:
            raise RuntimeError(
                f"inside job.transaction() the ledger cannot be asked for {kind!r}: do that before"
            )
        answer = self._line.ask(kind, self._number, self._fence, name, value)
        if answer.status == "lost":
            raise AttemptLost(
                f"job {self.id} is not this attempt's any more (it was handed back or ended);"
                " whatever this body still does changes nothing in the ledger"
            )
        return answer


class _Doubtful(msgspec.Struct):
    name: str
    intended_at: int


def _at(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1e6, UTC)


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
