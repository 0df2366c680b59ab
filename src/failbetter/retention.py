"""How long jobs that have ended are kept, and the deletion of what is past that, in batches.

Whatever deletes takes one turn, over all hosts, and small batches, so that nobody waits long for
a lock. A batch is one transaction: a job goes with all that is kept of it, or stays.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from failbetter import ledger
from failbetter.durations import Duration, micros, seconds, to_datetime
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from datetime import datetime

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

FOREVER = "forever"
SHORTEST = 60.0
"""Seconds below which no app keeps what has ended: somebody may just be looking at it."""
_TURN = "prune"
# Seconds for which a batch keeps the others of all hosts from doing the same.
_TAKEN = 10.0
_NOTE = "retention"
_FIRST, _MOST = 100, 1_000
# A batch that took longer (s) is followed by a smaller one, one that took a third by a larger one.
_LONG = 0.05
# After so long (s), what was passed by is looked at again: rows that were not delivered yet.
_AFRESH = 3600.0


class Keep(msgspec.Struct, frozen=True):
    """How many seconds jobs are kept after their end; None: for ever."""

    succeeded: float | None = 7 * 86400.0
    discarded: float | None = 30 * 86400.0
    failed: float | None = 90 * 86400.0

    def seconds_by_state(self) -> dict[str, float]:
        """Of those that are not kept for ever. What comes in great number is last."""
        every = {
            State.FAILED: self.failed,
            State.DISCARDED: self.discarded,
            State.SUCCEEDED: self.succeeded,
        }
        return {state.value: kept for state, kept in every.items() if kept is not None}

    def by_state(self) -> dict[str, int]:
        """The same in microseconds."""
        return {state: micros(kept) for state, kept in self.seconds_by_state().items()}


def keep_for(value: Duration | None) -> float | None:
    """How long to keep, in seconds, as an app is told. Raises TypeError or ValueError."""
    if value is None or (isinstance(value, str) and value.strip().lower() == FOREVER):
        return None
    kept = seconds(value)
    if kept < SHORTEST:
        raise ValueError(f"ended jobs are kept for {SHORTEST:g} s at least, not {value!r}")
    return kept


class Pruned(msgspec.Struct, frozen=True):
    """What pruning has done since there is this ledger. `at` None: nothing yet."""

    at: datetime | None = None
    succeeded: int = 0
    discarded: int = 0
    failed: int = 0
    behind: dict[str, float] = {}
    """By state, how many seconds past its time the oldest job is that should be gone."""


class _Note(msgspec.Struct):
    """As the ledger keeps it. Times in microseconds. `reached`: by state, up to which end all is
    deleted that may be."""

    keep: dict[str, int]
    reached: dict[str, int] = {}
    looked_at: int = 0
    at: int | None = None
    counts: dict[str, int] = {}


def look(tx: Tx, now: int) -> Pruned | None:
    """What pruning has done, and how far it is behind; None where nothing had to be done yet."""
    note = _read(ledger.notes.read(tx, _NOTE))
    if note is None:
        return None
    behind = {}
    for state, kept in note.keep.items():
        first = ledger.pruning.oldest(tx, state, note.reached.get(state, 0))
        if first is not None and first < now - kept:
            behind[state] = (now - kept - first) / 1e6
    return Pruned(to_datetime(note.at), **note.counts, behind=behind)


def is_due(tx: Tx, keep: Keep, name: int) -> bool:
    """Whether there is something to delete, or to note, for one who has the turn or could."""
    now = tx.now()
    holder = ledger.turns.holder(tx, _TURN)
    if holder is not None and holder[0] != name and holder[1] > now:
        return False
    note = _read(ledger.notes.read(tx, _NOTE))
    times = keep.by_state()
    if note is not None and note.keep != times:
        return True
    afresh = note is None or now - note.looked_at > micros(_AFRESH)
    reached = {} if afresh or note is None else note.reached
    for state, kept in times.items():
        first = ledger.pruning.oldest(tx, state, reached.get(state, 0))
        if first is not None and first < now - kept:
            return True
    return False


class Pruner:
    """Deletes what is past its time, a batch at a time.

    `name`: whose turn it is to be; None: the turn is not waited for, as when a person asks.
    """

    def __init__(self, database: Database, keep: Keep, name: int | None) -> None:
        self._database = database
        self._times = keep.by_state()
        self._name = name
        self._reached: dict[str, int] = {}
        self._afresh = time.monotonic() + _AFRESH
        self._size = _FIRST

    def step(self) -> dict[str, int] | None:
        """Delete one batch; how many of which state: none when there is nothing more.

        None: another has the turn. Raises LedgerError.
        """
        if time.monotonic() > self._afresh:
            self._reached.clear()
            self._afresh = time.monotonic() + _AFRESH
        begun = time.monotonic()
        with self._database.look() as tx:
            found = self._find(tx)
        with self._database.write(durable=False) as tx:
            if self._name is not None and not ledger.turns.take(tx, _TURN, self._name, _TAKEN):
                return None
            gone = ledger.pruning.delete_ended(tx, found)
            if found:
                self._reached[found[0].state] = found[-1].ended_at
            counts = {found[0].state: len(gone)} if gone else {}
            self._note(tx, counts)
        self._adapt(time.monotonic() - begun)
        return counts

    def _find(self, tx: Tx) -> list[ledger.pruning.Ended]:
        now = tx.now()
        for state, kept in self._times.items():
            after = self._reached.get(state, 0)
            found = ledger.pruning.due(tx, state, after, now - kept, self._size)
            if found:
                return found
            self._reached[state] = max(after, now - kept)
        return []

    def _adapt(self, took: float) -> None:
        if took > _LONG:
            self._size = max(self._size // 2, 1)
        elif took < _LONG / 3:
            self._size = min(self._size * 2, _MOST)

    def _note(self, tx: Tx, counts: dict[str, int]) -> None:
        note = _read(ledger.notes.locked(tx, _NOTE))
        if note is None:
            if not counts:
                return
            note = _Note({})
        note.keep, note.reached, note.looked_at = self._times, dict(self._reached), tx.now()
        for state, number in counts.items():
            note.at = note.looked_at
            note.counts[state] = note.counts.get(state, 0) + number
        ledger.notes.write(tx, _NOTE, msgspec.json.encode(note).decode())

    def leave(self) -> None:
        """Let another have the turn at once. Raises LedgerError."""
        if self._name is not None:
            with self._database.write(durable=False) as tx:
                ledger.turns.leave(tx, _TURN, self._name)


def _read(text: str | None) -> _Note | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Note)
    except msgspec.MsgspecError:
        return None  # a newer version's, or spoilt: as if there were none
