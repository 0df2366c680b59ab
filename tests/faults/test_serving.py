"""A site's own worker and a worker under a service manager: killed, frozen, left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from tests.faults.conftest import migrated
from tests.faults.harness import Site, Worker, open_site, wait_until
from tests.integration.sites import UVICORN, serve
from tests.integration.sites import Site as WebSite
from tests.servers.postgres import PostgresServer

EMBEDDED = """
import logging
from fastapi import FastAPI
from failbetter.integrations.asgi import lifespan
from tests.faults.served import app

logging.basicConfig()
site = FastAPI(lifespan=lifespan(
    app, worker="tests.faults.served:app", processes=2, shutdown_timeout=10
))
"""


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[WebSite]:
    """A site with a worker of its own, on the ledger of `site`."""
    with serve(tmp_path, EMBEDDED, UVICORN, site.url, **site.environment()) as serving:
        wait_until(site.registered, "the site's worker to register")
        yield serving


def worker_of(site: Site) -> psutil.Process:
    """The one registered worker."""
    (pid,) = wait_until(site.registered, "a worker")
    return psutil.Process(pid)


def gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_sites_worker_runs_jobs_and_stops_with_it(site: Site, web: WebSite) -> None:
    jobs = site.enqueue_many("plain", [(n,) for n in range(20)])
    site.wait_over(jobs)
    held, gate = site.hold(1)
    site.log.wait_for("start", held[0])
    worker = worker_of(site)
    web.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping; 1 bodies run" in web.text(), "the worker to stop")
    gate.touch()
    assert web.process.wait(30) in (0, -signal.SIGINT, 130)
    assert gone(worker)
    assert held[0].refresh().state == "succeeded"
    assert held[0].row.starts == 1  # it was let finish, by one signal and not by two
    assert site.registered() == set()
    site.check()


def test_a_sites_worker_that_is_killed_is_started_again(site: Site, web: WebSite) -> None:
    held, gate = site.hold(1)
    site.log.wait_for("start", held[0])
    worker = worker_of(site)
    worker.kill()
    gate.touch()
    site.wait_over(held)
    wait_until(lambda: site.registered() - {worker.pid}, "another worker")
    assert "the worker ended (signal 9); starting another in 1 s" in web.text()
    assert web.process.poll() is None
    site.check()


def test_a_sites_worker_does_not_outlive_it(site: Site, web: WebSite) -> None:
    held, gate = site.hold(1)
    site.log.wait_for("start", held[0])
    worker = worker_of(site)
    family = [worker, *worker.children()]
    web.process.kill()
    gate.touch()  # what runs may finish: it stops as on SIGTERM
    wait_until(lambda: all(gone(one) for one in family), "the worker to stop")
    assert held[0].refresh().state == "succeeded"
    assert site.registered() == set()
    site.check()


# -- a service manager


class Manager:
    """The other end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.told: list[str] = []

    def hear(self) -> list[str]:
        """All that was said so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append(self._socket.recv(4096).decode())
        return self.told

    def ticks(self) -> int:
        return self.hear().count("WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def managed(site: Site, manager: Manager, usec: int = 200_000, **settings: object) -> Worker:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(usec)}
    return site.worker(env=env, health_port=0, **settings)


def port_of(worker: Worker) -> int:
    worker.wait_said(r"health on http://127.0.0.1:\d+")
    return int(worker.text().partition("health on http://127.0.0.1:")[2].split("/")[0])


def status_of(worker: Worker, path: str) -> int:
    return requests.get(f"http://127.0.0.1:{port_of(worker)}{path}", timeout=30).status_code


def test_a_worker_tells_when_it_is_ready_alive_and_stopping(site: Site, manager: Manager) -> None:
    held, gate = site.hold(1)
    worker = managed(site, manager)
    wait_until(lambda: "READY=1" in "\n".join(manager.hear()), "READY=1")
    site.log.wait_for("start", held[0])
    wait_until(lambda: status_of(worker, "/readyz") == 200, "the worker to be ready")
    worker.send(signal.SIGTERM)
    wait_until(lambda: "STOPPING=1" in "\n".join(manager.hear()), "STOPPING=1")
    # It lives as long as its bodies run, and is no longer ready.
    before = manager.ticks()
    wait_until(lambda: manager.ticks() > before + 3, "signs of life")
    assert (status_of(worker, "/livez"), status_of(worker, "/readyz")) == (200, 503)
    assert status_of(worker, "/health") == 200
    gate.touch()
    assert worker.wait() == 0
    words = [line.split("\n")[0] for line in manager.hear() if line != "WATCHDOG=1"]
    assert [word for word in words if not word.startswith("STATUS")] == ["READY=1", "STOPPING=1"]


def test_a_frozen_supervisor_gives_no_sign_of_life(site: Site, manager: Manager) -> None:
    worker = managed(site, manager)
    wait_until(manager.ticks, "signs of life")
    worker.freeze()
    wait_until(
        lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "it to be frozen"
    )
    before = manager.ticks()
    # Ten times as long as it would take: what is waited for is that nothing comes.
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        assert manager.ticks() == before
        time.sleep(0.05)
    worker.thaw()
    wait_until(lambda: manager.ticks() > before, "signs of life again")


def test_a_busy_worker_gives_signs_of_life(site: Site, manager: Manager) -> None:
    """A body that holds the interpreter of its process is not the supervisor's business."""
    worker = managed(site, manager)
    jobs = site.enqueue_many("plain", [(n,) for n in range(2_000)])
    before = manager.ticks()
    site.wait_over(jobs)
    assert worker.alive
    wait_until(lambda: manager.ticks() > before, "signs of life")
    assert status_of(worker, "/livez") == 200


