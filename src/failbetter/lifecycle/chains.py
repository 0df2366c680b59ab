"""Which exceptions of a chain are causes, and which only repeat one or wrap it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from failbetter.lifecycle.error_types import canonical
from failbetter.lifecycle.failure import Failure, Frame

_MOST = 8
# Shorter messages (`'1'`) and names (`Error`) stand in others by chance.
_TELLING = 5
# What another process sent as text: no exception of its own.
_REMOTE = ("_RemoteTraceback", "RemoteTraceback", "_ExceptionWithTraceback")
_TOLD = re.compile(
    r'^\s*File "([^"\n]{1,400})", line \d+, in (\S+)(?:\n\s+(\S[^\n]*))?', re.MULTILINE
)
_GROUPS = ("ExceptionGroup", "BaseExceptionGroup")
# What is caught because it was to be expected: an error while such a one is handled is a new one.
_EXPECTED = frozenset({"KeyError", "IndexError", "AttributeError", "StopIteration", "ImportError"})


def flat(failure: Failure) -> list[Failure]:
    """The chain, root cause first and the failure last, bounded. Never empty.

    What stands for another exception of the chain is put into it: a traceback sent as text gives
    its frames to the exception it came with, a cancelled wait to its timeout.
    """
    chain: list[Failure] = []
    told: list[Frame] = []
    for one in [*failure.causes[:_MOST], failure]:
        name = canonical(one.error_type).rpartition(".")[2]
        if name in _REMOTE and one is not failure:
            told = remote_frames(one.message)
            continue
        if chain and "timeout" in name.lower() and _is_called_off(chain[-1]):
            # Where it struck is by chance, as far as lines go.
            told = [_without_code(frame) for frame in chain.pop().frames]
        chain.append(_with_frames(one, told) if told else one)
        told = []
    return chain


def _is_called_off(one: Failure) -> bool:
    return canonical(one.error_type).rpartition(".")[2] == "CancelledError"


def _without_code(frame: Frame) -> Frame:
    return Frame(frame.file, frame.function, 0, "", frame.module)


def _with_frames(one: Failure, deeper: Sequence[Frame]) -> Failure:
    return Failure(
        task=one.task,
        error_type=one.error_type,
        message=one.message,
        frames=[*one.frames, *deeper],
    )


def remote_frames(text: str) -> list[Frame]:
    """The frames of a traceback that came as text."""
    return [
        Frame(file, function, 0, code.strip())
        for file, function, code in _TOLD.findall(text[:20_000])
    ]


def causes(chain: Sequence[Failure]) -> list[Failure]:
    """What of the chain counts: the root, and each outer one that says something new."""
    counted = [chain[0]]
    for inner, outer in pairwise(chain):
        if _sees_through(outer, inner, counted):
            continue
        if canonical(inner.error_type) in _EXPECTED and counted[-1] is inner:
            counted.pop()
        counted.append(outer)
    return counted


def _sees_through(outer: Failure, inner: Failure, counted: Sequence[Failure]) -> bool:
    if canonical(outer.error_type) in _GROUPS:
        return True
    return (
        _raised_in_its_handler(outer, inner)
        or _repeats(outer, inner)
        or (counted[0] is not inner and _repeats(outer, counted[0]))
    )


def _raised_in_its_handler(outer: Failure, inner: Failure) -> bool:
    """Whether `outer` was raised on purpose where `inner` was caught.

    A traceback begins with the function that caught the exception, and ends with the one that
    raised it.
    """
    if not outer.frames:
        return False
    last = outer.frames[-1]
    code = last.code.strip()
    if code.startswith("raise") and " from " in code:
        return True
    if code and not code.startswith("raise"):
        return False
    return bool(inner.frames) and (last.file, last.function) == (
        inner.frames[0].file,
        inner.frames[0].function,
    )


def _repeats(outer: Failure, inner: Failure) -> bool:
    """Whether `outer` has nothing to say but what `inner` said; so has another try of it."""
    said, again = inner.message.strip()[:400], outer.message[:4_000]
    if len(said) >= _TELLING and said in again:
        return True
    name = inner.error_type.rpartition(".")[2]
    if len(name) > _TELLING and name in again:
        return True
    return (
        outer.error_type == inner.error_type
        and bool(outer.frames and inner.frames)
        and _spot(outer.frames[-1]) == _spot(inner.frames[-1])
    )


def _spot(frame: Frame) -> tuple[str, str, str]:
    return frame.file, frame.function, frame.code
