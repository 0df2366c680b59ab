"""How recovery goes, as the ledger keeps it: the last one, the one at work, what sweeps did."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from failbetter.ledger import notes, registry, turns
from failbetter.recovery.deciding import Report, moment
from failbetter.recovery.report import RecoveryCounts, RecoveryStatus

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

T = TypeVar("T")

RECOVER = "recover"
"""The turn of whoever recovers."""
_LAST = "recovery"
_SWEEPS = "sweeps"
_WHO = "recovering"


class Last(msgspec.Struct, frozen=True):
    """The last recovery that was done. `at` in microseconds since the epoch."""

    at: int
    outcome: str
    by: str
    counts: RecoveryCounts


def counts(report: Report) -> RecoveryCounts:
    """What was done, as it is kept."""
    return RecoveryCounts(
        report.workers_gone, report.handed_back, report.ended, report.expired, report.refused
    )


def add_sweep(tx: Tx, report: Report) -> None:
    """Add what a sweep did to all that sweeps have done."""
    known = _read(notes.locked(tx, _SWEEPS), RecoveryCounts)
    own = counts(report)
    if known is not None:
        names = RecoveryCounts.__struct_fields__
        own = RecoveryCounts(*(getattr(known, name) + getattr(own, name) for name in names))
    notes.write(tx, _SWEEPS, msgspec.json.encode(own).decode())


def last(tx: Tx) -> Last | None:
    """The last recovery that was done."""
    return _read(notes.read(tx, _LAST), Last)


def write_last(tx: Tx, done: Last) -> None:
    """Write how a recovery went."""
    notes.write(tx, _LAST, msgspec.json.encode(done).decode())


def write_who(tx: Tx, number: int, name: str) -> None:
    """Write who has the turn to recover."""
    notes.write(tx, _WHO, msgspec.json.encode((number, name)).decode())


def who(tx: Tx, number: int) -> str:
    """The name of who has the turn to recover."""
    found = _read(notes.read(tx, _WHO), tuple[int, str])
    return found[1] if found is not None and found[0] == number else "another process"


def _read(text: str | None, kind: type[T]) -> T | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None  # a newer version's, or spoilt: as if there were none


def look(database: Database) -> RecoveryStatus:
    """Recovery as it stands. Raises LedgerError."""
    with database.look() as tx:
        now = tx.now()
        done = last(tx)
        swept_at = registry.last_sweep(tx)
        swept = _read(notes.read(tx, _SWEEPS), RecoveryCounts)
        holder = turns.holder(tx, RECOVER)
        busy = holder is not None and holder[1] > now
        by = who(tx, holder[0]) if busy and holder is not None else None
    if holder is not None and database.fleet.let_go(RECOVER, holder[0]):
        busy, by = False, None
    return RecoveryStatus(
        in_progress=busy,
        by=done.by if done is not None and not busy else by,
        last_at=None if done is None else moment(done.at),
        last_outcome=None if done is None else done.outcome,
        last=None if done is None else done.counts,
        swept_at=None if swept_at is None else moment(swept_at),
        swept=swept or RecoveryCounts(),
    )
