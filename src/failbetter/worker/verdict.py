"""What an exception from a body means: judged in the child, where the user's types are."""

from __future__ import annotations

import linecache
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import msgspec

from failbetter.durations import seconds
from failbetter.errors import (
    AttemptLost,
    Cancelled,
    Discard,
    EffectUncertain,
    Fail,
    Interrupted,
    Release,
    Retry,
    Stalled,
    TimedOut,
)
from failbetter.job import MASK
from failbetter.lifecycle.decide import Verdict
from failbetter.lifecycle.fingerprint import Failure, Frame, fingerprint
from failbetter.lifecycle.retry_after import retry_after
from failbetter.lifecycle.states import Cause
from failbetter.limits import KEY_LENGTH
from failbetter.records import Reference

if TYPE_CHECKING:
    from failbetter.task import Options

MAX_MESSAGE = 4_000
MAX_TRACEBACK = 40_000
MAX_CAUSES = 8
MAX_FRAMES = 120
DEFAULT_RELEASE = 60.0


class Judged(msgspec.Struct, frozen=True):
    """An exception in the ledger's words."""

    cause: Cause
    verdict: Verdict = "retry"
    delay: float | None = None
    at_least: bool = False
    outage: bool = False


def judge(error: BaseException, options: Options, attempt: int) -> Judged:
    """What becomes of an attempt whose body raised `error`; `attempt` counts the charged ones.

    Raises whatever the task's own backoff callable raises.
    """
    now = time.time()
    match error:
        case Release():
            return Judged(Cause.RELEASED, delay=_release_delay(error, now))
        case Fail():
            return Judged(Cause.FAILED_BY_TASK)
        case Discard():
            return Judged(Cause.DISCARDED_BY_TASK)
        case Retry():
            delay = None if error.after is None else seconds(error.after)
            return Judged(Cause.RAISED, delay=_own_delay(options, attempt, delay))
        case Stalled():
            return Judged(Cause.STALLED, delay=_own_delay(options, attempt, None))
        case TimedOut():
            return Judged(Cause.TIMED_OUT, delay=_own_delay(options, attempt, None))
        case Interrupted():
            return Judged(Cause.INTERRUPTED)
        case Cancelled():
            return Judged(Cause.CANCELLED)
        case AttemptLost() | EffectUncertain():
            return Judged(Cause.RAISED, "fail")
    verdict = _verdict(error, options)
    outage = isinstance(error, options.outage)
    asked = retry_after(error, now) if verdict == "retry" else None
    if asked is not None:
        return Judged(Cause.RAISED, verdict, asked, at_least=True, outage=outage)
    own = _own_delay(options, attempt, None) if verdict == "retry" else None
    return Judged(Cause.RAISED, verdict, own, outage=outage)


def _own_delay(options: Options, attempt: int, said: float | None) -> float | None:
    if said is not None or options.delays is None:
        return said
    return seconds(options.delays(attempt))


def _release_delay(error: Release, now: float) -> float:
    after: Any = error.after
    if isinstance(after, BaseException):
        asked = retry_after(after, now)
        return DEFAULT_RELEASE if asked is None else asked
    if after is not None:
        return seconds(after)
    source = error.__cause__ or error.__context__
    asked = None if source is None else retry_after(source, now)
    return DEFAULT_RELEASE if asked is None else asked


def _verdict(error: BaseException, options: Options) -> Verdict:
    """The option that names the most specific type wins; an unnamed exception is final."""
    kinds: list[tuple[Verdict, tuple[type[BaseException], ...]]] = [
        ("discard", options.discard_on),
        ("fail", options.fail_on),
        ("retry", options.retry_on),
    ]
    for kind in type(error).__mro__:
        for verdict, types in kinds:
            if kind in types:
                return verdict
    return "fail"


class Described(msgspec.Struct, frozen=True):
    """An exception as text, bounded and masked."""

    type: str
    message: str
    traceback: str
    fingerprint: str
    bases: tuple[str, ...] = ()
    """What its type derives from, but for `object`."""


