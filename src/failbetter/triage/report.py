"""What became of the jobs of an operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from failbetter import ids, ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.ledger.database import Database


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each job of an operation, as the ledger has it now; adds up to `total`.

    `failed_alike`: failed again of the same cause, `failed_otherwise`: of another one.
    `waiting`: to run, or to run again. `unreleased`: not acted on yet, or no more, since the
    operation is paused or was aborted. `skipped`: how many, by why: a verdict of the preview,
    `changed` (it had moved since), `expired`, `uncertain`, `duplicate`, `gone`. `taken_over`: a
    later operation has moved it since. `undone`: returned by `undo`. `restored`: failed again,
    as it was before it was discarded. `gone`: pruned since.
    """

    total: int
    succeeded: int = 0
    failed_alike: int = 0
    failed_otherwise: int = 0
    discarded: int = 0
    running: int = 0
    waiting: int = 0
    unreleased: int = 0
    skipped: dict[str, int] = {}
    taken_over: int = 0
    undone: int = 0
    restored: int = 0
    gone: int = 0

    @property
    def moved(self) -> int:
        """How many were acted on, those that were returned since left out."""
        not_moved = self.unreleased + sum(self.skipped.values()) + self.undone
        return self.counted - not_moved

    @property
    def counted(self) -> int:
        """The sum of all parts: `total`, once the list is complete."""
        parts: list[int] = [getattr(self, name) for name in PARTS]
        return sum(self.skipped.values()) + sum(parts)


PARTS = tuple(name for name in Report.__struct_fields__ if name not in ("total", "skipped"))


class OperatedJob(msgspec.Struct, frozen=True):
    """A job of an operation. `became`: the part of the report that it is counted in."""

    id: str
    verdict: str
    became: str
    why: str | None


def make(database: Database, number: int, total: int) -> Report:
    """The report on an operation."""
    parts: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for became, why, count in ledger.outcomes.counts(database, number):
        if became == "skipped":
            skipped[why or "changed"] = skipped.get(why or "changed", 0) + count
        else:
            parts[became] = count
    return Report(total=total, skipped=dict(sorted(skipped.items())), **parts)


def jobs(database: Database, number: int) -> Iterator[OperatedJob]:
    """What became of each job, newest first."""
    for row in ledger.outcomes.became(database, number):
        yield OperatedJob(ids.to_text(row.job_id), row.verdict, row.became, row.why)
