"""The server's time, without asking the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Microseconds after which the server's clock is looked at again.
_COMPARE_EVERY = 60_000_000
# An answer that takes longer (µs) is asked for again, so many times in all.
_QUICK = 3_000
_TRIES = 3
# Steady, and where there is one it goes on while the machine sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The server's clock, told by this host's steady one since they were last compared.

    Times in microseconds. Until they are compared it is this host's own time.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._compared = 0

    @property
    def is_set(self) -> bool:
        """Whether they were ever compared."""
        return self._offset is not None

    @property
    def is_old(self) -> bool:
        """Whether they should be compared anew, as no two clocks go alike."""
        return _steady() - self._compared > _COMPARE_EVERY

    def compare(self, ask: Callable[[], int]) -> None:
        """Set it by asking the server, again while the answer takes long.

        The server has said it at some time between the question and the answer: half-way is off by
        half of that at most.
        """
        best: int | None = None
        for _ in range(_TRIES):
            asked = _steady()
            said = ask()
            heard = _steady()
            if best is None or heard - asked < best:
                best = heard - asked
                self._offset = said - (asked + heard) // 2
                self._compared = heard
            if best <= _QUICK:
                break

    def now(self) -> int:
        """The server's time."""
        if self._offset is None:
            return time.time_ns() // 1000
        return _steady() + self._offset


def _steady() -> int:
    return time.clock_gettime_ns(_STEADY) // 1000
