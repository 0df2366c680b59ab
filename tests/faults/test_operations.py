"""Whoever runs an operation may die at any step; each of its jobs runs once all the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import sqlalchemy
from tests.faults.harness import Site, wait_until

from failbetter import Job
from failbetter.ledger.schema import jobs

COUNT = 2_500
SCRIPT = "print(app.failed.retry(all=True, note='killed').id, flush=True)"


def make_failed(site: Site, count: int) -> list[Job]:
    """Jobs that failed, as far as their rows say."""
    made = site.enqueue_many("plain", [(n,) for n in range(count)])
    values = {"state": "failed", "reason": "error", "rank": None, "live": None}
    with site.app.database.engine.begin() as connection:
        connection.execute(sqlalchemy.update(jobs).values(ended_at=jobs.c.created_at, **values))
    return made


def maintain(site: Site) -> None:
    """`failbetter maintain --once`, in a process of its own."""
    command = [sys.executable, "-m", "failbetter", "--url", site.url, "maintain", "--once"]
    subprocess.run(command, env=site.environment(), cwd=site.folder, check=True)


def killed(site: Site, at: int) -> None:
    """Retry everything in a process that is killed in that step."""
    process = site.python(SCRIPT, FAILBETTER_FAULT=f"in_operation:{at}")
    assert process.wait(60) == -9


@pytest.mark.parametrize("at", [1, 2, 4])
def test_killed_in_the_middle_it_is_ended_by_maintenance(site: Site, at: int) -> None:
    """Also when nothing was moved yet, and when only its end was not written."""
    made = make_failed(site, COUNT)
    killed(site, at)
    operation = site.app.operations[0]
    report = operation.report()
    assert operation.state == "running"
    assert report.waiting == min(1_000 * (at - 1), COUNT)
    assert report.unreleased == COUNT - report.waiting

    def ended() -> bool:
        maintain(site)
        return operation.refresh().state == "done"

    wait_until(ended, "maintenance to end it")
    assert operation.report().waiting == COUNT
    site.drain(processes=2)
    assert operation.report().succeeded == COUNT
    runs = Counter(entry.job for entry in site.log.entries("start"))
    assert runs == {job.id: 1 for job in made}


def test_killed_in_the_middle_it_is_ended_by_a_worker_and_by_nobody_twice(site: Site) -> None:
    made = make_failed(site, COUNT)
    killed(site, 2)
    worker = site.worker(processes=2)
    again = site.app.failed.retry(all=True)
    operation = site.app.operations[1]
    wait_until(lambda: operation.refresh().state == "done", "the worker to end it")
    site.wait_all_over()
    worker.kill()
    runs = Counter(entry.job for entry in site.log.entries("start"))
    assert runs == {job.id: 1 for job in made}
    for one in (operation, again):
        assert one.report().counted == one.total
    assert operation.moved + again.moved == COUNT


def test_a_paced_operation_goes_on_after_its_driver_died(site: Site) -> None:
    made = make_failed(site, 60)
    first = site.worker()
    operation = site.app.failed.retry(all=True, rate=20)
    wait_until(lambda: operation.report().succeeded > 5, "some to run")
    first.kill()
    second = site.worker()
    report = operation.wait(timeout=60)
    assert (report.succeeded, operation.state) == (60, "done")
    second.kill()
    runs = Counter(entry.job for entry in site.log.entries("start"))
    assert set(runs) == {job.id for job in made}
