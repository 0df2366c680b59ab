"""For WSGI applications, such as Flask's and Django's.

`HealthApp` serves the endpoints, `RecoveryMiddleware` and `start_background` see to the recovery
at startup. None of them makes a request wait for the ledger unless it was asked to.
"""

from __future__ import annotations

import atexit
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

from failbetter.durations import Duration, seconds
from failbetter.health import pages
from failbetter.integrations import background
from failbetter.integrations.background import Background
from failbetter.integrations.endpoints import Endpoints
from failbetter.integrations.startup import SKIP_WINDOW, TIMEOUT, startup

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from failbetter import App

__all__ = ["Background", "HealthApp", "RecoveryMiddleware", "start_background"]


class HealthApp:
    """`/livez`, `/readyz`, `/health` and `/metrics`, to mount or to put around an application.

    `inner`: where every other request goes; without it they are answered with 404. `prefix`: what
    stands before the four paths, such as "/internal". A ledger that does not answer within 2 s
    counts as out of reach.
    """

    def __init__(self, app: App, inner: WSGIApplication | None = None, *, prefix: str = "") -> None:
        self._endpoints = Endpoints(app, prefix)
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI calls an application."""
        path = environ.get("PATH_INFO", "")
        if self._inner is not None and not self._endpoints.is_page(path):
            return self._inner(environ, start_response)
        method, page = environ["REQUEST_METHOD"], self._endpoints.page(path)
        seen = self._endpoints.looker.see() if pages.needs_ledger(method, page) else None
        response = pages.answer(method, page, self._endpoints.site, seen)
        status = HTTPStatus(response.status)
        start_response(f"{status.value} {status.phrase}", response.headers)
        return [] if method == "HEAD" else [response.body]


class RecoveryMiddleware:
    """Begins one recovery in the background with the first request.

    At most one a process, whatever else asks for it. `timeout`: how long it may take.
    `skip_window`: it is not done when somebody did one so recently. `wait`: how long after its
    beginning requests may wait for its end; they do not by default.
    """

    def __init__(
        self,
        inner: WSGIApplication,
        app: App,
        *,
        timeout: Duration = TIMEOUT,
        skip_window: Duration = SKIP_WINDOW,
        wait: Duration = 0,
    ) -> None:
        self._inner = inner
        self._startup = startup(app, timeout, skip_window)
        self._wait = seconds(wait)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI calls an application."""
        recovery = self._startup.begin()
        if self._wait and not recovery.done():
            with contextlib.suppress(TimeoutError):
                recovery.result(max(self._wait - self._startup.elapsed, 0))
        return self._inner(environ, start_response)


def start_background(
    app: App,
    *,
    recover: bool = True,
    worker: bool | str = False,
    processes: int = 1,
    timeout: Duration = TIMEOUT,
    skip_window: Duration = SKIP_WINDOW,
    shutdown_timeout: Duration = 25,
) -> Background:
    """Begin the recovery at startup, and a worker if one is wanted; call it once a process.

    The parameters are those of `failbetter.integrations.asgi.lifespan`. The worker is stopped by
    `stop()` of what this returns, or when the interpreter ends; a process that is killed is
    noticed by its worker, which then stops by itself.

    Raises ConfigurationError when the app's module cannot be found out.
    """
    running = background.start(
        app,
        recover=recover,
        worker=worker,
        processes=processes,
        timeout=timeout,
        skip_window=skip_window,
        shutdown_timeout=shutdown_timeout,
    )
    atexit.register(running.stop)
    return running
