"""The recovery of a serving process: one, in the background, and nobody waits longer than said."""

from __future__ import annotations

import asyncio
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import failbetter
from failbetter.errors import LedgerUnavailable
from failbetter.integrations import asgi, background, embedded, wsgi
from failbetter.integrations.endpoints import Site
from failbetter.integrations.startup import Startup, known_startup, startup

PATIENCE = 30.0


class FakeApp:
    """Recovers when its gate is opened; counts how often it was asked to."""

    def __init__(self, outcome: str = "recovered", error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.calls: list[dict[str, Any]] = []
        self.outcome = outcome
        self.error = error
        self.tasks: dict[str, Any] = {}

    def recover(self, **given: Any) -> Any:
        self.calls.append(given)
        self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        ok = self.outcome in ("recovered", "nothing", "skipped")
        return SimpleNamespace(outcome=self.outcome, ok=ok)


def ended(app: FakeApp) -> failbetter.Finding:
    app.gate.set()
    return startup(app).begin().result(PATIENCE)


def call_wsgi(application: Any) -> None:
    application({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)


def wsgi_site(*_: Any) -> list[bytes]:
    return [b"served"]


async def asgi_site(*_: Any) -> None:
    pass


def test_there_is_one_recovery_however_many_ask_for_it() -> None:
    app = FakeApp()
    middleware = wsgi.RecoveryMiddleware(wsgi_site, app, timeout="7s", skip_window=60)
    again = wsgi.RecoveryMiddleware(wsgi_site, app)
    assert app.calls == []  # not before it is needed: the process may be forked still
    threads = [threading.Thread(target=call_wsgi, args=(each,)) for each in [middleware, again] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    background.start(app)  # type: ignore[arg-type]
    assert ended(app).observed == "recovered"
    call_wsgi(middleware)
    assert app.calls == [{"timeout": 7.0, "skip_window": 60.0}]


def test_requests_do_not_wait_for_it() -> None:
    app = FakeApp()
    served = wsgi.RecoveryMiddleware(wsgi_site, app)({}, lambda *_: None)  # type: ignore[arg-type]
    assert list(served) == [b"served"]
    assert not startup(app).begin().done()
    app.gate.set()


def test_requests_wait_no_longer_than_they_were_told_to() -> None:
    app = FakeApp()
    middleware = wsgi.RecoveryMiddleware(wsgi_site, app, wait=0.2)
    began = time.monotonic()
    call_wsgi(middleware)
    assert 0.2 <= time.monotonic() - began < PATIENCE / 2
    # It is the recovery's beginning that counts: those who come later need not wait again.
    began = time.monotonic()
    for _ in range(20):
        call_wsgi(middleware)
    assert time.monotonic() - began < 20 * 0.2
    app.gate.set()


def test_a_request_that_waits_goes_on_when_it_is_over() -> None:
    app = FakeApp()
    threading.Timer(0.05, app.gate.set).start()
    began = time.monotonic()
    call_wsgi(wsgi.RecoveryMiddleware(wsgi_site, app, wait=PATIENCE))
    assert time.monotonic() - began < PATIENCE / 2
    assert startup(app).begin().done()


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_an_event_loop_goes_on_meanwhile(wait: float) -> None:
    app = FakeApp()
    middleware = asgi.RecoveryMiddleware(asgi_site, app, wait=wait)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async def main() -> float:
        counting = asyncio.create_task(count())
        began = time.monotonic()
        scope: dict[str, Any] = {"type": "http", "path": "/"}
        await asyncio.gather(*(middleware(scope, None, None) for _ in range(10)))  # type: ignore[arg-type]
        counting.cancel()
        return time.monotonic() - began

    assert wait <= asyncio.run(main()) < PATIENCE / 2
    assert len(app.calls) == 1
    assert turns >= wait / 0.05
    app.gate.set()


def test_a_servers_startup_begins_it_and_waits_for_nothing() -> None:
    app = FakeApp()
    middleware = asgi.RecoveryMiddleware(asgi_site, app, wait=PATIENCE)
    asyncio.run(middleware({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert known_startup(app) is not None
    assert ended(app).status == "pass"
    assert len(app.calls) == 1


def test_the_lifespan_begins_it() -> None:
    app = FakeApp("partial")

    async def main() -> None:
        async with asgi.lifespan(app)(None):  # type: ignore[arg-type]
            assert not startup(app).begin().done()

    asyncio.run(main())
    assert (ended(app).status, ended(app).observed) == ("warn", "partial")


def test_a_lifespan_without_recovery() -> None:
    app = FakeApp()

    async def main() -> None:
        async with asgi.lifespan(app, recover=False)(None):  # type: ignore[arg-type]
            pass

    asyncio.run(main())
    assert known_startup(app) is None
    site = Site(app)  # type: ignore[arg-type]
    assert (site.not_ready(), site.findings()) == (None, [])


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (LedgerUnavailable("out of reach"), "out of reach"),
        (RuntimeError("secret"), "it broke off: RuntimeError"),
    ],
)
def test_a_recovery_that_fails_is_told_and_stops_nothing(error: Exception, output: str) -> None:
    app = FakeApp(error=error)
    found = ended(app)
    assert (found.status, found.observed, found.output) == ("warn", "unavailable", output)
    call_wsgi(wsgi.RecoveryMiddleware(wsgi_site, app))
    assert len(app.calls) == 1


def test_ready_when_it_is_over_which_the_probe_itself_begins() -> None:
    app = FakeApp("timed_out")
    wsgi.RecoveryMiddleware(wsgi_site, app)
    site = Site(app)  # type: ignore[arg-type]
    assert "under way" in str(site.not_ready())
    assert [finding.observed for finding in site.findings()] == ["running"]
    ended(app)
    assert site.not_ready() is None
    assert [finding.status for finding in site.findings()] == ["warn"]


def test_a_recovery_that_hangs_does_not_keep_a_site_from_being_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("failbetter.integrations.startup._GRACE", 0.0)
    app = FakeApp()
    hanging = Startup(app, 0.01, 0)
    hanging.begin()
    while not hanging.over:
        assert hanging.elapsed < PATIENCE
    assert (hanging.finding().status, hanging.finding().observed) == ("warn", "hangs")
    app.gate.set()


# -- where the app is


def holding(monkeypatch: pytest.MonkeyPatch, app: object, *names: str) -> None:
    for name in names:
        module = ModuleType(name)
        vars(module)["jobs"] = app
        monkeypatch.setitem(__import__("sys").modules, name, module)


def with_task(app: FakeApp, module: str) -> None:
    app.tasks["t"] = SimpleNamespace(function=SimpleNamespace(__module__=module))


def path_of(app: FakeApp) -> str:
    return embedded.import_path(app)  # type: ignore[arg-type]


def test_an_app_is_found_where_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FakeApp()
    holding(monkeypatch, app, "shop.tasks")
    assert path_of(app) == "shop.tasks:jobs"


def test_of_several_that_hold_it_the_one_with_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FakeApp()
    holding(monkeypatch, app, "site_main", "shop")
    with pytest.raises(failbetter.ConfigurationError, match="shop:jobs and site_main:jobs; say"):
        path_of(app)
    with_task(app, "shop")
    assert path_of(app) == "shop:jobs"
    monkeypatch.setenv("FAILBETTER_APP", "other:app")
    assert path_of(app) == "other:app"


def test_an_app_that_nobody_could_import() -> None:
    with pytest.raises(failbetter.ConfigurationError, match="no imported module by name"):
        background.start(FakeApp(), worker=True)  # type: ignore[arg-type]
