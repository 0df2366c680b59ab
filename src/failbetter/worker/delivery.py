"""A courier's life beside a supervisor: in a thread and with connections of its own.

So that a database of the user's that answers slowly, or not at all, keeps nobody waiting who has
children to look after.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from failbetter.errors import LedgerError
from failbetter.mirror.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.mirror")

# Seconds between two looks into the outbox; while the ledger is out of reach; and at the end.
_LOOK = 0.5
_TRY_AGAIN = 2.0
_LAST_WORDS = 3.0


class Delivery:
    """Runs a courier until told to stop. `database` is its own to use and to close."""

    def __init__(self, database: Database, urls: Mapping[str, str]) -> None:
        self._database = database
        self._courier = Courier(database, urls)
        self._stop = threading.Event()
        # A daemon: a connection that hangs does not keep the worker from ending.
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def know(self, urls: Mapping[str, str]) -> None:
        """Learn of further databases, as of newer code."""
        self._courier.know(urls)

    def stop(self) -> None:
        """Deliver once more what can be, and end; waits for that for a few seconds at most."""
        self._stop.set()
        self._thread.join(_LAST_WORDS)

    def _run(self) -> None:
        last = False
        while True:
            pause = self._tick()
            if last:
                break
            # After the word to stop once more: for what the worker wrote last.
            last = self._stop.wait(pause)
        self._courier.close()
        self._database.close()

    def _tick(self) -> float:
        """Deliver what is due; how long to wait then (s)."""
        limit = time.monotonic() + _LAST_WORDS
        try:
            while self._courier.tick(time.monotonic()).more and time.monotonic() < limit:
                pass
        except LedgerError as error:
            _logger.debug("the outbox cannot be looked into: %s", error)
            return _TRY_AGAIN
        except Exception:
            # A defect of ours; the worker's jobs are of more importance.
            _logger.exception("mirrored rows could not be delivered")
            return _TRY_AGAIN
        return _LOOK
