"""What a worker says of itself while it runs: its pulse, the service manager, the endpoints.

The pulse is set by the supervisor's loop and by nothing else, so that what is told to live is
what does the work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from failbetter.notify import Notifier

if TYPE_CHECKING:
    from failbetter.health.findings import Finding
    from failbetter.ledger.database import Database
    from failbetter.worker.endpoint import Endpoint
    from failbetter.worker.settings import Settings

# Seconds without a turn of the loop after which it hangs. A turn may wait some 15 s for a server
# that does not answer, and that must not look the same.
_STALE = 30.0
# Before the loop begins the app is loaded and the ledger opened, which may be made or locked.
_STALE_AT_START = 60.0


class Pulse:
    """Whether the loop turns, and whether it can run jobs."""

    def __init__(self) -> None:
        self._turned = time.monotonic()
        self._allowed = _STALE_AT_START
        self._doing: str | None = "the app is being loaded"

    def turn(self, now: float, not_ready: str | None, *, working: bool) -> None:
        """The loop has come round. `not_ready`: why it can run no job, if so."""
        self._turned = now
        self._allowed = _STALE if working else _STALE_AT_START
        self._doing = not_ready

    def not_alive(self) -> str | None:
        """As `Process.not_alive`."""
        silent = time.monotonic() - self._turned
        if silent <= self._allowed:
            return None
        return f"the worker's loop has not come round for {silent:.0f} s"

    def not_ready(self) -> str | None:
        """As `Process.not_ready`."""
        return self.not_alive() or self._doing

    def findings(self) -> list[Finding]:
        """As `Process.findings`: the ledger's figures say it all."""
        return []


class Status:
    """A supervisor's word to the outside. Made before anything else is done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._notifier = Notifier()
        self._pulse = Pulse()
        self._endpoint: Endpoint | None = None
        self._told: str | None = ""

    def open(self) -> None:
        """Serve the endpoints, if that is wanted. Raises OSError when the address is not free."""
        if self._settings.health_port is None:
            return
        # Only who wants it pays for an HTTP server.
        from failbetter.worker.endpoint import Endpoint

        self._endpoint = Endpoint(
            self._settings.health_host, self._settings.health_port, self._pulse
        )

    def know(self, database: Database) -> None:
        """The ledger to look at; a database of its own to use."""
        if self._endpoint is not None:
            self._endpoint.know(database)

    def starting(self) -> None:
        """The loop that waits for the app has come round."""
        self._pulse.turn(time.monotonic(), "the app is being loaded", working=False)

    def turn(self, now: float, *, registered: bool, children: bool, stopping: bool) -> None:
        """The supervisor's loop has come round."""
        if stopping:
            not_ready: str | None = "the worker is stopping"
        elif not registered:
            not_ready = "the worker was declared lost and has not registered again yet"
        else:
            not_ready = None if children else "no child process has loaded the app yet"
        self._pulse.turn(now, not_ready, working=True)
        self._notifier.alive(now)
        if not_ready != self._told:
            self._told = not_ready
            self._tell(not_ready, stopping)

    def _tell(self, not_ready: str | None, stopping: bool) -> None:
        if stopping:
            self._notifier.stopping("stopping: no new jobs, those that run may finish")
        elif not_ready is None:
            queues = ", ".join(self._settings.queues) or "all"
            self._notifier.ready(f"running jobs of queues: {queues}")
        else:
            self._notifier.status(not_ready)
