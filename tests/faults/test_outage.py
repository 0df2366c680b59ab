"""The story from end to end: a service goes down, comes back weak, and its jobs are run again.

A7, A8, A16, D3, D4, D5, D10. A real HTTP service, real workers; a bug among the failures.
`make soak` replays it with 50,000 jobs.
"""

from __future__ import annotations

import http.server
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from tests.faults.harness import Site, Worker, wait_until

from failbetter import Report
from failbetter.ledger.schema import attempts
from failbetter.lifecycle.states import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter import Group, Job

BUGS = 40
"""Jobs that fail whatever the service does, spread evenly over all."""
CAPACITY = 800
"""Requests in any one second that the service can bear."""
RATE = 200
"""Jobs a second that are run again. A quarter of what the service bears, as what waits when a
worker dies is run by the next one as fast as it can.
"""
IN_STEP = "in_operation:2"


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


@pytest.fixture(params=[320, pytest.param(50_000, marks=pytest.mark.soak)])
def size(request: pytest.FixtureRequest) -> int:
    """How many jobs the story has."""
    count: int = request.param
    return count


def patience(size: int) -> float:
    """Seconds after which so many jobs are no longer waited for."""
    return 120 + size / 50


def enqueue(site: Site, task: str, port: int, size: int) -> list[Job]:
    """The story's jobs, of that task, for a service at that port."""
    url = f"http://127.0.0.1:{port}"
    each = size // BUGS
    return site.enqueue_many(
        task, [(url, n, None if n % each == 3 else f"{n} Main Street") for n in range(size)]
    )


def test_without_a_breaker(site: Site, size: int) -> None:
    """Two causes; a canary tells them apart; the ramp spares the service; all of it adds up."""
    port = free_port()
    jobs = enqueue(site, "deliver", port, size)
    site.drain(patience(size), processes=2)
    outage, bug = site.app.failed.groups()
    assert (outage.count, bug.count) == (size - BUGS, BUGS)
    assert outage.error_type is not None
    assert outage.error_type.endswith("URLError")
    assert bug.error_type == "ValueError"

    retried_too_soon(site, size)
    operation = site.app.failed.where(task="deliver").retry(
        canary=4, rate=RATE, note="it is back", actor="ana"
    )
    assert adds_up(operation.report(), size)
    with service_at(port) as service:
        driven_by_one_that_is_killed(site, service, size)
        wait_until(lambda: operation.refresh().state != "running", "its end", patience(size))
        report = operation.wait(60)
    assert adds_up(report, size)
    assert set(operation.held) == {bug.fingerprint}
    assert (report.succeeded, report.failed_otherwise) == (size - BUGS, 0)
    assert 1 <= report.failed_alike <= 4
    assert report.failed_alike + report.unreleased == BUGS
    assert service.refused == 0
    # What a killed worker had not yet written down is run again, and nothing else.
    assert size - BUGS <= len(service.asked) <= size - BUGS + lost(site)

    (left,) = site.app.failed.groups()
    assert (left.fingerprint, left.count) == (bug.fingerprint, BUGS)
    assert operation.abort().state == "aborted"
    put_aside_and_taken_back(site, bug)
    assert adds_up(operation.report(), size)
    site.check(retried=jobs)


def lost(site: Site) -> int:
    """Attempts that died with their worker."""
    died = sqlalchemy.select(sqlalchemy.func.count()).where(attempts.c.cause == Cause.LOST.value)
    return int(next(iter(site.app.database.query(died)))[0])


def retried_too_soon(site: Site, size: int) -> None:
    """All at once, by one who is killed at it; a person takes back what was done."""
    process = site.python("app.failed.retry(all=True)", FAILBETTER_FAULT=IN_STEP)
    assert process.wait(patience(size)) == -9
    (operation,) = site.app.operations
    report = operation.report()
    assert adds_up(report, size)
    assert report.waiting > 0
    undone = operation.undo()
    assert adds_up(undone, size)
    assert (undone.undone, undone.unreleased) == (report.waiting, report.unreleased)
    assert site.app.failed.count() == size


def driven_by_one_that_is_killed(site: Site, service: Service, size: int) -> Worker:
    """A worker drives the ramp, until it is killed on the way; the one that goes on with it."""
    first = site.worker(processes=2)
    wait_until(lambda: len(service.asked) > size // 3, "a third of the way", patience(size))
    first.kill()
    return site.worker(processes=2)


def put_aside_and_taken_back(site: Site, group: Group) -> None:
    """Discarded by mistake, and restored by undoing that."""
    discarded = site.app.failed.where(fingerprint=group.fingerprint).discard(actor="ben")
    assert (discarded.moved, site.app.failed.count()) == (group.count, 0)
    undone = discarded.undo()
    assert adds_up(undone, group.count)
    assert (undone.undone + undone.restored, site.app.failed.count()) == (group.count,) * 2


def test_with_a_breaker(site: Site, size: int) -> None:
    """The jobs wait for the service; next to none fails of it, and those with the bug do."""
    port = free_port()
    jobs = enqueue(site, "deliver_guarded", port, size)
    site.worker(processes=2)
    wait_until(lambda: any(hold.active for hold in site.app.holds()), "the breaker to open")
    with service_at(port) as service:
        site.wait_all_over(patience(size))
    of_the_bug = site.app.failed.where(error="ValueError").count()
    of_the_outage = site.app.failed.count() - of_the_bug
    assert of_the_bug == BUGS
    # Each has but one attempt, so those few that opened the breaker are lost to it.
    assert 5 <= of_the_outage <= 10
    assert service.refused == 0
    assert len(service.asked) >= len(jobs) - BUGS - of_the_outage
    site.check()
