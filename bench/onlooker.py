"""When others could see that a job had ended: asked again and again, from beside the system."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from bench.specimen import JOBS, Connection

EVERY = 0.001
"""Seconds between two looks."""


class Onlooker:
    """Watches these jobs of a failbetter ledger from a thread of its own.

    `seen`: when each was first seen to have ended, by its id, in ns of the monotonic clock.
    """

    def __init__(self, connect: Callable[[], Connection], jobs: Sequence[int]) -> None:
        self._connect = connect
        self._left = sorted(jobs)
        self.seen: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether all were seen to have ended."""
        return not self._left

    def _watch(self) -> None:
        eye = self._connect()
        try:
            while self._left and not self._stop.is_set():
                self._look(eye)
                time.sleep(EVERY)
        finally:
            eye.close()

    def _look(self, eye: Connection) -> None:
        # They end nearly in order, so that little is asked for that has been seen already.
        found = eye.execute(
            f"SELECT id FROM {JOBS} WHERE id BETWEEN {self._left[0]:d} AND {self._left[-1]:d}"
            f" AND state = 'succeeded' ORDER BY id LIMIT 1000"
        ).fetchall()
        now = time.monotonic_ns()
        new = {job for (job,) in found} - self.seen.keys()
        if new:
            self.seen.update(dict.fromkeys(new, now))
            self._left = [job for job in self._left if job not in new]
