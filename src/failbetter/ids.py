"""Job ids: 63-bit integers made by the producer, increasing with time, shown as short text.

Layout as in Twitter's Snowflake, with chance in place of a machine number: 41 bits of
milliseconds since 2020, 22 bits that start at random in each millisecond and count on. The
producer knows the id before the row exists, so a bulk insert needs no reply from the database,
and a repeated insert after a lost connection is seen.
"""

from __future__ import annotations

import os
import secrets
import threading
import time

_EPOCH_MS = 1_577_836_800_000
_LOW_BITS = 22
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u
_VALUE = {digit: value for value, digit in enumerate(_DIGITS)}
_LENGTH = 13


class IdSource:
    """A thread-safe source of ids, each larger than the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def take(self, count: int = 1) -> int:
        """Reserve `count` consecutive ids and return the first."""
        floor = (time.time_ns() // 1_000_000 - _EPOCH_MS) << _LOW_BITS
        with self._lock:
            if floor > self._last:
                floor |= secrets.randbits(_LOW_BITS - 1)
                first = max(floor, self._last + 1)
            else:
                first = self._last + 1
            self._last = first + count - 1
        return first


_source = IdSource()
take = _source.take


def _forget_after_fork() -> None:
    # A forked producer must not count on from its parent's last id.
    _source._last = 0
    _source._lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


def made_at(number: int) -> float:
    """When an id was made, by its producer's clock (epoch s)."""
    return ((number >> _LOW_BITS) + _EPOCH_MS) / 1000


def to_text(number: int) -> str:
    """An id as its 13 characters; they sort as the numbers do."""
    digits = []
    for _ in range(_LENGTH):
        digits.append(_DIGITS[number & 31])
        number >>= 5
    return "".join(reversed(digits))


def from_text(text: str) -> int:
    """The id that `text` shows. Raises ValueError when it shows none."""
    cleaned = text.strip().lower()
    if len(cleaned) != _LENGTH or not all(digit in _VALUE for digit in cleaned):
        raise ValueError(
            f"{text!r} is no job id: 13 letters and digits, as `jobs list` prints them"
        )
    number = 0
    for digit in cleaned:
        number = number << 5 | _VALUE[digit]
    if number >= 1 << 63:
        raise ValueError(f"{text!r} is no job id: it is larger than any id can be")
    return number
