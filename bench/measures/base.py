"""What a run needs to know of a measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.results import Results
from bench.systems.base import Counts, System


@dataclass(frozen=True)
class Turn:
    """One system's turn at one measure in one round."""

    system: System
    counts: Counts
    number: int
    work: Path
    results: Results

    def add(self, metric: str, value: float) -> None:
        """Record a number of this turn."""
        self.results.add(metric, self.system.key, self.number, value)


class Measure(Protocol):
    """A kind of measurement; `name` is what systems list in `measures` and `--only` takes."""

    name: str

    def run(self, turn: Turn) -> None:
        """Measure once."""
        ...
