"""How well a rule groups labelled failures: over all pairs, precision, recall and their mean F1."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from failbetter import Failure

Rule = Callable[[Failure], str]


@dataclass(frozen=True)
class Labelled:
    label: str
    failure: Failure


@dataclass(frozen=True)
class Quality:
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / ((self.precision + self.recall) or 1)

    def __str__(self) -> str:
        return f"precision {self.precision:.3f}  recall {self.recall:.3f}  F1 {self.f1:.3f}"


def load(*names: str) -> list[Labelled]:
    found = []
    for name in names:
        for line in (Path(__file__).parent / name).read_text("utf-8").splitlines():
            row = json.loads(line)
            found.append(Labelled(row["label"], msgspec.convert(row["failure"], Failure)))
    return found


def _pairs(sizes: Iterable[int]) -> int:
    return sum(size * (size - 1) // 2 for size in sizes)


def quality(corpus: list[Labelled], rule: Rule) -> Quality:
    keys = [(one.label, rule(one.failure)) for one in corpus]
    together = _pairs(Counter(key for _, key in keys).values())
    alike = _pairs(Counter(label for label, _ in keys).values())
    both = _pairs(Counter(keys).values())
    return Quality(both / (together or 1), both / (alike or 1))


def mistakes(corpus: list[Labelled], rule: Rule) -> tuple[list[str], list[str]]:
    """Labels that were merged, and labels that were split (into how many)."""
    groups: dict[str, set[str]] = defaultdict(set)
    keys: dict[str, set[str]] = defaultdict(set)
    for one in corpus:
        key = rule(one.failure)
        groups[key].add(one.label)
        keys[one.label].add(key)
    merged = {
        " + ".join(pair)
        for labels in groups.values()
        for pair in itertools.combinations(sorted(labels), 2)
    }
    split = [f"{label} into {len(found)}" for label, found in keys.items() if len(found) > 1]
    return sorted(merged), sorted(split)


def by_type(failure: Failure) -> str:
    """The first anchor: the type alone."""
    return failure.error_type


def by_type_and_function(failure: Failure) -> str:
    """The second anchor: the type and the innermost function."""
    last = failure.frames[-1].function if failure.frames else ""
    return f"{failure.error_type} {last}"


def thinned(failure: Failure, without: str) -> Failure:
    """The failure as of an origin that knows less."""
    match without:
        case "code":
            frames = [msgspec.structs.replace(frame, code="") for frame in failure.frames]
        case "module":
            frames = [msgspec.structs.replace(frame, module=None) for frame in failure.frames]
        case "own frames":
            frames = [frame for frame in failure.frames if not frame.is_own]
        case "frames":
            frames = []
        case _:
            raise ValueError(without)
    causes = [thinned(cause, without) for cause in failure.causes]
    return msgspec.structs.replace(failure, frames=frames, causes=causes)
