"""What a measure needs to know of a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counts:
    """How many jobs keep this system busy for a second or two, per measure."""

    one: int
    bulk: int
    drain: int
    spin: int
    latency: int
    retry: int = 0

    def scaled(self, factor: float) -> Counts:
        """The same, smaller; never fewer than 20 where there were any."""
        return Counts(
            *(
                min(n, max(20, int(n * factor)))
                for n in (self.one, self.bulk, self.drain, self.spin, self.latency, self.retry)
            )
        )


class System(ABC):
    """A job system, or the raw limit, as the measures see it."""

    key: str
    """Short and unique: names it in options and files."""
    title: str
    """As the table shows it."""
    family: str
    """`failbetter`, `raw` or `peer`."""
    store: str
    """`sqlite`, `redis` or `postgres`: what it keeps its jobs in."""
    durability: str
    """`durable`: accepted means on disk. `relaxed`: a power cut may take it back."""
    tasks: str
    """The module that its workers and its producer import."""
    counts: Counts
    measures: frozenset[str]
    """Names of the measures that make sense for it."""
    drains: tuple[str, ...] = ("drain.1", "drain.2")
    """Which of the ways to drain: one process, two of one worker, two workers of one each."""

    def __init__(self, python: Path) -> None:
        self.python = python

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make the store empty and ready; `folder` is new and belongs to one session."""

    def forget(self, folder: Path) -> None:  # noqa: B027
        """Remove what `prepare` made outside the folder, which is removed without this."""

    @abstractmethod
    def environment(self, folder: Path) -> Mapping[str, str]:
        """What its processes find in their environment."""

    @abstractmethod
    def worker_command(self, processes: int) -> Sequence[str]:
        """How a user starts a worker of `processes` processes, each running one job at a time."""
