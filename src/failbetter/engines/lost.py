"""Which ids an engine has lost that can only say how many messages are in a queue.

Pure: no clock, no I/O. Two observations tell that an id is on its way no more, and neither takes a
long queue for a lost one:

* A queue hands out first what was put there first. If it holds fewer messages than jobs wait that
  were sent as late as this one or later, this one is not among them.
* If a job that was sent later, of the same queue and priority, waits no more, the queue has moved
  past this one. This sees a loss also where other messages keep the queue long.

What is missing may also lie in a worker that has fetched it ahead. Only what is missing for `GRACE`
seconds on end is called lost, and to send such a one again does no harm.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.engine import Ticket

GRACE: Final = 20.0
"""Seconds for which an id has to be missing until it is called lost."""

FULL: Final = 500
"""So many jobs come in each look of a round but the last, which has fewer."""

_NOW: Final = 2**62
"""Stands for the time of a sending that follows from here: later than all that is known."""


class _Lane(msgspec.Struct):
    """What was seen waiting of one queue and priority. `times`: when it was sent, sorted."""

    times: list[int] = []
    sent_at: dict[int, int] = {}


class Lost:
    """What is known from look to look. One for each engine; used by one thread at a time.

    A round is made of several looks, in each of which come the next waiting jobs by their ids.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], _Lane] = {}
        """The waiting jobs as the last whole round found them."""
        self._round: dict[tuple[str, int], _Lane] = {}
        self._passed: dict[tuple[str, int], int] = {}
        """Up to when what was sent has left its queue."""
        self._missing_since: dict[int, tuple[int, float]] = {}
        """By id: the fence, and since when it is missing (monotonic s)."""
        self._highest = 0
        self._was_last = False

    def __len__(self) -> int:
        """How many jobs it remembers."""
        lanes = [*self._last.values(), *self._round.values()]
        return sum(len(lane.sent_at) for lane in lanes)

    def look(
        self, tickets: Sequence[Ticket], depth: Callable[[str], int], now: float
    ) -> list[Ticket]:
        """Of these waiting jobs, which are sent and by ascending id: those whose ids are lost.

        `depth`: how many messages a queue holds. `now` in monotonic seconds.
        """
        if not tickets:
            return []
        if self._was_last or tickets[0].id <= self._highest:
            self._end_round()
        self._highest = tickets[-1].id
        self._was_last = len(tickets) < FULL
        depths = {queue: depth(queue) for queue in {ticket.queue for ticket in tickets}}
        return [one for one in tickets if self._is_lost(one, depths[one.queue], now)]

    def _is_lost(self, ticket: Ticket, depth: int, now: float) -> bool:
        key = (ticket.queue, ticket.priority)
        sent_at = ticket.sent_at or 0
        lane = self._round.setdefault(key, _Lane())
        if self._is_missing(key, ticket.queue, sent_at, depth):
            fence, since = self._missing_since.setdefault(ticket.id, (ticket.fence, now))
            if fence != ticket.fence:
                since = now
                self._missing_since[ticket.id] = (ticket.fence, now)
            if now - since >= GRACE:
                del self._missing_since[ticket.id]
                self._moved(key, sent_at)
                self._note(lane, ticket.id, _NOW)
                return True
        else:
            self._missing_since.pop(ticket.id, None)
        self._note(lane, ticket.id, sent_at)
        return False

    @staticmethod
    def _note(lane: _Lane, number: int, sent_at: int) -> None:
        lane.sent_at[number] = sent_at
        insort(lane.times, sent_at)

    def _is_missing(self, key: tuple[str, int], queue: str, sent_at: int, depth: int) -> bool:
        if depth == 0 or sent_at < self._passed.get(key, 0):
            return True
        later = 0
        for (of_queue, _), lane in self._last.items():
            if of_queue == queue:
                later += len(lane.times) - bisect_left(lane.times, sent_at)
        return later > depth

    def _moved(self, key: tuple[str, int], sent_at: int) -> None:
        """It goes to its queue's end again: no longer before the others, but behind them."""
        lane = self._last.get(key)
        if lane is None:
            return
        at = bisect_left(lane.times, sent_at)
        if at < len(lane.times) and lane.times[at] == sent_at:
            del lane.times[at]
            lane.times.append(_NOW)

    def _end_round(self) -> None:
        """All that waits was looked at: what did before and does no more has left its queue."""
        for key, lane in self._last.items():
            waiting = self._round.get(key, _Lane()).sent_at
            gone = [at for number, at in lane.sent_at.items() if number not in waiting]
            left = max((at for at in gone if at != _NOW), default=0)
            self._passed[key] = max(self._passed.get(key, 0), left)
        self._passed = {key: at for key, at in self._passed.items() if key in self._round}
        present = {n for lane in self._round.values() for n in lane.sent_at}
        self._missing_since = {n: at for n, at in self._missing_since.items() if n in present}
        self._last, self._round = self._round, {}