def describe(error: BaseException, task: str, secrets: list[str]) -> Described:
    """The exception's type, message and traceback as text. Never raises, whatever `error` does."""
    kind = type_name(type(error))[:KEY_LENGTH]
    message = _mask(_message(error), secrets)[:MAX_MESSAGE]
    try:
        # Our own frames, from the call of the body outwards, tell the user nothing.
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        text = "".join(lines)
    except Exception as problem:  # the exception's own __str__ or source lines may misbehave
        text = f"{kind}: (the traceback cannot be shown: {type(problem).__name__})"
    text = _mask(text, secrets)
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return Described(
        kind, message, text, fingerprint(as_failure(error, task, secrets)), bases(type(error))
    )


def as_failure(error: BaseException, task: str, secrets: list[str]) -> Failure:
    """The exception with its causes as data: what its fingerprint is made of."""
    causes = [_one(cause, task, secrets) for cause in _causes(error)]
    return msgspec.structs.replace(_one(error, task, secrets), causes=causes)


def _one(error: BaseException, task: str, secrets: list[str]) -> Failure:
    return Failure(
        task=task,
        error_type=type_name(type(error))[:KEY_LENGTH],
        message=_mask(_message(error), secrets)[:MAX_MESSAGE],
        frames=_frames(error),
    )


def _causes(error: BaseException) -> list[BaseException]:
    """The exceptions that `error` came of, root cause first; of a group, its first member."""
    seen = {id(error)}
    found: list[BaseException] = []
    cause = _cause(error)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found.append(cause)
        cause = _cause(cause)
    return found[: -MAX_CAUSES - 1 : -1]


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def bases(kind: type) -> tuple[str, ...]:
    """What the type derives from, but for `object`, as tracebacks would print it."""
    return tuple(type_name(each)[:KEY_LENGTH] for each in kind.__mro__[1:-1])


def type_name(kind: type) -> str:
    """The type as a traceback prints it."""
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    if kind.__module__ == "failbetter.errors":
        return f"failbetter.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error.message if isinstance(error, (Fail, Discard)) else error)
    except BaseException as problem:  # a hostile __str__ must not end the child
        return f"(its message cannot be shown: str() raised {type(problem).__name__})"


def _users_part(trace: Any) -> Any:
    while trace is not None and "/failbetter/worker/" in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return trace


def _frames(error: BaseException) -> list[Frame]:
    """The innermost frames, from the call of the body on, each with its source line."""
    frames: deque[tuple[Any, int]] = deque(maxlen=MAX_FRAMES)
    trace = _users_part(error.__traceback__)
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return [
        Frame(
            frame.f_code.co_filename,
            frame.f_code.co_name,
            line,
            _source(frame, line),
            frame.f_globals.get("__name__"),
        )
        for frame, line in frames
    ]


def _source(frame: Any, line: int) -> str:
    try:
        return linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
    except Exception:  # the module's own loader may misbehave
        return ""


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    # What no database can keep must not keep the whole ending from being written.
    return text.encode("utf-8", "replace").decode().replace("\0", "\\0")


def secret_texts(args: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The texts to mask: the values of redacted arguments and what they contain, longest first."""
    found: set[str] = set()
    pending = [args[name] for name in names if name in args]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += value
        elif isinstance(value, Reference):
            pending += value.key
        elif value is not None and not isinstance(value, bool):
            try:
                text = str(value)
                # As it stands in messages: plain, in a repr, in a URL.
                found |= {text, repr(text)[1:-1], quote(text, safe=""), quote_plus(text)}
                plain = msgspec.to_builtins(value)
                if plain is not value:
                    pending.append(plain)  # what a struct, a dataclass or an enum holds
            except Exception:  # then no message can contain it either
                continue
    # Masking one or two characters would make the text unreadable and hide nothing.
    return sorted((text for text in found if len(text) >= 3), key=len, reverse=True)
