"""What a stranger sees: one live picture on a terminal, plain lines elsewhere, nothing for JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from failbetter.demo.proof import Check

STYLES = {
    "pending": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "discarded": "magenta",
}
WHO_STYLES = {"murphy": "bold red", "store": "yellow", "demo": "bold cyan", "worker": "cyan"}
LINE_SECONDS = 2.0
EVENTS_SHOWN = 9
GROUPS_SHOWN = 5


@dataclass(frozen=True)
class FailedGroup:
    """Failures of one cause, as the demo shows them."""

    count: int
    reason: str
    title: str
    sample: str

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Event:
    """Something worth telling: `at` seconds after the start, `who` did `what`."""

    at: float
    who: str
    what: str


@dataclass(frozen=True)
class Frame:
    """One moment of the demo. `counts`: jobs by state; `store`: the store's status."""

    at: float
    phase: str
    total: int
    counts: Mapping[str, int]
    store: Mapping[str, Any]
    groups: Sequence[FailedGroup]

    @property
    def ended(self) -> int:
        """Jobs that reached an end."""
        return sum(self.counts.get(state, 0) for state in ("succeeded", "failed", "discarded"))


class Silence:
    """Shows nothing; the others build on it."""

    def heading(self, text: str, detail: str) -> None:
        """The first thing that is shown."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def frame(self, frame: Frame) -> None:
        """How things stand now; called several times a second."""

    def groups(self, title: str, groups: Sequence[FailedGroup]) -> None:
        """The failed ledger, grouped by cause."""

    def proof(self, checks: Sequence[Check], verdict: str) -> None:
        """The proof and what follows from it."""

    def note(self, text: str) -> None:
        """A last word."""

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""


@dataclass
class Plain(Silence):
    """Lines, for pipes and logs."""

    console: Console
    _spoke: float = field(default=float("-inf"))

    def heading(self, text: str, detail: str) -> None:
        """Print both."""
        self._line(Text.assemble((text, "bold"), "  ", (detail, "dim")))

    def event(self, event: Event) -> None:
        """Print the event with its time."""
        self._line(_event_line(event))

    def frame(self, frame: Frame) -> None:
        """Print a line every `LINE_SECONDS`."""
        if frame.at - self._spoke >= LINE_SECONDS:
            self._spoke = frame.at
            self._line(Text.assemble(f"{frame.at:5.1f} s  ", _states(frame)))

    def groups(self, title: str, groups: Sequence[FailedGroup]) -> None:
        """Print a table."""
        self.close()
        if not groups:
            self._line(Text(f"{title}: nothing", "bold"))
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("jobs", justify="right", style="bold red")
        table.add_column("reason")
        table.add_column("cause", ratio=3)
        table.add_column("for example", style="dim", ratio=2)
        for group in groups:
            # As Text: a title may hold square brackets that are no markup.
            cells = (str(group.count), group.reason, group.title, group.sample)
            table.add_row(*(Text(cell) for cell in cells))
        self.console.print(table)

    def proof(self, checks: Sequence[Check], verdict: str) -> None:
        """Print each check, with what speaks against it."""
        self.close()
        good = all(check.holds for check in checks)
        lines: list[RenderableType] = []
        for check in checks:
            mark = ("✓ ", "bold green") if check.holds else ("✗ ", "bold red")
            lines.append(Text.assemble(mark, check.claim, "\n    ", (check.figure, "dim")))
            lines += [Text(f"    {problem}", "red") for problem in check.problems[:5]]
            if len(check.problems) > 5:
                lines.append(Text(f"    and {len(check.problems) - 5} more", "red"))
        style = "green" if good else "red"
        lines.append(Text(f"\n{verdict}", f"bold {style}"))
        self.console.print(Panel(Group(*lines), title="the proof", border_style=style))

    def note(self, text: str) -> None:
        """Print it."""
        self._line(Text(text))

    def _line(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)


@dataclass
class Lively(Plain):
    """One picture that changes, for terminals."""

    _live: Live | None = None
    _heading: Text = field(default_factory=Text)
    _events: list[Event] = field(default_factory=list)
    _frame: Frame | None = None
    _drawn: float = 0.0

    def heading(self, text: str, detail: str) -> None:
        """Begin the picture."""
        self._heading = Text.assemble((text, "bold"), "  ", (detail, "dim"))

    def event(self, event: Event) -> None:
        """Put the event into the picture."""
        self._events.append(event)
        self._draw()

    def frame(self, frame: Frame) -> None:
        """Draw the picture anew."""
        self._frame = frame
        if time.monotonic() - self._drawn > 0.08:
            self._draw()

    def close(self) -> None:
        """Stop drawing; the last picture stays."""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None
            self._heading, self._frame, self._events = Text(), None, []

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [self._heading] if self._heading else []
        if self._frame is not None:
            parts += [_bars(self._frame), _figures(self._frame)]
        lines = Group(*(_event_line(event) for event in self._events[-EVENTS_SHOWN:]))
        if self._frame is None:
            parts.append(lines)
        else:
            parts.append(Panel(lines, title="what happens", title_align="left", box=box.ROUNDED))
        return Group(*parts)


def counted(number: int, what: str) -> str:
    """A number and its noun: "1 file", "2 files"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _event_line(event: Event) -> Text:
    style = WHO_STYLES.get(event.who, "")
    return Text.assemble(
        (f"{event.at:5.1f} s  ", "dim"),
        (f"{event.who:<7}", style),
        event.what,
        no_wrap=True,
        overflow="ellipsis",
    )


def _states(frame: Frame) -> Text:
    text = Text(f"{frame.phase}: {frame.ended}/{frame.total} ended")
    for state, style in STYLES.items():
        if count := frame.counts.get(state, 0):
            text.append(f"  {state} ").append(str(count), style)
    return text


def _bars(frame: Frame) -> RenderableType:
    done = frame.counts.get("succeeded", 0)
    table = Table.grid(padding=(0, 1))
    table.add_row(
        Text(f"{frame.phase:<12}", "bold"),
        ProgressBar(total=frame.total, completed=done, width=40),
        Text(f"{done}/{frame.total} backed up", "green"),
        Text(f"{frame.at:.0f} s", "dim"),
    )
    return table


def _figures(frame: Frame) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    jobs = Text()
    for state, style in STYLES.items():
        count = frame.counts.get(state, 0)
        jobs.append(f"{state} ").append(f"{count:<4}", style if count else "dim")
    store = frame.store
    weather = Text("well", "green")
    if store["out"]:
        weather = Text("gone", "bold red")
    table.add_row(Text("jobs", "dim"), jobs)
    table.add_row(
        Text("store", "dim"),
        Text.assemble(
            weather,
            f"  {store['stored']} objects  {store['limited']} times 429  "
            f"{store['refused']} refused  {store['repeated']} repeated uploads",
        ),
    )
    failed = [
        Text.assemble(
            (f"{group.count:>3} ", "red"),
            (f"{group.reason}: ", "bold"),
            group.title,
            no_wrap=True,
            overflow="ellipsis",
        )
        for group in frame.groups[:GROUPS_SHOWN]
    ]
    table.add_row(Text("failed", "dim"), Group(*(failed or [Text("none", "dim")])))
    return table
