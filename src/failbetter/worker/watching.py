"""Has a worker watch alerts: in a thread and with a connection of its own, as counts take time."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from failbetter.alerts import Watcher
from failbetter.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.ledger.database import Database
    from failbetter.lifecycle.alerting import Watched

_logger = logging.getLogger("failbetter.worker")

# Seconds between two looks whether an alert is due.
_LOOK = 10.0
# Seconds that the end of a look is waited for when the worker stops.
_LAST_WORDS = 1.0


class Watching:
    """`make`: makes a database to use beside the worker's own, and to close."""

    def __init__(self, make: Callable[[], Database], alerts: Sequence[Watched]) -> None:
        self._make = make
        self._alerts = alerts
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def know(self, alerts: Sequence[Watched]) -> None:
        """Learn what newer code watches: from the next look on."""
        self._alerts = alerts

    def tick(self, now: float) -> None:
        """Begin to look if it is time, and somebody wants to be told of something."""
        if not self._alerts or now < self._next or self._stop.is_set():
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._next = now + _LOOK
        # A daemon: a connection that hangs does not keep the worker from ending.
        self._thread = threading.Thread(target=self.work, name="alerts", daemon=True)
        self._thread.start()

    def work(self) -> None:
        """Look once at all that is due."""
        database = self._make()
        try:
            Watcher(database, self._alerts).tick()
        except LedgerError as error:
            _logger.warning("alerts could not be looked at: %s", error)
        except Exception:
            # A defect of ours; the worker's jobs are of more importance.
            _logger.exception("alerts could not be looked at")
        finally:
            database.close()

    def stop(self) -> None:
        """Begin no other look; waits for the end of one for a second at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_WORDS)
