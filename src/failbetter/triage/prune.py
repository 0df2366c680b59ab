"""Deleting ended jobs because a person says so: those that match, with all that is kept of them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from failbetter import ledger
from failbetter.durations import Duration, micros, seconds
from failbetter.faultpoints import passing
from failbetter.lifecycle.states import ENDS
from failbetter.triage.export import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.pruning import Ended

_BATCH = 500
_WAITS = "its mirrored row is still to be written, or would follow an older job that is kept"
_MOVED = "it moved meanwhile"


class PruneReport(msgspec.Struct, frozen=True):
    """What pruning deleted, or with `dry_run` would delete: how many jobs, by their state.

    `kept`: of those that were meant and stay, how many for which reason.
    """

    pruned: dict[str, int]
    kept: dict[str, int]
    dry_run: bool = False

    @property
    def total(self) -> int:
        """How many jobs were deleted, or would be."""
        return sum(self.pruned.values())


def prune_matching(
    database: Database,
    filters: Filters,
    limit: int | None,
    *,
    older_than: Duration | None,
    dry_run: bool,
    export: str | os.PathLike[str] | None,
) -> PruneReport:
    """Delete the ended ones of the jobs that match; what ends while this runs is outside."""
    age = 0.0 if older_than is None else seconds(older_than)
    ended = ledger.filters.Filters(
        states=tuple(state.value for state in ENDS),
        until=database.now() - micros(age),
        also=filters,
    )
    if dry_run and limit is None:
        found, waiting = ledger.pruning.counts(database, ended)
        return PruneReport(found, {_WAITS: waiting} if waiting else {}, dry_run=True)
    record = None if export is None or dry_run else Record(database, export)
    pruned: dict[str, int] = {}
    kept: dict[str, int] = {}
    try:
        for batch in _batches(database, ended, limit):
            meant = [one for one, may_go in batch if may_go]
            _count(kept, _WAITS, len(batch) - len(meant))
            gone = meant if dry_run else _delete(database, record, meant)
            _count(kept, _MOVED, len(meant) - len(gone))
            for one in gone:
                _count(pruned, one.state, 1)
    finally:
        if record is not None:
            record.close()
    return PruneReport(pruned, kept, dry_run)


def _delete(database: Database, record: Record | None, meant: list[Ended]) -> list[Ended]:
    if not meant:
        return []
    if record is not None:
        numbers = tuple(one.id for one in meant)
        filters = ledger.filters.Filters(ids=numbers)
        for page in ledger.reads.pages(database, filters, size=_BATCH):
            record.add(page)
        passing("before_pruning")

    def delete(tx: Tx, batch: list[Ended]) -> list[Ended]:
        return ledger.pruning.delete_ended(tx, batch)

    return database.transact(partial(delete, batch=meant))


def _batches(
    database: Database, filters: Filters, limit: int | None
) -> Iterator[list[tuple[Ended, bool]]]:
    if limit is not None:
        for rows in ledger.reads.pages(database, filters, limit, _BATCH):
            chosen = ledger.filters.Filters(ids=tuple(row.id for row in rows), also=filters)
            yield from _batches(database, chosen, None)
        return
    after = 0
    while batch := ledger.pruning.page(database, filters, after, _BATCH):
        after = batch[-1][0].id
        yield batch


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number
