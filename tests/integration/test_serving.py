"""FastAPI, Starlette, Flask and Django on real servers: endpoints, recovery, jobs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conformance.backends import BACKENDS, Backend
from tests.conformance.kit import Ledger
from tests.integration.sites import (
    DJANGO,
    FASTAPI,
    FLASK,
    STARLETTE,
    UVICORN,
    WERKZEUG,
    WSGIREF,
    Site,
    serve,
    wait_until,
)

import failbetter


class Frame(NamedTuple):
    """A framework's site and the server that it runs on."""

    source: str
    server: tuple[str, ...]


FRAMES = {
    "fastapi": Frame(FASTAPI, UVICORN),
    "starlette": Frame(STARLETTE, UVICORN),
    "flask": Frame(FLASK, WERKZEUG),
    "django": Frame(DJANGO, WSGIREF),
}


@pytest.fixture(params=FRAMES.values(), ids=FRAMES.keys())
def frame(request: pytest.FixtureRequest) -> Frame:
    found: Frame = request.param
    return found


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    made = f"sqlite:///{tmp_path / 'jobs.db'}"
    app = failbetter.App(made)
    app.migrate()
    yield made
    app.close()


@pytest.fixture
def site(frame: Frame, tmp_path: Path, url: str) -> Iterator[Site]:
    with serve(tmp_path, frame.source, frame.server, url) as serving:
        yield serving


def test_a_site_serves_its_own_and_the_endpoints(site: Site) -> None:
    assert site.get("/").status_code == 200
    wait_until(lambda: site.get("/internal/readyz").status_code == 200, "the site to be ready")
    found = site.get("/internal/health")
    assert (found.status_code, found.json()["status"]) == (200, "warn")  # there is no worker
    assert found.json()["checks"]["jobs"]["observedValue"]["pending"] == 1
    assert found.json()["checks"]["startup_recovery"]["observedValue"] == "nothing"
    assert found.headers["Content-Type"] == "application/health+json"
    assert found.headers["Cache-Control"] == "no-store"
    assert site.get("/internal/livez").json() == {"status": "pass"}
    assert 'failbetter_jobs{state="pending"} 1.0' in site.get("/internal/metrics").text
    head = site.get("/internal/health", "HEAD")
    assert (head.status_code, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) > 100
    assert site.get("/internal/health", "POST").status_code == 405
    assert site.get("/internal/nope").status_code == 404
    assert site.get("/nope").status_code == 404


def test_a_ledger_that_is_gone_makes_a_site_unready_and_leaves_it_alive(
    site: Site, tmp_path: Path
) -> None:
    wait_until(lambda: site.get("/internal/readyz").status_code == 200, "the site to be ready")
    database = tmp_path / "jobs.db"
    aside = tmp_path / "aside.db"
    database.rename(aside)
    for path in ("/internal/readyz", "/internal/health"):
        assert site.get(path).status_code == 503
    assert site.get("/internal/livez").status_code == 200
    assert "failbetter_ledger_up 0.0" in site.get("/internal/metrics").text
    aside.rename(database)
    assert site.get("/internal/readyz").status_code == 200


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where somebody listens who never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


def test_a_server_that_says_nothing_is_answered_for_in_time(
    frame: Frame, tmp_path: Path, silent: int
) -> None:
    """Neither the event loop nor a thread of the server waits longer than 2 s for it."""
    url = f"postgresql+psycopg://bob:hunter2@127.0.0.1:{silent}/jobs"
    with serve(tmp_path, frame.source, frame.server, url) as site:
        assert site.get("/internal/livez").status_code == 200
        answers = []

        def ask() -> None:
            began = time.monotonic()
            found = site.get("/internal/health")
            answers.append((found.status_code, time.monotonic() - began, found.text))

        asking = threading.Thread(target=ask)
        asking.start()
        if frame.server is not WSGIREF:  # which serves one request at a time
            wait_until(lambda: site.get("/internal/livez").ok or answers, "a sign of life")
            assert answers == []  # alive while the ledger was being asked
        asking.join()
        ((status, took, text),) = answers
        assert status == 503
        assert took < 10
        assert "did not answer within 2 s" in text
        assert "hunter2" not in text
        assert site.get("/internal/livez").status_code == 200


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_endpoints_on_every_ledger(backend: Backend, tmp_path: Path) -> None:
    with (
        backend.migrated(tmp_path) as url,
        serve(tmp_path, FASTAPI, UVICORN, url) as site,
    ):
        assert site.get("/").status_code == 200
        wait_until(lambda: site.get("/internal/readyz").status_code == 200, "the site to be ready")
        checks = site.get("/internal/health").json()["checks"]
        assert checks["jobs"]["observedValue"]["pending"] == 1
        assert "failbetter_ledger_up 1.0" in site.get("/internal/metrics").text


def test_what_was_interrupted_is_handed_back_by_a_site(
    frame: Frame, tmp_path: Path, url: str
) -> None:
    """There is no worker: the first request, or the server's startup, is what begins it."""
    app = failbetter.App(url)
    job = app.task(name="resize")(lambda n: n).enqueue(1)
    ledger = Ledger(app.database)
    ledger.register(1, fleet=app.database.fleet.id)
    app.database.fleet.hold(1).close()  # and dead
    ledger.begin(*ledger.claim(1, now=ledger.soon()), now=app.database.now())
    assert app.needs_recovery()
    with serve(tmp_path, frame.source, frame.server, url) as site:
        assert site.get("/").status_code == 200
        wait_until(lambda: not app.needs_recovery(), "the recovery")
        wait_until(lambda: site.get("/internal/readyz").ok, "the site to be ready")
        checks = site.get("/internal/health").json()["checks"]
    assert checks["startup_recovery"] == {"status": "pass", "observedValue": "recovered"}
    assert checks["recovery"]["observedValue"]["outcome"] == "recovered"
    assert job.refresh().state == "pending"
    app.close()
