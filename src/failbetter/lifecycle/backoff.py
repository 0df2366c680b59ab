"""How long to wait before the next try.

A backoff is data (kept on the job's row as JSON) except when the task gives a callable, which is
evaluated in the child. Full jitter by default: the wait is drawn evenly from nothing to the
computed delay, which spreads a crowd of retries best (Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import msgspec

from failbetter.durations import Duration, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


# Seconds; more than that is no duration, and would not fit the ledger's columns.
_LONGEST = 1e11


# The bounds are looked at when a row's policy is read, since someone may have edited it.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_LONGEST)]


class Random(Protocol):
    """The one thing needed of a `random.Random`."""

    def random(self) -> float: ...


class Backoff(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """A rule for the wait after the n-th charged attempt (n from 1), in seconds."""

    kind: Literal["fixed", "linear", "exponential", "list"]
    delays: Annotated[tuple[Seconds, ...], msgspec.Meta(min_length=1)]
    cap: Seconds | None = None
    jitter: bool = True
    factor: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0

    def ceiling(self, attempt: int) -> float:
        """The delay after the n-th attempt before jitter."""
        first = self.delays[0]
        if self.kind == "fixed":
            delay = first
        elif self.kind == "linear":
            delay = first * attempt
        elif self.kind == "exponential":
            # Beyond any cap already; a larger exponent would overflow the float.
            delay = first * self.factor ** min(attempt - 1, 150)
        else:
            delay = self.delays[min(attempt, len(self.delays)) - 1]
        return min(delay, _LONGEST if self.cap is None else self.cap)

    def delay(self, attempt: int, rng: Random) -> float:
        """The wait after the n-th attempt, jittered with `rng`."""
        ceiling = self.ceiling(max(attempt, 1))
        return ceiling * rng.random() if self.jitter else ceiling


def fixed(delay: Duration, *, jitter: bool = True) -> Backoff:
    """Always `delay`."""
    return Backoff("fixed", (seconds(delay),), None, jitter)


def linear(step: Duration, *, cap: Duration | None = None, jitter: bool = True) -> Backoff:
    """`step`, twice `step`, three times `step`, …, at most `cap`."""
    return Backoff("linear", (seconds(step),), None if cap is None else seconds(cap), jitter)


def exponential(
    first: Duration,
    *,
    cap: Duration | None = 3600,
    factor: float = 2.0,
    jitter: bool = True,
) -> Backoff:
    """`first`, then `factor` times the delay before, at most `cap`."""
    if not 1 <= factor <= 100:
        raise ValueError(f"an exponential backoff's factor is 1 to 100, not {factor!r}")
    limit = None if cap is None else seconds(cap)
    return Backoff("exponential", (seconds(first),), limit, jitter, factor)


def listed(delays: Sequence[Duration], *, jitter: bool = False) -> Backoff:
    """The given delays in turn; the last one for all further attempts."""
    values = tuple(seconds(delay) for delay in delays)
    if not values:
        raise ValueError("a list of backoff delays must not be empty")
    return Backoff("list", values, None, jitter)


def coerce(value: object) -> Backoff:
    """A Backoff from what a task option may hold, callables excepted."""
    if isinstance(value, Backoff):
        return value
    if isinstance(value, (list, tuple)):
        return listed(value)
    return fixed(value, jitter=False)  # type: ignore[arg-type]  # `seconds` refuses what is no duration
