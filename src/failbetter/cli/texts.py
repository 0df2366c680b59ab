"""Text that is fit to be shown: no secrets of URLs, no control characters, times as people read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

# Not a port followed by a path, in which an @ may stand.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)(?!\d+/)[^\s@]+@")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def masked(text: str) -> str:
    """The text without the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\1***@", text)


def lines(text: str) -> list[str]:
    """The text's lines, safe for a terminal: other control characters are spelled out."""
    cleaned = masked(text).expandtabs(4).replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], cleaned).split("\n")


def one_line(text: str) -> str:
    """The text as one line, safe for a terminal."""
    return " ".join(part for part in map(str.strip, lines(text)) if part)


def value(item: Any) -> str:
    """A JSON value as one line of JSON."""
    return one_line(json.dumps(item, ensure_ascii=False))


def cut(text: str, width: int) -> str:
    """The text, at most `width` characters of it."""
    return text if len(text) <= width else text[: width - 1] + "…"


def count(number: int, what: str) -> str:
    """`1 job`, `1,234 jobs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def span(seconds: float) -> str:
    """A length of time in at most two units: `250 ms`, `5 s`, `1 h 20 m`, `3 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(seconds)


def size(count: int) -> str:
    """A number of bytes: `512 B`, `38 MB`, `1.5 GB` (powers of 1024)."""
    number, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1024 or unit == "TB":
            break
        number /= 1024
    return f"{number:.3g} {unit}"


def ago(moment: datetime | None, now: datetime) -> str:
    """A moment as seen from now: `5 m ago`, `in 20 s`."""
    if moment is None:
        return "-"
    age = (now - moment) / timedelta(seconds=1)
    return f"in {_coarse(-age)}" if age < 0 else f"{_coarse(age)} ago"


def _coarse(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


def local(moment: datetime | None) -> str:
    """A moment in this machine's time zone, to the second."""
    if moment is None:
        return "-"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exact(moment: datetime) -> str:
    """A moment in this machine's time zone, to the millisecond."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def stamp(moment: datetime | None) -> str | None:
    """A moment as JSON documents have it: ISO 8601, UTC."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
