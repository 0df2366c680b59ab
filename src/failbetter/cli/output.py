"""Writing to stdout: documents for programs, tables and lines for people.

Colours and cut columns are for a terminal only; elsewhere columns are as wide as they need to be,
so that nothing is lost to `grep`. rich is loaded where it has work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "pending": "cyan",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "discarded": "yellow",
    "pass": "green",
    "warn": "yellow",
    "fail": "red",
    "repaired": "green",
    "differs": "red",
    "missing": "red",
    "unknown": "yellow",
    "reopened": "red",
    "resolved": "green",
    "ignored": "yellow",
}

# Fewer characters than these tell nothing.
_ROOM = 24


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def write(text: str) -> None:
    """Write to stdout, if there is one."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def document(content: Any) -> None:
    """One JSON document."""
    write(_json(content, indent=2) + "\n")


def _json(content: Any, indent: int | None = None) -> str:
    encoding = "" if sys.stdout is None else sys.stdout.encoding
    return json.dumps(content, indent=indent, ensure_ascii=encoding.lower() != "utf-8")


def long_document(head: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """One JSON document whose member `name` is a list too long to be held in memory."""
    start = _json(head, indent=2).removesuffix("\n}")
    write(f'{start},\n  "{name}": [')
    separator = "\n    "
    for item in items:
        write(separator + _json(item))
        separator = ",\n    "
    write("]\n}\n" if separator == "\n    " else "\n  ]\n}\n")


def line(text: str = "", style: str | None = None) -> None:
    """A line of text, as wide as it is; `style` shows on a terminal."""
    if style is None or not on_terminal():
        write(text + "\n")
        return
    from rich.text import Text

    _console().print(Text(text, style), soft_wrap=True, highlight=False)


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: int = 0,
    headed: bool = True,
) -> None:
    """Rows under headings. On a terminal the last column gives way to the others.

    It is cut to what room there is, or where there is little stands on a line of its own. The
    first `numbers` columns are set to the right; `headed` False leaves out the headings.
    """
    widths = [max(len(row[at]) for row in (headings, *rows)) for at in range(len(headings) - 1)]
    room: int | None = None
    if on_terminal():
        room = _console().width - sum(widths) - 2 * len(widths)
    if headed:
        _row(headings if room is None or room >= _ROOM else headings[:-1], widths, numbers, room)
    for row in rows:
        _row(row, widths, numbers, room)


def _row(row: Sequence[str], widths: Sequence[int], numbers: int, room: int | None) -> None:
    cells = [
        cell.rjust(width) if at < numbers else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    last = row[len(widths)] if len(row) > len(widths) else ""
    if room is None:
        write("  ".join([*cells, last]).rstrip() + "\n")
        return
    from rich.text import Text

    shown = Text("  ".join(cells) if last else "  ".join(cells).rstrip())
    for cell in row:
        style = STYLES.get(cell.partition(" ")[0])
        if style is not None and (at := shown.plain.find(cell)) >= 0:
            shown.stylize(style, at, at + len(cell))
    tail = Text(last)
    if last and room >= _ROOM:
        tail.truncate(room, overflow="ellipsis")
        shown.append("  ").append(tail)
    console = _console()
    console.print(shown, soft_wrap=True)
    if last and room < _ROOM:
        tail.truncate(console.width - 4, overflow="ellipsis")
        console.print(Text("    ").append(tail), soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def paged(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of at most `size`."""
    page: list[Any] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
