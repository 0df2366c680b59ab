"""Fair turns for SQLite's writers.

SQLite's own busy handler sleeps and tries again, so that of two busy writers one starves. Here a
writer first waits at `next`, then for `now`; it lets `next` go once it has `now`. Whoever has
just written finds the other already waiting, and queues behind it. Polled rather than blocked
on, because `flock` knows no time limit.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Turnstile:
    """Two lock files. Use from one thread at a time; a forked process needs its own."""

    def __init__(self, folder: Path) -> None:
        self._next = os.open(folder / "turn.next", os.O_RDWR | os.O_CREAT, 0o644)
        self._now = os.open(folder / "turn.now", os.O_RDWR | os.O_CREAT, 0o644)

    def enter(self, deadline: float) -> bool:
        """Wait for the turn until `deadline` (monotonic s); whether it came."""
        if not _wait(self._next, deadline):
            return False
        try:
            return _wait(self._now, deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Give the turn away."""
        fcntl.flock(self._now, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close both files."""
        os.close(self._next)
        os.close(self._now)


def _wait(handle: int, deadline: float) -> bool:
    pause = 0.00005
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)
        else:
            return True
