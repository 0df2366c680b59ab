"""Lists that a body works through, so that a later attempt goes on where this one ended.

`Series` is one such list in one attempt. It never waits for items to be finished: it tells of
those that are with the same request that asks about the next, and that request is on disk before
the next item begins.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar

import msgspec

from failbetter.errors import AttemptLost, EffectUncertain
from failbetter.limits import bounded_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

OnError = Literal["raise", "collect"]

_logger = logging.getLogger("failbetter.job")
_encode = msgspec.json.Encoder().encode

# While items turn out to be finished already, so many are asked about at once.
_MOST_ASKED = 1_000
MOST_GROUPED = 10_000


class Answer(Protocol):
    """`status`: done, lost and the like; `value`: a JSON text."""

    @property
    def status(self) -> str: ...
    @property
    def value(self) -> str | None: ...


class Ask(Protocol):
    """A request to the ledger, under the attempt's fence. Raises AttemptLost."""

    def __call__(self, kind: str, name: str, value: str | None) -> Answer: ...


class Size(msgspec.Struct):
    """How much there is to do, and how much of it is done."""

    total: int | None
    done: int = 0


class Opened(msgspec.Struct, array_like=True):
    """How much of a list earlier attempts have dealt with."""

    done: int
    failed: int


class Advance(msgspec.Struct):
    """What became of items, the failed ones with an error's type and message; and which come."""

    finished: list[str] = []
    failed: list[tuple[str, str, str]] = []
    ask: list[str] = []


class Gone(msgspec.Struct):
    """Items that are no longer in the list; the keys of some."""

    count: int
    keys: list[str]


class Items(msgspec.Struct, frozen=True):
    """What became of a list's items.

    `done`: finished in this attempt; `skipped`: finished by earlier ones; `failed`: in this one;
    `vanished`: dealt with by earlier ones and no longer in the list. `first_error`: the first
    failure's exception, if there was one.
    """

    done: int
    skipped: int
    failed: int
    vanished: int
    first_error: BaseException | None = None


class Unsent(Protocol):
    """Tells the ledger without waiting for its answer."""

    def __call__(self, kind: str, name: str, value: str | None) -> None: ...


class Describe(Protocol):
    """An error's type and message as they may be kept."""

    def __call__(self, error: BaseException) -> tuple[str, str]: ...


class Series(Generic[T]):
    """One list, worked through in one attempt. Use from one thread at a time."""

    def __init__(
        self,
        name: str,
        items: Iterable[T],
        key: Callable[[T], object] | None,
        every: int,
        ask: Ask,
    ) -> None:
        self.name = name
        self._items = iter(items)
        self._total = len(items) if isinstance(items, Sized) else None
        self._key = key
        self._every = every
        self._ask = ask
        self._opened: Opened | None = None
        self._told = Advance()
        self._ahead: list[tuple[T, str]] = []
        self._chunk = every
        self._out: set[str] = set()
        self.done = 0
        self.skipped = 0
        self.failed = 0
        self.first_error: BaseException | None = None

    @property
    def any_done(self) -> bool:
        """Whether any item of the list is finished, in whichever attempt."""
        return self.done > 0 or (self._opened is not None and self._opened.done > 0)

    def next(self) -> tuple[T, str] | None:
        """The next item that is not finished, with its key; None at the end.

        What was told to be finished is on disk when this returns: all of it, or, with `every`,
        all but fewer than so many.
        """
        if self._opened is None:
            answer = self._ask("start", self.name, _text(Size(self._total)))
            self._opened = msgspec.json.decode(answer.value or "", type=Opened)
        while not self._ahead:
            chunk = self._pull()
            if not chunk:
                return None
            self._told.ask = list(chunk)
            finished = set(msgspec.json.decode(self._send() or "[]", type=list[str]))
            self._ahead = [(item, key) for key, item in chunk.items() if key not in finished]
            self._ahead.reverse()
            self.skipped += len(finished)
            whole = len(finished) == len(chunk)
            self._chunk = min(2 * self._chunk, _MOST_ASKED) if whole else self._every
        if len(self._told.finished) + len(self._told.failed) >= self._every:
            self._send()
        found = self._ahead.pop()
        self._out.add(found[1])
        return found

    def _pull(self) -> dict[str, T]:
        chunk: dict[str, T] = {}
        while len(chunk) < max(self._chunk, self._every):
            try:
                item = next(self._items)
            except StopIteration:
                break
            key = item_key(item if self._key is None else self._key(item))
            # Of two items with one key, the second is the first: it is finished with it.
            if key not in self._out:
                chunk.setdefault(key, item)
        return chunk

    def finished(self, key: str) -> None:
        """An item has come to a good end."""
        self._out.discard(key)
        self._told.finished.append(key)
        self.done += 1

    def spoilt(self, key: str, error: BaseException, describe: Describe) -> None:
        """An item has failed, and the others go on."""
        self._out.discard(key)
        kind, message = describe(error)
        self._told.failed.append((key, kind, message))
        self.failed += 1
        self.first_error = self.first_error or error

    def _send(self) -> str | None:
        told, self._told = self._told, Advance()
        return self._ask("advance", self.name, _text(told)).value

    def end(self) -> Items:
        """The list is at its end: say what became of it."""
        if self._told.finished or self._told.failed:
            self._send()
        vanished = 0
        if self._opened is not None and (self._opened.done or self._opened.failed):
            answer = self._ask("close", self.name, None)
            gone = msgspec.json.decode(answer.value or "", type=Gone)
            vanished = gone.count
            if vanished:
                more = ", …" if vanished > len(gone.keys) else ""
                _logger.warning(
                    "%d items that earlier attempts dealt with are no longer in %r: %s%s",
                    vanished,
                    self.name,
                    ", ".join(gone.keys),
                    more,
                )
        return Items(self.done, self.skipped, self.failed, vanished, self.first_error)

    def leave(self, tell: Unsent) -> None:
        """The body has ended: tell what is not told yet, before its end is."""
        if self._told.finished or self._told.failed:
            told, self._told = self._told, Advance()
            tell("advance", self.name, _text(told))


