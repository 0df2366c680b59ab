"""Maintenance of operations: paced ones go on, those whose runner died are ended, old previews go.

Every worker does it each second, and `failbetter maintain`; of all hosts one at a time.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from failbetter import ids, ledger
from failbetter.errors import LedgerError
from failbetter.triage import steps

if TYPE_CHECKING:
    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.triage")

# Seconds for which one keeps the others from doing the same.
_DRIVING = 2.0
# Seconds after which it leaves the rest to the next tick: a supervisor has endings to write.
_AT_MOST = 0.05
# Seconds to wait for a turn to write: a supervisor must not stop watching its children.
_TURN = 0.5
_SOME = 20


class Driven(msgspec.Struct, frozen=True):
    """What a tick did: how many jobs it moved, and whether there is more to do at once."""

    moved: int = 0
    more: bool = False


class Driver:
    """Goes on with operations that are due. One for each process.

    `own`: the id of the worker that does it; None: it is none.
    """

    def __init__(self, database: Database, own: int | None = None) -> None:
        self._database = database
        self._name = own if own is not None else ids.take()
        self._going: list[int] = []

    def tick(self, now: float) -> Driven:
        """Make the steps that are due; `now` in monotonic seconds. Raises LedgerError."""
        if not self._going:
            with self._database.look() as tx:
                self._going = ledger.operations.due(tx, tx.now(), _SOME)
        if not self._going:
            return Driven()
        if not self._is_my_turn():
            self._going = []
            return Driven()
        limit = time.monotonic() + _AT_MOST
        moved = 0
        while self._going:
            stepped = self._step(self._going[0])
            moved += stepped.moved
            if not stepped.more:
                self._going.pop(0)
            if time.monotonic() >= limit:
                break
        if moved:
            self._database.wake()
        return Driven(moved, bool(self._going))

    def _step(self, number: int) -> steps.Stepped:
        try:
            return self._database.transact(partial(steps.step, number=number), timeout=_TURN)
        except LedgerError:
            raise
        except Exception:
            # A spoilt row or a defect of ours: no worker ends for it, and other operations go on.
            _logger.exception("operation %s could not go on", ids.to_text(number))
            return steps.Stepped()

    def _is_my_turn(self) -> bool:
        with self._database.write(durable=False, timeout=_TURN) as tx:
            return ledger.turns.take(tx, "operations", self._name, _DRIVING)
