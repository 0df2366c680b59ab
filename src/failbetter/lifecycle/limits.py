"""How many bodies of a rate limit may begin, when the next, and until when.

A *permit* lets one body begin up to a moment, its *term*, and counts as if the body began only
then. So a body that begins later than it was permitted to, but within its term, is no risk: of all
bodies that begin in one `per`, the last one was permitted while every other one's term was younger
than `per`, and then no more than `count` are given. The log keeps the terms that still count,
rounded up to a hundredth of `per`, so that it stays small whatever the count. Times in µs.
"""

from __future__ import annotations

import msgspec

Log = tuple[tuple[int, int], ...]
"""(term, permits) each, the oldest first."""

# Steps of a `per` to which terms are rounded up.
_STEPS = 100
# A permit's term: a fiftieth of `per`, within these bounds. What a claim needs to reach its body.
_PART = 50
_SHORTEST, _LONGEST = 10_000, 1_000_000
# Who asks again because its term was over gets twice the time, so often.
_DOUBLINGS = 6


class Rate(msgspec.Struct, frozen=True):
    """So many bodies may begin in any `per` µs."""

    count: int
    per: int


def free(rate: Rate, log: Log, now: int) -> int:
    """How many permits may be given now."""
    return max(rate.count - sum(permits for _, permits in _counting(rate, log, now)), 0)


def next_free(rate: Rate, log: Log, now: int) -> int:
    """From when on a permit may be given; 0: one may now."""
    counting = _counting(rate, log, now)
    used = sum(permits for _, permits in counting)
    at = 0
    for term, permits in counting:
        if used < rate.count:
            break
        used -= permits
        at = term + rate.per
    return at


def take(rate: Rate, log: Log, now: int, permits: int, tries: int = 0) -> tuple[Log, int]:
    """Give permits, no more than are free: the log with them, and their term.

    `tries`: how many terms in a row were over before the body could begin.
    """
    step = max(rate.per // _STEPS, 1)
    term = -(-(now + _time(rate, tries)) // step) * step
    counted = dict(_counting(rate, log, now))
    counted[term] = counted.get(term, 0) + permits
    return tuple(sorted(counted.items())), term


def give_back(log: Log, term: int, permits: int = 1) -> Log:
    """The log without permits under which no body has begun; they may count no longer anyway."""
    found = ((at, given - permits if at == term else given) for at, given in log)
    return tuple((at, left) for at, left in found if left > 0)


def _time(rate: Rate, tries: int) -> int:
    """How long a permit is good for."""
    return min(max(rate.per // _PART, _SHORTEST), _LONGEST) << min(tries, _DOUBLINGS)


def _counting(rate: Rate, log: Log, now: int) -> list[tuple[int, int]]:
    """What still counts. A term farther off than any is given is of a clock set back since."""
    last = now + _time(rate, _DOUBLINGS) + rate.per // _STEPS + 1
    return [(term, permits) for term, permits in log if now - rate.per < term <= last]
