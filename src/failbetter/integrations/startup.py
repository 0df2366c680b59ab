"""The one recovery of a serving process: in the background, begun by whoever needs it first."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from failbetter.durations import Duration, seconds
from failbetter.errors import FailbetterError
from failbetter.health import Finding, Status

if TYPE_CHECKING:
    from failbetter import App

_logger = logging.getLogger("failbetter.integrations")

TIMEOUT = 15.0
"""Seconds that a recovery in a serving process may take."""
SKIP_WINDOW = 300.0
"""Seconds: after somebody's recovery, those that start within are spared one of their own."""
# A recovery keeps to its timeout by itself. One that hangs nevertheless holds up nobody.
_GRACE = 5.0


class Startup:
    """The recovery of this process for one app. Thread-safe; begun anew in a forked process."""

    def __init__(self, app: App, timeout: float, skip_window: float) -> None:
        self._app = app
        self._timeout = timeout
        self._skip_window = skip_window
        self._lock = threading.Lock()
        self._pid = 0
        self._begun = 0.0
        self._future: Future[Finding] = Future()

    def begin(self) -> Future[Finding]:
        """Begin it unless this process has; what will have come of it. Never blocks or raises."""
        if self._pid == os.getpid():
            return self._future
        with self._lock:
            if self._pid != os.getpid():
                self._future = Future()
                self._future.set_running_or_notify_cancel()
                self._begun = time.monotonic()
                self._pid = os.getpid()
                self._start()
        return self._future

    def _start(self) -> None:
        try:
            # A daemon: what it has not done is left to the next one, also when a process ends.
            threading.Thread(target=self._run, name="failbetter-recovery", daemon=True).start()
        except RuntimeError as error:
            self._end("unavailable", f"no thread can be started for it: {error}")

    def _run(self) -> None:
        try:
            report = self._app.recover(timeout=self._timeout, skip_window=self._skip_window)
        except FailbetterError as error:
            self._end("unavailable", str(error))
        except Exception as error:
            _logger.exception("recovery at startup broke off")
            self._end("unavailable", f"it broke off: {type(error).__name__}")
        else:
            why = None if report.ok else "interrupted jobs may be left; a worker goes on with them"
            self._end(report.outcome, why)

    def _end(self, outcome: str, trouble: str | None) -> None:
        if trouble is None:
            _logger.info("recovery at startup: %s", outcome)
        else:
            _logger.warning("recovery at startup: %s: %s", outcome, trouble)
        status: Status = "pass" if trouble is None else "warn"
        self._future.set_result(Finding("startup_recovery", status, outcome, trouble))

    @property
    def elapsed(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        """Whether it has come to an end of whatever kind, or had all the time it may have."""
        return self.begin().done() or self.elapsed > self._timeout + _GRACE

    def finding(self) -> Finding:
        """How it stands."""
        future = self.begin()
        if future.done():
            return future.result()
        if self.over:
            text = f"it has not come back after {self.elapsed:.0f} s"
            return Finding("startup_recovery", "warn", "hangs", text)
        return Finding("startup_recovery", "pass", "running")


# An app lives as long as its process, so that nobody takes any out.
_startups: dict[int, tuple[App, Startup]] = {}
_startups_lock = threading.Lock()


def startup(app: App, timeout: Duration = TIMEOUT, skip_window: Duration = SKIP_WINDOW) -> Startup:
    """The app's recovery in this process; whoever asks first says how long it may take."""
    with _startups_lock:
        known = _startups.get(id(app))
        if known is None:
            made = Startup(app, seconds(timeout), seconds(skip_window))
            known = _startups[id(app)] = (app, made)
        return known[1]


def known_startup(app: App) -> Startup | None:
    """The app's recovery in this process, if anybody wants one."""
    known = _startups.get(id(app))
    return None if known is None else known[1]
