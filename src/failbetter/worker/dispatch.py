"""Sends jobs' ids to the engine: what is due and was not sent, and what was lost on its way.

Whoever enqueues sends at once; all the rest is sent from here, by whoever maintains the ledger:
what waited for its time, for a retry, for a hold or a limit, what was made in a caller's own
transaction, and what could not be sent because the engine was out of reach.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from failbetter.errors import EngineUnavailable
from failbetter.faultpoints import passing
from failbetter.ledger import sending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.engine import Engine, Ticket
    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.worker")

BATCH = 500
# Batches sent in one round: whoever maintains must see to its other duties in between.
_BATCHES = 4
# Batches in which what was lost is looked for.
_LOOKED_THROUGH = 20
LOST_AFTER = 10.0
"""Seconds after which it is asked whether an id that was sent is still on its way."""
_LOOK_FOR_LOST = 5.0
# While the engine is out of reach: the first and the longest pause between two tries (s).
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
# A look costs the more, the more jobs wait: at most a tenth of the time is spent on it.
_SHARE = 10.0


class Report(msgspec.Struct):
    """What one round did. `more`: there is more to do at once."""

    sent: int = 0
    again: int = 0
    more: bool = False


class Dispatcher:
    """Sends what is to be sent, round by round. For one process of a ledger; a second one does no
    harm."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        self._failures = 0
        self._not_before = 0.0
        self._next_look = 0.0
        self._after = 0

    def tick(self, now: float) -> Report:
        """Send what is due. `now` in monotonic seconds. Raises LedgerError, and OSError from the
        fleet folder."""
        report = Report()
        if now < self._not_before:
            return report
        began = time.monotonic()
        try:
            self._send_due(report)
            if now >= self._next_look:
                self._send_lost(report)
                self._next_look = now + _LOOK_FOR_LOST
        except EngineUnavailable as error:
            self._put_off(error, now)
        else:
            if self._failures:
                _logger.warning("the engine is back; what waited for it is sent")
            self._failures = 0
            if not report.more:
                self._not_before = now + _SHARE * (time.monotonic() - began)
        return report

    def _send_due(self, report: Report) -> None:
        for _ in range(_BATCHES):
            with self._database.look() as tx:
                now = tx.now()
                found = sending.due(tx, now, BATCH)
                in_lines = sending.due_in_lines(tx, now, now - round(LOST_AFTER * 1e6), BATCH)
            self._send([*found, *in_lines])
            report.sent += len(found) + len(in_lines)
            report.more = len(found) == BATCH
            if not report.more:
                return

    def _send_lost(self, report: Report) -> None:
        """Look through some of what was sent a while ago, from where the last look ended."""
        for _ in range(_LOOKED_THROUGH):
            with self._database.look() as tx:
                before = tx.now() - round(LOST_AFTER * 1e6)
                batch = sending.sent_before(tx, before, self._after, BATCH)
            missing = self._engine.missing(batch) if batch else []
            if missing:
                _logger.warning("%d ids were lost on their way; sending them again", len(missing))
                self._send(missing)
                report.again += len(missing)
            if len(batch) < BATCH:
                self._after = 0
                return
            self._after = batch[-1].id

    def _send(self, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        self._engine.send(tickets)
        passing("after_send")
        with self._database.write(durable=False) as tx:
            sending.mark_sent(tx, tickets, tx.now())

    def _put_off(self, error: EngineUnavailable, now: float) -> None:
        self._failures += 1
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
        self._not_before = now + pause
        if self._failures in (1, 10) or self._failures % 100 == 0:
            _logger.error("%s. What is due waits in the ledger and is sent when it is back", error)
