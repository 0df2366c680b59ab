"""What a run needs to know of a measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.quiet import DISTURBED, Watch
from bench.results import Results
from bench.systems.base import Counts, System


@dataclass
class Turn:
    """One system's turn at one measure in one round."""

    system: System
    counts: Counts
    number: int
    work: Path
    results: Results
    watch: Watch
    others: list[float] = field(default_factory=list)
    """For each piece taken: the share of the machine that others used meanwhile."""

    def take(self, piece: Callable[[], dict[str, float]]) -> None:
        """Take a piece of the measurement, which gives metrics and their values; record them.

        It is called again when others used the machine meanwhile.
        """
        figures, others = self.watch.take(piece)
        self.others.append(others)
        for metric, value in figures.items():
            self.results.add(metric, self.system.key, self.number, value)
            if others >= DISTURBED:
                self.results.disturbed.add((metric, self.system.key, self.number))


class Measure(Protocol):
    """A kind of measurement; `name` is what systems list in `measures` and `--only` takes."""

    name: str

    def run(self, turn: Turn) -> None:
        """Measure once, in pieces of a few seconds."""
        ...
