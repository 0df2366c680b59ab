"""The hall: where claimed jobs wait until a child takes them.

How they relate: a child's *window* is how many jobs it may hold, by how long bodies take; *room* is
what may be claimed, so that the children's windows are full and, when bodies are short, as many
jobs stand ready here for the moment they are not.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.ledger.claims import Claimed
    from failbetter.worker.nursery import Nursery
    from failbetter.worker.process import Child

# Seconds after which what no child has taken goes back to the ledger.
_STUCK = 0.1
# A child that holds this many, all of them done within `_SHORT` µs, keeps the supervisor busy.
_MANY = 200
_SHORT = 15_000.0
# Bodies of fewer µs keep a core busy, most of which goes into what is around them.
_BUSY = 200.0
# Bodies of fewer µs are bound by the supervisor: one child does as many as it can settle.
_TINY = 30.0


class Hall:
    """Claimed jobs on their way to a child, in order; suspects of a shared death apart."""

    def __init__(self, nursery: Nursery, concurrency: int) -> None:
        self._nursery = nursery
        self._concurrency = concurrency
        self._queue: deque[Claimed] = deque()
        self._suspects: deque[Claimed] = deque()
        self._moved = 0.0

    def __len__(self) -> int:
        return len(self._queue) + len(self._suspects)

    def __iter__(self) -> Iterator[Claimed]:
        yield from self._queue
        yield from self._suspects

    def room(self) -> int:
        """How many jobs may be claimed now."""
        ready = [child for child in self._nursery.children if child.takes_jobs]
        windows = [int(child.window) for child in ready]
        held = sum(len(child.handed) for child in ready)
        slots = sum(child.slots for child in ready)
        # Tiny bodies are all done by one child; more than it takes would only make the commits
        # longer. An idle one's window has never grown, so that a mean would starve the busy one.
        window = max(windows, default=0) if self._bodies_are_tiny() else sum(windows)
        target = window if window <= slots else 2 * window
        return target - held - len(self)

    def keep(self, jobs: list[Claimed]) -> None:
        """Let claimed jobs wait here."""
        for job in jobs:
            # With one body a child, each is alone anyway.
            alone = job.suspect and self._concurrency > 1
            (self._suspects if alone else self._queue).append(job)
        if jobs:
            self._moved = time.monotonic()

    def stuck(self, now: float) -> list[Claimed]:
        """Let go of what no child can take soon, so that another worker may find it."""
        if not self._queue or self._moved > now - _STUCK:
            return []
        jobs = list(self._queue)
        self._queue.clear()
        return jobs

    def remove(self, numbers: set[int]) -> list[Claimed]:
        """Let go of the jobs with these ids."""
        found = [job for job in self if job.id in numbers]
        self._queue = deque(job for job in self._queue if job.id not in numbers)
        self._suspects = deque(job for job in self._suspects if job.id not in numbers)
        return found

    def clear(self) -> list[Claimed]:
        """Let go of all that waits."""
        jobs = list(self)
        self._queue.clear()
        self._suspects.clear()
        return jobs

    def hand_out(self) -> None:
        """Give the children what they can take, the least busy one first; tiny bodies to one."""
        if self._suspects:
            self._hand_out_suspects()
        if not self._queue:
            return
        for child in sorted(self._nursery.children, key=_load, reverse=self._bodies_are_tiny()):
            free = child.free()
            while free > 0 and self._queue and child.hand_out(self._queue[0]):
                self._queue.popleft()
                self._moved = time.monotonic()
                free -= 1
            if free <= 0 and len(child.handed) > _MANY and _is_enough(child):
                return

    def bodies_are_short(self) -> bool:
        """Whether the worker is as fast as the processor is, and waits for nothing else."""
        return self._bodies_take_less(_BUSY)

    def _bodies_are_tiny(self) -> bool:
        return self._bodies_take_less(_TINY)

    def _bodies_take_less(self, micros: float) -> bool:
        paces = [child.pace for child in self._nursery.children if child.pace is not None]
        return bool(paces) and max(paces) < micros

    def _hand_out_suspects(self) -> None:
        """Each alone in a child: in an empty one, else one is kept free of others until it is."""
        for child in self._nursery.children:
            if not self._suspects:
                return
            if child.takes_jobs and not child.handed:
                child.solo = False
                if child.hand_out(self._suspects[0]):
                    self._suspects.popleft()
                    child.solo = True
        if self._suspects and not any(child.solo for child in self._nursery.children):
            ready = [child for child in self._nursery.children if child.takes_jobs]
            if ready:
                min(ready, key=_load).solo = True


def _load(child: Child) -> int:
    return len(child.handed)


def _is_enough(child: Child) -> bool:
    """Whether a full child will be done before the supervisor has settled what it did.

    Bodies so short are bound by the supervisor, and another busy child would only take a core
    away from it.
    """
    return child.pace is not None and len(child.handed) * child.pace < _SHORT
