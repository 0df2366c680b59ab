"""Settings: the flag, else the environment (`FAILBETTER_*`), else pyproject, else a default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import failbetter
from failbetter.cli.problems import Misconfigured, WrongUsage

T = TypeVar("T")

PROJECT = "pyproject.toml"
NAMES = frozenset(
    {
        "app",
        "url",
        "queues",
        "processes",
        "concurrency",
        "max_memory",
        "shutdown_timeout",
        "health_host",
        "health_port",
        "log_format",
        "log_level",
    }
)
"""What `[tool.failbetter]` may hold; in the environment, `FAILBETTER_` and the name in capitals."""


def setting(name: str, flag: Any, read: Callable[[Any], T], option: str = "") -> T | None:
    """The value of a setting from the first place that has it, read by `read`; None if none has.

    `read` takes text (a flag, the environment) or a TOML value and raises ValueError with a clear
    message. `option` is the flag's name, else made from the setting's. Raises WrongUsage for a
    flag that cannot be, Misconfigured for anything else that cannot.
    """
    assert name in NAMES
    if flag is not None and flag != []:
        try:
            return read(flag)
        except (ValueError, TypeError) as error:
            shown = option or "--" + name.replace("_", "-")
            raise WrongUsage(f"{shown}: {error}") from None
    variable = f"FAILBETTER_{name.upper()}"
    text = os.environ.get(variable)
    where, value = (f"${variable}", text) if text else (f"{PROJECT}: {name}", _project().get(name))
    if value is None:
        return None
    try:
        return read(value)
    except (ValueError, TypeError) as error:
        raise Misconfigured(f"{where}: {error}") from None


def _project() -> dict[str, Any]:
    """The table `[tool.failbetter]` of ./pyproject.toml; empty when there is none."""
    try:
        content = tomllib.loads(Path(PROJECT).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{PROJECT} cannot be read: {error}") from None
    tool = content.get("tool", {})
    table = tool.get("failbetter", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise Misconfigured(f"{PROJECT}: tool.failbetter must be a table")
    if unknown := sorted(set(table) - NAMES):
        raise Misconfigured(
            f"{PROJECT}: [tool.failbetter] has no setting {unknown[0]!r};"
            f" there are: {', '.join(sorted(NAMES))}"
        )
    return table


def a_text(value: Any) -> str:
    """A text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text is needed, not {value!r}")
    return value.strip()


def texts_of(value: Any) -> list[str]:
    """A list of texts: a list, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"a list of texts is needed, not {value!r}")
    return [a_text(part) for part in parts]


def whole(least: int, most: int) -> Callable[[Any], int]:
    """A reader of whole numbers within bounds."""

    def read(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise ValueError(f"a whole number from {least} to {most:,} is needed, not {value!r}")
        return number

    return read


_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST_MEMORY = 1 << 20


def size(value: Any) -> int:
    """A number of bytes, plain or as 512M, 2G, 1.5GiB (powers of 1024)."""
    text = str(value).strip().lower().removesuffix("b").removesuffix("i")
    unit = text[-1:] if text[-1:] in _SIZES else ""
    try:
        number = float(text.removesuffix(unit)) * _SIZES[unit]
    except ValueError:
        number = 0
    if isinstance(value, bool) or not 0 < number < 1 << 60:
        raise ValueError(f"bytes, or a size such as 512M or 2G, are needed, not {value!r}")
    if number < _LEAST_MEMORY:
        raise ValueError(f"{value} is less than a megabyte; for megabytes write M, such as 512M")
    return int(number)


def seconds(value: Any) -> float:
    """A duration in seconds, read as failbetter reads durations everywhere."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"a duration is needed, such as 25 or 90s, not {value!r}")
    return failbetter.fixed(value).ceiling(1)


def one_of(*words: str) -> Callable[[Any], str]:
    """A reader of one of the words, in whatever case."""

    def read(value: Any) -> str:
        found = str(value).strip().lower()
        if found not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return found

    return read


_FORMAT = one_of("text", "json")
_LEVEL = one_of("debug", "info", "warning", "error")


def log_format_of(flag: str | None) -> str:
    """The format of a long-running command's log."""
    return setting("log_format", flag, _FORMAT) or "text"


def log_level_of(flag: str | None) -> str:
    """The level of a long-running command's log, as `logging` names it."""
    return (setting("log_level", flag, _LEVEL) or "info").upper()
