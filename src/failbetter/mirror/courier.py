"""Delivers what waits in the outbox: mirrored rows that could not be written with their job.

The bound: within 5 s of what happened to the job the row says so, while both databases are up and
some worker of the app lives; else within 5 s of the time from which they are again. What is
written is what the job is by then, so that to deliver twice, or to die in between, does no harm.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from failbetter import ids, ledger
from failbetter.errors import LedgerError
from failbetter.faultpoints import passing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from failbetter.ledger.database import Database
    from failbetter.ledger.elsewhere import Elsewhere
    from failbetter.ledger.mirrors import Seen
    from failbetter.ledger.outbox import Entry

_logger = logging.getLogger("failbetter.mirror")

# Rows a tick.
_BATCH = 100
# Seconds for which one courier keeps those of other workers from doing the same.
_TURN = 3.0
_NAME = "mirror"
# Seconds a tick waits for its turn to write to the ledger.
_PATIENCE = 1.0
# Seconds between two tries of one row, growing, and of one database that is out of reach.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_PROBE = 2.0
_STRANGER = "no mirror of the app that this worker runs is in that database"


class Report(msgspec.Struct):
    """What one tick did. `more`: there may be more to do at once."""

    delivered: int = 0
    failed: int = 0
    more: bool = False


class Courier:
    """Writes rows of the outbox. One for each process; only one of all at a time is at it.

    `urls`: the other databases, by what jobs' rows call them. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        urls: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._name = ids.take()
        self._clock = clock
        self._others: dict[str, Elsewhere] = {}
        self._down: dict[str, float] = {}
        """Databases that are out of reach: when to try them again (monotonic s)."""
        self._until = 0.0
        """Until when it has the turn (monotonic s); 0: it has not."""
        self.know(urls)

    def know(self, urls: Mapping[str, str]) -> None:
        """Learn of further databases, as of newer code."""
        for name, url in urls.items():
            if name not in self._others:
                self._others[name] = ledger.elsewhere.Elsewhere(url)

    def tick(self, now: float) -> Report:
        """Deliver some of what is due; `now` in monotonic seconds.

        Raises LedgerError; what was delivered stays so, and is delivered again.
        """
        report = Report()
        self._probe(now)
        with self._database.look() as tx:
            entries = ledger.outbox.due(tx, _BATCH)
        if not entries or not self._take_turn(now):
            return report
        elsewhere: dict[str, list[tuple[Entry, Seen]]] = {}
        for entry in entries:
            seen = self._deliver_here(entry, report)
            if seen is not None and seen.spec.database is not None:
                elsewhere.setdefault(seen.spec.database, []).append((entry, seen))
        for name, rows in elsewhere.items():
            self._deliver_there(name, rows, now, report)
        report.more = len(entries) == _BATCH
        return report

    def _take_turn(self, now: float) -> bool:
        with self._database.write(durable=False, timeout=_PATIENCE) as tx:
            mine = ledger.turns.take(tx, _NAME, self._name, _TURN)
        self._until = now + _TURN if mine else 0.0
        return mine

    def _deliver_here(self, entry: Entry, report: Report) -> Seen | None:
        """Write a row of the ledger's own database; what is to be written in another."""
        # One row a transaction: whoever moves a job is kept waiting for no other row than its own.
        with self._database.write(durable=False, timeout=_PATIENCE) as tx:
            seen = None
            if entry.mirror_key is not None:
                seen = ledger.mirrors.newest(tx, entry.mirror_key)
            if seen is not None and seen.spec.database is not None:
                return seen
            try:
                if seen is not None and entry.mirror_key is not None:
                    ledger.mirrors.write(tx, entry.mirror_key, seen)
            except ledger.kinds.Undone as error:
                ledger.outbox.failed(tx, [(entry, str(error), _pause(entry))])
                report.failed += 1
            else:
                ledger.outbox.delivered(tx, entry)
                report.delivered += 1
        return None

    def _deliver_there(
        self, name: str, rows: list[tuple[Entry, Seen]], now: float, report: Report
    ) -> None:
        try:
            answers = self._write_there(name, [seen for _, seen in rows], now)
        except ledger.elsewhere.Unreachable as error:
            answers = [str(error)] * len(rows)
        failures = []
        passing("before_delivered")
        with self._database.write(durable=False, timeout=_PATIENCE) as tx:
            for (entry, _), why in zip(rows, answers, strict=True):
                if why is not None:
                    failures.append((entry, why, _pause(entry)))
                elif ledger.outbox.delivered(tx, entry):
                    report.delivered += 1
                else:
                    # The job has moved, or another courier was at it as well: what we have
                    # written may be the older of the two.
                    ledger.outbox.put(tx, entry.job_id)
            ledger.outbox.failed(tx, failures)
        report.failed += len(failures)

    def _write_there(self, name: str, rows: list[Seen], now: float) -> list[str | None]:
        other = self._others.get(name)
        if other is None:
            return [_STRANGER] * len(rows)
        if name in self._down:
            raise ledger.elsewhere.Unreachable(f"{other.shown} is out of reach")
        try:
            return other.write(rows, lambda: self._clock() < self._until)
        except ledger.elsewhere.Unreachable as error:
            _logger.warning("mirrored rows must wait: %s", error)
            self._down[name] = now + _PROBE
            raise

    def _probe(self, now: float) -> None:
        """See whether what was out of reach is there again; then all that waits is due at once."""
        for name, at in list(self._down.items()):
            if now < at:
                continue
            try:
                self._others[name].reach()
            except ledger.elsewhere.Unreachable:
                self._down[name] = now + _PROBE
                continue
            _logger.info("%s is back; mirrored rows are written", self._others[name].shown)
            del self._down[name]
            while True:
                with self._database.write(durable=False, timeout=_PATIENCE) as tx:
                    if not ledger.outbox.hasten(tx, 1_000):
                        break

    def close(self) -> None:
        """Let another have the turn; close the connections to the other databases."""
        if self._until:
            write = self._database.write(durable=False, timeout=_PATIENCE)
            with contextlib.suppress(LedgerError), write as tx:
                ledger.turns.leave(tx, _NAME, self._name)
        for other in self._others.values():
            other.close()


def _pause(entry: Entry) -> float:
    return float(min(_FIRST_PAUSE * 2 ** min(entry.tries, 10), _LONGEST_PAUSE))
