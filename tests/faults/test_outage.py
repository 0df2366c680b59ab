"""The story from end to end: a service goes down, comes back weak, and its jobs are run again.

A7, A8, A16, D3, D4, D5, D10. A real HTTP service, real workers; a bug among the failures.
"""

from __future__ import annotations

import http.server
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.faults.harness import Site, wait_until

from failbetter import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPACITY = 200
"""Requests in any one second that the service can bear."""
RATE = 50


class Service(http.server.ThreadingHTTPServer):
    """Notes when it was asked, and answers 503 beyond its capacity."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.asked: list[float] = []
        self.refused = 0
        self.lock = threading.Lock()

    def admit(self) -> bool:
        with self.lock:
            now = time.monotonic()
            self.asked.append(now)
            lately = sum(at > now - 1 for at in self.asked[-CAPACITY - 1 :])
            self.refused += lately > CAPACITY
            return lately <= CAPACITY


class Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.send_response(200 if self.server.admit() else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def free_port() -> int:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        return int(found.server_address[1])


@contextmanager
def service_at(port: int) -> Iterator[Service]:
    """The service, up."""
    with Service(("127.0.0.1", port)) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def adds_up(report: Report, total: int) -> bool:
    return report.counted == report.total == total


def test_without_a_breaker(site: Site) -> None:
    """Two causes; a canary tells them apart; the ramp spares the service; all of it adds up."""
    port = free_port()
    jobs = site.enqueue_many("deliver", [(f"http://127.0.0.1:{port}", n) for n in range(320)])
    site.drain()
    outage, bug = site.app.failed.groups()
    assert (outage.count, bug.count) == (280, 40)
    assert outage.error_type is not None
    assert outage.error_type.endswith("URLError")
    assert bug.error_type == "ValueError"

    operation = site.app.failed.where(task="deliver").retry(
        canary=4, rate=RATE, note="it is back", actor="ana"
    )
    assert adds_up(operation.report(), 320)
    with service_at(port) as service:
        site.worker(processes=2)
        wait_until(lambda: operation.refresh().state != "running", "the ramp to end", 120)
        report = operation.wait(60)
    assert adds_up(report, 320)
    assert set(operation.held) == {bug.fingerprint}
    assert (report.succeeded, report.failed_otherwise) == (280, 0)
    assert 1 <= report.failed_alike <= 4
    assert report.failed_alike + report.unreleased == 40
    assert service.refused == 0
    assert len(service.asked) == 280

    (left,) = site.app.failed.groups()
    assert (left.fingerprint, left.count) == (bug.fingerprint, 40)
    assert operation.abort().state == "aborted"
    # Put aside by mistake, and taken back.
    discarded = site.app.failed.where(fingerprint=bug.fingerprint).discard(actor="ben")
    assert (discarded.moved, site.app.failed.count()) == (40, 0)
    undone = discarded.undo()
    assert adds_up(undone, 40)
    assert (undone.undone + undone.restored, site.app.failed.count()) == (40, 40)
    assert adds_up(operation.report(), 320)
    site.check(retried=jobs)


def test_with_a_breaker(site: Site) -> None:
    """The jobs wait for the service; next to none fails of it, and those with the bug do."""
    port = free_port()
    jobs = site.enqueue_many(
        "deliver_guarded", [(f"http://127.0.0.1:{port}", n) for n in range(320)]
    )
    site.worker(processes=2)
    wait_until(lambda: any(hold.active for hold in site.app.holds()), "the breaker to open")
    with service_at(port) as service:
        site.wait_over(jobs, 90)
    failed = [job for job in jobs if job.refresh().state == "failed"]
    of_the_bug = [job for job in failed if job.row.error_type == "ValueError"]
    assert len(of_the_bug) == 40
    # Each has but one attempt, so those few that opened the breaker are lost to it.
    assert 5 <= len(failed) - len(of_the_bug) <= 10
    assert len(service.asked) >= 320 - len(failed)
    site.check()
