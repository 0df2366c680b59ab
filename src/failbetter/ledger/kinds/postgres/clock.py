"""The server's time, without asking the server."""

from __future__ import annotations

import time

# Microseconds after which the server's clock is looked at again.
_COMPARE_EVERY = 60_000_000
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

    def set(self, now: int) -> None:
        """It is `now` on the server."""
        self._compared = _steady()
        self._offset = now - self._compared

    def now(self) -> int:
        """The server's time."""
        if self._offset is None:
            return time.time_ns() // 1000
        return _steady() + self._offset


def _steady() -> int:
    return time.clock_gettime_ns(_STEADY) // 1000
