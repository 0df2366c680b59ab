"""The endpoints of `failbetter.health.pages` on a worker's own port: the standard library's server.

In threads of its own, with a connection of its own, so that neither a slow reader nor a ledger
that hangs keeps the supervisor from its children.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from failbetter.health import pages
from failbetter.health.looker import Looker, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.health")

_NOT_KNOWN = Seen(None, "the app is being loaded: which ledger is its is not known yet")


class Endpoint:
    """Serves until the process ends, or until told to stop. Raises OSError for the address."""

    def __init__(self, host: str, port: int, process: pages.Process) -> None:
        self.process = process
        self._looker: Looker | None = None
        self._server = _Server(host, port, self)
        shown, self.port = self._server.server_address[:2]
        _logger.info("health on http://%s:%d%s", _bracketed(str(shown)), self.port, pages.HEALTH)
        threading.Thread(
            target=self._server.serve_forever, name="failbetter-http", daemon=True
        ).start()

    def know(self, database: Database) -> None:
        """The ledger to look at."""
        self._looker = Looker(database)

    def answer(self, method: str, path: str) -> pages.Response:
        """As the server's threads ask."""
        try:
            return self._answer(method, path)
        except Exception:
            _logger.exception("%s could not be answered", path)
            text = "a defect of failbetter; the worker's log has it"
            return pages.problem(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _answer(self, method: str, path: str) -> pages.Response:
        seen = None
        if pages.needs_ledger(method, path):
            seen = _NOT_KNOWN if self._looker is None else self._looker.see()
        return pages.answer(method, path, self.process, seen)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, endpoint: Endpoint) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.endpoint = endpoint
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("a request from %s broke off", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    # Seconds: who connects and says nothing does not hold a thread for long.
    timeout = 5.0

    def _answer(self) -> None:
        response = self.server.endpoint.answer(self.command, self.path.partition("?")[0])
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Whatever the method, the pages say what is to be said of it.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def version_string(self) -> str:
        return "failbetter"

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug(format, *args)
