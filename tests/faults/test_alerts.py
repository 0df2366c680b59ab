"""Alerts as real workers tell them, to a real receiver (A13)."""

from __future__ import annotations

import http.server
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.harness import Site, wait_until

from failbetter.alerts import TELL


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A real HTTP server's port, and what it is sent."""
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], got
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_new_cause_is_told_of_where_people_look(
    site: Site, receiver: tuple[int, list[dict[str, Any]]]
) -> None:
    """A13: once, though several workers watch, by the one that is left; the address is written
    nowhere."""
    port, got = receiver
    alert = {"FAILBETTER_TEST_ALERT": f"json://user:hunter2@127.0.0.1:{port}/hunter2"}
    first = site.worker(env=alert)
    second = site.worker(env=alert)
    # From its first look on, what is new is news.
    wait_until(lambda: _watched(site), "the first look")
    first.kill()
    jobs = site.enqueue_many("bad", [(n,) for n in range(3)])
    site.wait_over(jobs)
    wait_until(lambda: got, "the notice", 60)
    (notice,) = got
    assert notice["title"] == "causes"
    assert re.match(r"bad: ValueError \(\d\), 2-", notice["message"].splitlines()[1])
    (job,) = site.app.jobs.where(task=TELL)
    wait_until(lambda: job.refresh().state == "succeeded", "the job's end")
    assert second.alive
    assert "hunter2" not in job.row.payload
    assert "hunter2" not in first.text() + second.text()
    if site.url.startswith("sqlite"):
        with sqlite3.connect(site.url.removeprefix("sqlite:///")) as connection:
            assert "hunter2" not in "\n".join(connection.iterdump())
        connection.close()


def _watched(site: Site) -> bool:
    with site.app.database.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM failbetter_alerts").scalar()
    return bool(found)
