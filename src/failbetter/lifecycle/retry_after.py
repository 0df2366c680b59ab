"""How long a service asked to be left alone, read from the error that said so.

Understood: an exception with a `retry_after` (seconds or a timedelta), and the `Retry-After`
header (RFC 9110, 10.2.3: seconds or an HTTP date) on an exception's `response` (httpx, requests)
or on the exception itself (urllib). Duck-typed, so that no HTTP library is needed.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# A server that asks for more than a day is believed for a day: a wrong header must not park a job.
LONGEST = 86_400.0


def retry_after(error: BaseException, now: float) -> float | None:
    """Seconds to wait from `now` (epoch seconds) as the error asks, or None when it does not."""
    own = _number(getattr(error, "retry_after", None))
    if own is not None:
        return own
    for holder in (getattr(error, "response", None), error):
        headers = getattr(holder, "headers", None)
        get = getattr(headers, "get", None)
        if not callable(get):
            continue
        value = get("Retry-After") or get("retry-after")
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            return _header(value.strip(), now)
    return None


def _number(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(min(max(value, 0.0), LONGEST))


def _header(value: str, now: float) -> float | None:
    number = _number(value)
    if number is not None:
        return number
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return _number((when - datetime.fromtimestamp(now, UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
