"""Looks at a ledger for whoever must answer soon, also when the ledger does not."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from failbetter.errors import FailbetterError
from failbetter.health.figures import look

if TYPE_CHECKING:
    from failbetter.health.figures import Figures
    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.health")

PATIENCE = 2.0
"""Seconds that a look may take before the ledger counts as out of reach."""


class Seen:
    """What a look has found: the figures, or why there are none."""

    def __init__(self, figures: Figures | None, why: str = "") -> None:
        self.figures = figures
        self.why = why


TOO_LATE = Seen(None, f"the ledger did not answer within {PATIENCE:g} s")


class Looker:
    """One look at a time, in a thread; who asks meanwhile is given the same.

    So a ledger that hangs holds one thread, however often it is asked for. `database` is the
    looker's own: neither does it wait for another user of its connection, nor they for it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._current: tuple[Future[Seen], float] | None = None
        self._pid = os.getpid()
        self._known = False

    def begin(self) -> Future[Seen]:
        """What the look under way will have found; begins one if there is none.

        One that has taken too long already is answered with at once: see TOO_LATE.
        """
        with self._lock:
            if self._pid != os.getpid():
                # Forked while the parent's thread was looking, which is not here.
                self._pid, self._current = os.getpid(), None
            if self._current is not None and not self._current[0].done():
                future, since = self._current
                return future if time.monotonic() - since < PATIENCE else _done(TOO_LATE)
            future = Future()
            # Whoever waits for it and gives up leaves it to the others.
            future.set_running_or_notify_cancel()
            self._current = (future, time.monotonic())
        try:
            # A daemon: a connection that hangs keeps no process from ending.
            threading.Thread(
                target=self._look, args=(future,), name="failbetter-health", daemon=True
            ).start()
        except RuntimeError as error:
            future.set_result(Seen(None, f"no thread can be started to ask the ledger: {error}"))
        return future

    def see(self) -> Seen:
        """Look, for at most PATIENCE."""
        try:
            return self.begin().result(PATIENCE)
        except TimeoutError:
            return TOO_LATE

    def _look(self, future: Future[Seen]) -> None:
        try:
            seen = Seen(look(self._database))
            if not self._known:
                # The schema was read by a connection that is not needed again.
                self._database.let_go_of_reads()
                self._known = True
        except FailbetterError as error:
            seen = Seen(None, str(error))
        except Exception as error:
            _logger.exception("the ledger could not be looked at")
            seen = Seen(None, f"the ledger could not be looked at: {type(error).__name__}")
        future.set_result(seen)


def _done(seen: Seen) -> Future[Seen]:
    future: Future[Seen] = Future()
    future.set_result(seen)
    return future
