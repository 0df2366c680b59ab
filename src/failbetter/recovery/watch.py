"""Who is lost: by this process's own steady clock, never by comparing two clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.registry import Worker

# Seconds between two looks that still count as watching, if the leases are shorter than twice that.
_OFTEN = 1.5


class _Seen(msgspec.Struct):
    beats: int
    since: float


class Watch:
    """Remembers since when each worker's count of renewals has stood still.

    `own`: the worker whose row this process renews itself; None: it writes to the ledger at each
    look in another way. All times in monotonic seconds.
    """

    def __init__(self, own: int | None = None) -> None:
        self._own = own
        self._seen: dict[int, _Seen] = {}
        self._last: float | None = None
        self._renewed = _Seen(-1, 0.0)

    def forget(self) -> None:
        """Contact was broken: whoever was watched must be watched anew for a whole lease."""
        self._seen.clear()

    def look(self, now: float, workers: Sequence[Worker]) -> list[Worker]:
        """Those of the workers that nothing was heard of for a whole lease of being watched."""
        self._notice_own_absence(now, workers)
        return [one for one in workers if one.id != self._own and self._is_silent(one, now)]

    def _notice_own_absence(self, now: float, workers: Sequence[Worker]) -> None:
        """Who was frozen has not watched anyone meanwhile, and one whose own renewals do not get
        through knows nothing from the silence of others."""
        shortest = min((worker.lease for worker in workers), default=0) / 1e6
        if self._last is not None and now - self._last > max(shortest / 2, _OFTEN):
            self._seen.clear()
        self._last = now
        for own in workers:
            if own.id == self._own and own.beats != self._renewed.beats:
                self._renewed = _Seen(own.beats, now)
            elif own.id == self._own and now - self._renewed.since > own.lease / 2e6:
                self._seen.clear()
        alive = {worker.id for worker in workers}
        for number in list(self._seen):
            if number not in alive:
                del self._seen[number]

    def _is_silent(self, worker: Worker, now: float) -> bool:
        seen = self._seen.get(worker.id)
        if seen is None or seen.beats != worker.beats:
            self._seen[worker.id] = _Seen(worker.beats, now)
            return False
        return now - seen.since >= worker.lease / 1e6
