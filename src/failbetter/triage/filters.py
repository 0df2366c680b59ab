"""What a user may ask of jobs, checked and in the ledger's terms."""

from __future__ import annotations

import builtins
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, micros, moment, seconds
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from failbetter.ledger.filters import Filters

Words = str | Sequence[str]
"""A text, or several of which any is meant."""
When = Duration | date
"""A moment: an aware datetime, a date (its beginning), a duration back from now, or as text."""
Number = int | str | tuple[int | None, int | None]
"""A whole number, a comparison such as ">=3", or a range from and to (None: without a bound)."""


class Wanted(TypedDict, total=False):
    """What `Jobs.where` and `Jobs.exclude` take; None, too, means any."""

    ids: Iterable[str] | None
    task: Words | None
    queue: Words | None
    state: Words | None
    reason: Words | None
    error: Words | None
    message: Words | None
    tag: Words | None
    fingerprint: Words | None
    worker: Words | None
    code: Words | None
    args: Mapping[str, Any] | None
    attempts: Number | None
    since: When | None
    until: When | None


# Other spellings than the ledger's own words.
_NAMES = {"state": "states"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_COMPARISON = re.compile(r"\s*(>=|<=|==|=|>|<|)\s*(\d{1,9})\s*", re.ASCII)


def read(given: Mapping[str, Any], now: Callable[[], int]) -> Filters:
    """The filters as the ledger has them. `now` tells the ledger's time, where it matters.

    Raises TypeError for a filter that there is not or a value of a wrong type, ValueError for
    what no job can be.
    """
    unknown = [name for name in given if name not in _READERS]
    if unknown:
        known = ", ".join(_READERS)
        raise TypeError(f"there is no filter {unknown[0]!r}; there are: {known}")
    values = {
        _NAMES.get(name, name): _READERS[name](name, value, now)
        for name, value in given.items()
        if value is not None
    }
    return ledger.filters.Filters(**values)


def _ids(name: str, value: Any, now: Callable[[], int]) -> tuple[int, ...]:
    if isinstance(value, str):
        raise TypeError(f"{name}: a list of ids, not {value!r}")
    return tuple(ids.from_text(text) for text in value)


def _words(name: str, value: Any, now: Callable[[], int]) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, Iterable) or isinstance(found, (bytes, Mapping)):
        raise TypeError(f"{name}: a text or a list of texts, not {value!r}")
    found = tuple(found)
    for each in found:
        if not isinstance(each, str):
            raise TypeError(f"{name}: a text or a list of texts, not {each!r} in it")
    return tuple(map(str, found))


def _one_of(words: type[State] | type[Reason]) -> Callable[..., tuple[str, ...]]:
    known = [word.value for word in words]

    def read_words(name: str, value: Any, now: Callable[[], int]) -> tuple[str, ...]:
        found = _words(name, value, now)
        for text in found:
            if text not in known:
                raise ValueError(f"{text!r} is no {name}; there are: {', '.join(known)}")
        return found

    return read_words


def _errors(name: str, value: Any, now: Callable[[], int]) -> tuple[str, ...]:
    return tuple(map(_true_name, _words(name, value, now)))


def _true_name(name: str) -> str:
    """The name a type has now, of one that has had another, such as IOError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return kind.__name__
    return name


def _args(name: str, value: Any, now: Callable[[], int]) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: values by the names of parameters, not {value!r}")
    found = []
    for path, wanted in value.items():
        if not isinstance(path, str):
            raise TypeError(f"{name}: a parameter has a name, not {path!r}")
        if '"' in path or "\\" in path or not all(path.split(".")):
            raise ValueError(
                f"{name}: {path!r} is no parameter's name, alone or with names in it after dots"
            )
        if isinstance(wanted, float) and not math.isfinite(wanted):
            raise ValueError(f"{name}: {path} can never be {wanted!r}")
        try:
            found.append((path, msgspec.json.encode(wanted).decode()))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {path} cannot be {wanted!r}: {error}") from None
    return tuple(found)


def _attempts(name: str, value: Any, now: Callable[[], int]) -> tuple[tuple[int, int | None], ...]:
    if isinstance(value, tuple):
        return (_range(name, value),)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{name}: a number, a comparison such as '>=3' or a range, not {value!r}")
    found = _COMPARISON.fullmatch(str(value))
    if found is None:
        raise ValueError(f"{name}: {value!r} is no number of attempts; write 3, '>=3' or '<3'")
    number = int(found[2])
    match found[1]:
        case ">=":
            return ((number, None),)
        case ">":
            return ((number + 1, None),)
        case "<=":
            return ((0, number),)
        case "<":
            return ((0, number - 1),)
    return ((number, number),)


def _range(name: str, value: tuple[Any, ...]) -> tuple[int, int | None]:
    kinds = {type(each) for each in value}
    if len(value) != 2 or not kinds <= {int, type(None)}:
        raise TypeError(f"{name}: a range is a pair of numbers (or None), not {value!r}")
    least, most = value
    return (least or 0, most)


def _when(name: str, value: Any, now: Callable[[], int]) -> int:
    try:
        return _moment(value, now)
    except (ValueError, TypeError, OverflowError) as error:
        raise type(error)(f"{name}: {error}") from None


def _moment(value: Any, now: Callable[[], int]) -> int:
    if isinstance(value, datetime):
        return micros(moment(value, 0.0))
    if isinstance(value, date):
        return _day(value)
    text = value.strip() if isinstance(value, str) else ""
    if text in ("today", "yesterday"):
        today = datetime.fromtimestamp(now() / 1_000_000, UTC).astimezone().date()
        return _day(today if text == "today" else today - timedelta(days=1))
    if _DATE.match(text):
        return _written(text)
    try:
        back = seconds(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a date such as 2026-01-31T09:00, today, yesterday") from None
    return now() - micros(back)


def _day(day: date) -> int:
    """The beginning of a day, here."""
    return micros(datetime(day.year, day.month, day.day).astimezone().timestamp())


def _written(text: str) -> int:
    """A date and time as text; without a zone, here."""
    try:
        return micros(datetime.fromisoformat(text).astimezone().timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no date; write one such as 2026-01-31 or 2026-01-31T09:00"
        ) from None


_READERS: dict[str, Callable[[str, Any, Callable[[], int]], Any]] = {
    "ids": _ids,
    "task": _words,
    "queue": _words,
    "state": _one_of(State),
    "reason": _one_of(Reason),
    "error": _errors,
    "message": _words,
    "tag": _words,
    "fingerprint": _words,
    "worker": _words,
    "code": _words,
    "args": _args,
    "attempts": _attempts,
    "since": _when,
    "until": _when,
}