def one_by_one(series: Series[T]) -> Iterator[T]:
    """The items that are not finished; each is when the next is asked for."""
    while (found := series.next()) is not None:
        yield found[0]
        series.finished(found[1])
    series.end()


async def one_by_one_async(series: Series[T]) -> AsyncIterator[T]:
    """`one_by_one` for async bodies: what waits for the ledger waits in a thread."""
    while (found := await to_its_end(series.next)) is not None:
        yield found[0]
        series.finished(found[1])
    await to_its_end(series.end)


def run_each(
    series: Series[T],
    function: Callable[[T], object],
    concurrency: int,
    errors: OnError,
    describe: Describe,
) -> Items:
    """Call `function` with each item that is not finished, several at a time in threads."""
    if concurrency == 1:
        while (found := series.next()) is not None:
            item, key = found
            try:
                function(item)
            except Exception as error:
                if not _may_go_on(error, errors):
                    raise
                series.spoilt(key, error, describe)
            else:
                series.finished(key)
        return series.end()
    running: dict[concurrent.futures.Future[object], str] = {}
    fatal: BaseException | None = None
    # Leaving waits for the threads: an attempt does not end while some of its items still run.
    with concurrent.futures.ThreadPoolExecutor(concurrency, "failbetter-item") as pool:
        while True:
            while fatal is None and len(running) < concurrency:
                found = series.next()
                if found is None:
                    break
                context = contextvars.copy_context()
                running[pool.submit(context.run, function, found[0])] = found[1]
            if not running:
                break
            ended, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in ended:
                fatal = _take(series, running.pop(one), one, errors, describe) or fatal
    if fatal is not None:
        raise fatal
    return series.end()


async def run_each_async(
    series: Series[T],
    function: Callable[[T], Awaitable[object]],
    concurrency: int,
    errors: OnError,
    describe: Describe,
) -> Items:
    """`run_each` for async bodies: several at a time as tasks."""
    running: dict[asyncio.Future[object], str] = {}
    fatal: BaseException | None = None
    try:
        while True:
            while fatal is None and len(running) < concurrency:
                found = await to_its_end(series.next)
                if found is None:
                    break
                running[asyncio.ensure_future(_called(function, found[0]))] = found[1]
            if not running:
                break
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                fatal = _take(series, running.pop(one), one, errors, describe) or fatal
    finally:
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)
    if fatal is not None:
        raise fatal
    return await to_its_end(series.end)


async def _called(function: Callable[[T], Awaitable[object]], item: T) -> object:
    return await function(item)


def _take(
    series: Series[Any],
    key: str,
    ended: concurrent.futures.Future[object] | asyncio.Future[object],
    errors: OnError,
    describe: Describe,
) -> BaseException | None:
    """Note what became of an item; the exception that ends the whole list, if it is one."""
    if ended.cancelled():
        return asyncio.CancelledError()
    error = ended.exception()
    if error is None:
        series.finished(key)
        return None
    if not _may_go_on(error, errors):
        return error
    series.spoilt(key, error, describe)
    return None


def _may_go_on(error: BaseException, errors: OnError) -> bool:
    """Whether an item's failure is its own: not what a body says of its whole job."""
    if errors == "raise" or not isinstance(error, Exception):
        return False
    return not isinstance(error, (AttemptLost, EffectUncertain))


def item_key(value: object) -> str:
    """An item's key as the ledger keeps it. Raises TypeError for what cannot be one."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = _encode(value).decode()
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"a {type(value).__name__} cannot be an item's key ({error}); give"
                " key=, a function from the item to a text or a number"
            ) from None
    # What some database cannot keep must not come between the ledger and all others' news.
    plain = text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    return bounded_key(plain)


def check_list(name: str, every: int, concurrency: int, errors: str) -> None:
    """Raises ValueError for what a list cannot be worked through with."""
    if not 0 < len(name) <= 100:
        raise ValueError(f"a list's name is a text of 1 to 100 characters, not {name!r}")
    if not 1 <= every <= MOST_GROUPED:
        raise ValueError(f"every is a number of items from 1 to {MOST_GROUPED:,}, not {every!r}")
    if not 1 <= concurrency <= 1_000:
        raise ValueError(f"concurrency is 1 to 1,000 items at a time, not {concurrency!r}")
    if errors not in ("raise", "collect"):
        raise ValueError(f'errors is "raise" or "collect", not {errors!r}')


def check_function(function: object, *, is_async: bool) -> None:
    """Raises TypeError for a function that `each` or `aeach` would call and never run."""
    if not callable(function):
        raise TypeError(f"what is to be done with each item is a function, not {function!r}")
    if not is_async and inspect.iscoroutinefunction(function):
        raise TypeError("each calls a plain function; for an async one: `await job.aeach(…)`")


async def to_its_end(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run in a thread and wait for it, even if cancelled meanwhile: then raise that afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _text(message: msgspec.Struct) -> str:
    return _encode(message).decode()
