"""Has a worker delete what is past its time: in a thread and with a connection of its own.

So that nobody waits for it who has children to look after. There is neither while there is
nothing to delete.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from failbetter import ids, retention
from failbetter.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.worker")

# Seconds between two looks whether something is past its time.
_LOOK = 10.0
# Of the time that a batch took, so much is waited before the next: a fifth of the time it deletes.
_PAUSES = 4.0
# Seconds that the end of a batch is waited for when the worker stops.
_LAST_WORDS = 3.0


class Keeping:
    """`make`: makes a database to use beside the worker's own, and to close."""

    def __init__(self, make: Callable[[], Database], keep: retention.Keep) -> None:
        self._make = make
        self._keep = keep
        self._name = ids.take()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def know(self, keep: retention.Keep) -> None:
        """Learn how long newer code wants jobs to be kept: from the next round on."""
        self._keep = keep

    def tick(self, database: Database, now: float) -> None:
        """Look whether there is something to do, and begin with it. Raises LedgerError."""
        if now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = now + _LOOK
        with database.look() as tx:
            due = retention.is_due(tx, self._keep, self._name)
        if due:
            # A daemon: a connection that hangs does not keep the worker from ending.
            self._thread = threading.Thread(target=self.work, name="retention", daemon=True)
            self._thread.start()

    def halt(self) -> None:
        """Begin no other batch."""
        self._stop.set()

    def stop(self) -> None:
        """As `halt`; waits for the end of a batch for a few seconds at most."""
        self.halt()
        if self._thread is not None:
            self._thread.join(_LAST_WORDS)

    def work(self) -> None:
        """Delete until there is nothing more past its time, or it is to stop."""
        database = self._make()
        try:
            pruner = retention.Pruner(database, self._keep, self._name)
            total = self._prune(pruner)
            pruner.leave()
        except LedgerError as error:
            _logger.warning("what is past its time could not be deleted: %s", error)
        except Exception:
            # A defect of ours; the worker's jobs are of more importance.
            _logger.exception("what is past its time could not be deleted")
        else:
            if total:
                _logger.info("deleted %d jobs that were past their time", total)
        finally:
            database.close()

    def _prune(self, pruner: retention.Pruner) -> int:
        total = 0
        while not self._stop.is_set():
            begun = time.monotonic()
            gone = pruner.step()
            if not gone:
                break
            total += sum(gone.values())
            self._stop.wait(_PAUSES * (time.monotonic() - begun))
        return total