def test_bodies_do_not_speak_to_the_manager(site: Site, manager: Manager) -> None:
    managed(site, manager)
    (child,) = wait_until(site.workers[-1].children, "a child")
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(child.environ()) == set()


def test_a_worker_whose_ledger_is_away_is_alive_and_not_ready(tmp_path: Path) -> None:
    with open_site(f"sqlite:///{tmp_path / 'jobs.db'}", tmp_path) as site:
        site.app.migrate()
        worker = site.worker(health_port=0)
        wait_until(lambda: status_of(worker, "/readyz") == 200, "the worker to be ready")
        os.rename(tmp_path / "jobs.db", tmp_path / "aside.db")
        assert (status_of(worker, "/readyz"), status_of(worker, "/livez")) == (503, 200)
        assert status_of(worker, "/health") == 503
        os.rename(tmp_path / "aside.db", tmp_path / "jobs.db")
        assert status_of(worker, "/readyz") == 200


def test_a_worker_whose_server_hangs_is_alive_and_not_ready(tmp_path: Path) -> None:
    with PostgresServer.start(fsync=False) as server:
        url = server.new_database("ledger")
        migrated(url)
        with open_site(url, tmp_path) as site:
            worker = site.worker(health_port=0)
            wait_until(lambda: status_of(worker, "/readyz") == 200, "the worker to be ready")
            server.freeze()
            try:
                began = time.monotonic()
                assert status_of(worker, "/readyz") == 503
                # Two seconds, and whatever this machine needs: far less than a connection's own.
                assert time.monotonic() - began < 8
                assert (status_of(worker, "/health"), status_of(worker, "/livez")) == (503, 200)
            finally:
                server.thaw()
            wait_until(lambda: status_of(worker, "/readyz") == 200, "the worker to be ready again")


def test_a_port_that_is_taken_ends_a_worker_before_it_touches_a_job(site: Site) -> None:
    (job,) = site.enqueue_many("plain", [(1,)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = site.worker(health_port=taken.getsockname()[1], ready=False)
        assert worker.wait() == 69
    assert worker.said("Address already in use. No job was touched.")
    assert job.refresh().state == "pending"
    unknown = site.worker(health_host="192.0.2.1", health_port=1, ready=False)
    assert unknown.wait() == 78
