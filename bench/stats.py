"""Medians, spreads and ratios of a few samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What several rounds gave: their median, least and greatest value, and how many."""

    median: float
    low: float
    high: float
    rounds: int


def spread(samples: Sequence[float]) -> Spread | None:
    """The spread of `samples`; None when there are none."""
    if not samples:
        return None
    return Spread(statistics.median(samples), min(samples), max(samples), len(samples))


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> list[float]:
    """Ratios taken round by round, for the rounds that have both: drift of the machine cancels."""
    return [above[r] / below[r] for r in sorted(above) if below.get(r)]


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of all samples do not exceed."""
    if not samples:
        raise ValueError("a percentile of no samples")
    ordered = sorted(samples)
    rank = math.ceil(share * len(ordered) - 1e-9)
    return ordered[max(rank, 1) - 1]
