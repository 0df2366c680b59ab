"""Whether others use the machine meanwhile: figures taken then say little about the systems."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

import psutil

DISTURBED = 0.15
"""Share of all cores used by others from which on a measurement is taken again."""
REPEATS = 2

_QUIET = 0.10
_LOOK_SECONDS = 0.2


class Watch:
    """Takes measurements when others leave the machine alone, as far as they do.

    `ours`: CPU seconds so far of processes of this run that have not ended, such as Redis.
    """

    def __init__(self, patience: float, ours: Callable[[], float]) -> None:
        self._patience = patience
        self._ours = ours

    def _wait(self) -> None:
        """Return once the machine idles, or when patience (s) is over."""
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            if psutil.cpu_percent(_LOOK_SECONDS) < _QUIET * 100:
                return

    def take(self, piece: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float]:
        """Measure in a quiet moment, a few times if need be: the least disturbed figures, and
        the share (0 to 1) of all cores that others used while they were taken."""
        best: dict[str, float] = {}
        least = 2.0
        for _ in range(1 + REPEATS):
            self._wait()
            begin, busy, own = time.monotonic(), _busy(), self._own()
            figures = piece()
            spent = (_busy() - busy) - (self._own() - own)
            cores = os.cpu_count() or 1
            others = max(0.0, spent / ((time.monotonic() - begin) * cores))
            if others < least:
                best, least = figures, others
            if least < DISTURBED:
                break
        return best, least

    def _own(self) -> float:
        # Those who ended have been waited for, so that their time is in RUSAGE_CHILDREN.
        mine, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF,
                                                           resource.RUSAGE_CHILDREN))  # fmt: skip
        times = mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime
        return times + self._ours()


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0)
                 - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))  # fmt: skip
