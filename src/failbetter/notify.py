"""Tells the service manager how this process is: systemd's notification protocol.

One datagram to the socket that the manager names in the environment. Without that variable
nothing is told, and nothing else changes.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_logger = logging.getLogger("failbetter.notify")


class Notifier:
    """The way to the service manager, if there is one.

    The variables are taken out of the environment: they are not meant for child processes.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._path = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        self.interval: float | None = None
        """Seconds from one sign of life to the next: half of what the manager allows."""
        if self._path and usec.isdigit() and int(usec) and pid in ("", str(os.getpid())):
            self.interval = int(usec) / 2e6
        self._next = 0.0

    def ready(self, status: str) -> None:
        """The service does what it is there for."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self, now: float) -> None:
        """A sign of life, when one is due. `now`: monotonic seconds, of the loop that lives."""
        if self.interval is not None and now >= self._next:
            self._next = now + self.interval
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        path = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto("\n".join(lines).encode(), path)
        except OSError as error:
            # A manager that does not listen must not stop the work.
            _logger.debug("the service manager could not be told: %s", error)
