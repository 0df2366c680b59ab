"""Durations and moments as users write them: 90, "90s", "2h", "7d", a timedelta."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

Duration = float | int | str | timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
_WHOLE = re.compile(rf"\s*(?:{_PART.pattern}\s*)+", re.ASCII)


def seconds(value: Duration) -> float:
    """Return a duration in seconds.

    `value`: a number (seconds), a timedelta, or text such as "90", "90s", "1h30m", "7d".
    Raises TypeError for another type, ValueError for text that is no duration, for a negative
    one and for one that is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, timedelta)):
        raise TypeError(f"a duration is a number, a string or a timedelta, not {value!r}")
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        result = _parse(value)
    else:
        result = float(value) if value < 1e11 else math.inf  # a huge int has no float
    if not 0 <= result < 1e11:
        raise ValueError(f"a duration must be finite and not negative: {value!r}")
    return result


def _parse(text: str) -> float:
    if _WHOLE.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no duration; write seconds, or a number with ms, s, m, h, d or w"
        ) from None


def moment(value: Duration | datetime, now: float) -> float:
    """Return a moment as seconds since the epoch: an aware datetime, or a duration from `now`."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; give an aware datetime")
        return value.timestamp()
    return now + seconds(value)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def as_version(value: object) -> int | None:
    """A version as the ledger keeps it: a whole number as it is, an aware datetime in microseconds.

    None: it has none. Raises TypeError for another type or a datetime without a zone, ValueError
    for a number of more than 64 bits.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError(f"{value!r} has no time zone; a version is an aware datetime")
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a version is a whole number or an aware datetime, not {value!r}")
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"a version is a number of at most 64 bits, not {value!r}")
    return value


def micros(value: float) -> int:
    """Seconds to the ledger's unit, whole microseconds."""
    return round(value * 1_000_000)


def to_datetime(value: int | None) -> datetime | None:
    """The ledger's microseconds since the epoch as an aware datetime (UTC)."""
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)
