"""How far long work has come, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from failbetter.cli import problems

# Seconds: what is done sooner needs no bar; and between two plain lines.
_SOON = 0.5
_LINES = 5.0


class Progress:
    """Shown anew by each `show`, until `close`. `what`: what is counted, in the plural."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._next_line = self._began + _LINES
        self._bar: Any = None
        self._task: Any = None
        self._waits_for: str | None = None

    def show(self, done: int, total: int, waits_for: str | None = None) -> None:
        """It has come so far; `waits_for`: what keeps it from going on."""
        if waits_for is not None and waits_for != self._waits_for:
            problems.tell(f"failbetter: {waits_for}")
        self._waits_for = waits_for
        now = time.monotonic()
        if sys.stderr is None or not total or now - self._began < _SOON:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now >= self._next_line:
            self._next_line = now + _LINES
            problems.tell(f"failbetter: {done:,} of {total:,} {self._what}")

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(file=sys.stderr), transient=True)
            self._task = self._bar.add_task(self._what)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
