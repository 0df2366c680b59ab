"""A breaker: an outage holds the work instead of spending attempts and filling the failed jobs."""

from __future__ import annotations

import math

import msgspec

from failbetter.durations import Duration, seconds
from failbetter.lifecycle.policy import Breaking

_NAME = 100


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Holds a task's jobs while something they need is down.

    `on`: the exception type, or a tuple of them, that tells of the outage, subclasses included;
    raised by a body, so that the end of a task's `timeout` does not count.
    When `failures` attempts have so ended `within` a time (a duration, 60 s), the breaker opens:
    jobs wait, nothing is spent, and attempts that fail so meanwhile are not charged. Every
    `probe_every` (a duration, 30 s) one job is let through, another each time; when one succeeds
    the breaker closes, and what waited is let go of at `rate` jobs a second (20; None: at once).

    `name`: of what is needed, for tasks that need the same; else the breaker is its task's alone.

    Raises TypeError or ValueError for what cannot be. Source: M. Nygard, Release It!, 2007.
    """

    on: type[BaseException] | tuple[type[BaseException], ...]
    failures: int = 20
    within: Duration = 60
    probe_every: Duration = 30
    rate: float | None = 20
    name: str | None = None

    def __post_init__(self) -> None:
        self.policy("task")
        if not self.types or not all(_is_exception(kind) for kind in self.types):
            raise TypeError("a breaker's `on` is an exception type or a tuple of them")

    @property
    def types(self) -> tuple[type[BaseException], ...]:
        """The types of `on`."""
        return self.on if isinstance(self.on, tuple) else (self.on,)

    def policy(self, task: str) -> Breaking:
        """What the rows of that task's jobs keep of it."""
        if not 1 <= self.failures <= 1_000_000:
            raise ValueError(
                f"a breaker opens after 1 to 1,000,000 failures, not {self.failures!r}"
            )
        within, probe_every = seconds(self.within), seconds(self.probe_every)
        if within <= 0 or probe_every <= 0:
            raise ValueError("a breaker's `within` and `probe_every` are more than 0 s")
        rate = self.rate
        if rate is not None and not (math.isfinite(rate) and 0.001 <= rate <= 1_000_000):
            raise ValueError(f"a breaker's rate is a number of jobs a second, not {rate!r}")
        name = task if self.name is None else self.name
        if self.name is not None and not 0 < len(name.strip()) <= _NAME:
            raise ValueError(f"a breaker's name is a text of 1 to {_NAME} characters, not {name!r}")
        return Breaking(name, self.failures, within, probe_every, rate)


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)
