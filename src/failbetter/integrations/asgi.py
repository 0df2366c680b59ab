"""For ASGI applications, such as FastAPI's and Starlette's; on asyncio.

`HealthApp` serves the endpoints, `RecoveryMiddleware` and `lifespan` see to the recovery at
startup. None of them makes a request wait for the ledger unless it was asked to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from failbetter.durations import Duration, seconds
from failbetter.health import pages
from failbetter.health.looker import PATIENCE, TOO_LATE
from failbetter.integrations import background
from failbetter.integrations.endpoints import Endpoints
from failbetter.integrations.startup import SKIP_WINDOW, TIMEOUT, startup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from failbetter import App
    from failbetter.health.looker import Seen

__all__ = ["HealthApp", "RecoveryMiddleware", "lifespan"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class HealthApp:
    """`/livez`, `/readyz`, `/health` and `/metrics`, to mount or to put around an application.

    `inner`: where every other request goes; without it they are answered with 404. `prefix`: what
    stands before the four paths, such as "/internal".

    A look at the ledger takes a thread and a connection of its own, never the event loop; after
    2 s without an answer the ledger counts as out of reach.
    """

    def __init__(self, app: App, inner: ASGIApp | None = None, *, prefix: str = "") -> None:
        self._endpoints = Endpoints(app, prefix)
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        http = scope["type"] == "http"
        path = _path(scope) if http else ""
        if self._inner is not None and not (http and self._endpoints.is_page(path)):
            await self._inner(scope, receive, send)
        elif http:
            await self._answer(scope["method"], self._endpoints.page(path), send)
        elif scope["type"] == "lifespan":
            await _nothing_to_start(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, method: str, page: str, send: Send) -> None:
        seen = await self._look() if pages.needs_ledger(method, page) else None
        response = pages.answer(method, page, self._endpoints.site, seen)
        headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = b"" if method == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    async def _look(self) -> Seen:
        look = asyncio.wrap_future(self._endpoints.looker.begin())
        try:
            return await asyncio.wait_for(look, PATIENCE)
        except TimeoutError:
            return TOO_LATE


def _path(scope: Scope) -> str:
    """The path below where the application is mounted; servers differ in what `path` holds."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    below = path.removeprefix(root)
    return below if root and below.startswith("/") else path


async def _nothing_to_start(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class RecoveryMiddleware:
    """Begins one recovery in the background: at the server's startup, or with the first request.

    At most one a process, whatever else asks for it. `timeout`: how long it may take.
    `skip_window`: it is not done when somebody did one so recently. `wait`: how long after its
    beginning requests may wait for its end; they do not by default.
    """

    def __init__(
        self,
        inner: ASGIApp,
        app: App,
        *,
        timeout: Duration = TIMEOUT,
        skip_window: Duration = SKIP_WINDOW,
        wait: Duration = 0,
    ) -> None:
        self._inner = inner
        self._startup = startup(app, timeout, skip_window)
        self._wait = seconds(wait)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        recovery = self._startup.begin()
        if self._wait and not recovery.done() and scope["type"] != "lifespan":
            left = max(self._wait - self._startup.elapsed, 0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(recovery), left)
        await self._inner(scope, receive, send)


def lifespan(
    app: App,
    *,
    recover: bool = True,
    worker: bool | str = False,
    processes: int = 1,
    timeout: Duration = TIMEOUT,
    skip_window: Duration = SKIP_WINDOW,
    shutdown_timeout: Duration = 25,
) -> Callable[[object], contextlib.AbstractAsyncContextManager[None]]:
    """A lifespan for FastAPI and Starlette: `FastAPI(lifespan=lifespan(app))`.

    `recover`: begin one recovery in the background, of at most `timeout`, unless somebody did one
    within `skip_window`. `worker`: for small sites, a worker of each serving process, started and
    stopped with it and started again when it dies: True, or "MODULE:APP" where that cannot be
    found out. `processes`: the worker's children. `shutdown_timeout`: how long its running bodies
    may take to finish when the site stops; then they are interrupted and handed back.

    Raises ConfigurationError when the app's module cannot be found out.
    """

    @contextlib.asynccontextmanager
    async def context(_site: object) -> AsyncIterator[None]:
        running = background.start(
            app,
            recover=recover,
            worker=worker,
            processes=processes,
            timeout=timeout,
            skip_window=skip_window,
            shutdown_timeout=shutdown_timeout,
        )
        try:
            yield
        finally:
            await asyncio.to_thread(running.stop)

    return context
