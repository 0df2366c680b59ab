"""The numbers of a run: metric, system, round -> value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench import stats


@dataclass
class Results:
    """Filled by measures, read by the table and the floors."""

    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    disturbed: set[tuple[str, str, int]] = field(default_factory=set)
    """Metric, system and round of figures taken while others used the machine."""

    def add(self, metric: str, system: str, number: int, value: float) -> None:
        """Record `value` for round `number`."""
        self.values.setdefault(metric, {}).setdefault(system, {})[number] = value

    def calm(self, metric: str, systems: list[str], rounds: Iterable[int]) -> bool:
        """Whether at least half of these rounds were left alone by others for all `systems`."""
        noisy = [any((metric, s, n) in self.disturbed for s in systems) for n in rounds]
        return 2 * sum(noisy) <= len(noisy)

    def by_round(self, metric: str, system: str) -> dict[int, float]:
        """The samples of one metric of one system; empty when there are none."""
        return self.values.get(metric, {}).get(system, {})

    def spread(self, metric: str, system: str) -> stats.Spread | None:
        """Their median and spread."""
        return stats.spread(list(self.by_round(metric, system).values()))

    def best(self, metric: str, systems: list[str]) -> dict[int, float]:
        """For each round, the greatest value that any of `systems` reached."""
        best: dict[int, float] = {}
        for system in systems:
            for number, value in self.by_round(metric, system).items():
                best[number] = max(value, best.get(number, value))
        return best

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every sample, for a file."""
        for metric, systems in self.values.items():
            for system, rounds in systems.items():
                for number, value in rounds.items():
                    disturbed = (metric, system, number) in self.disturbed
                    yield {"metric": metric, "system": system, "round": number, "value": value,
                           "disturbed": disturbed}  # fmt: skip
