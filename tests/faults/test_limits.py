"""A rate limit under real workers: no window holds more bodies than it may. A16."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

from tests.faults.harness import wait_until

if TYPE_CHECKING:
    from tests.faults.harness import Site

    from failbetter import Job

# A body may be put aside by the system between its permit and its first line, but not for so long.
PER, SLACK = 1.0, 0.2
COUNT = 10


def begins(site: Site, limited: set[str]) -> list[float]:
    """When limited bodies began, in monotonic seconds, as they wrote it themselves."""
    return sorted(entry.at for entry in site.log.entries("start") if entry.job in limited)


def fullest(begins: list[float], per: float) -> int:
    """How many of these are in the fullest window of that length."""
    return max(
        bisect.bisect_left(begins, begin + per) - index for index, begin in enumerate(begins)
    )


def mixed(count: int) -> list[tuple[str, tuple[Any, ...]]]:
    """Limited bodies, and others that go on for longer than what was claimed with them waits."""
    found: list[tuple[str, tuple[Any, ...]]] = []
    for n in range(count):
        found += [("mail", (n,)), ("amail", (n, 0.001)), ("work", (n, 0.0))]
        if n % 4 == 0:
            found.append(("work", (n, 0.15)))
    return found


def test_the_window_holds_over_all_workers_and_a_kill(site: Site) -> None:
    """Two workers, one killed in the middle; all jobs end and nothing is charged."""
    site.worker(processes=1)
    site.worker(processes=2)
    jobs: list[Job] = []
    limited: set[str] = set()
    for name, args in mixed(25):
        job = site.enqueue(name, *args)
        jobs.append(job)
        if name != "work":
            limited.add(job.id)
    wait_until(lambda: len(begins(site, limited)) >= 15, "limited bodies to begin")
    site.workers[0].kill()
    site.worker(processes=2, concurrency=3)
    site.wait_over(jobs, 60)
    assert {job.state for job in jobs} == {"succeeded"}
    assert {job.row.attempts for job in jobs} == {0}
    assert fullest(begins(site, limited), PER - SLACK) <= COUNT
    ledgers = [
        attempt.begun_at.timestamp()
        for job in jobs
        if job.id in limited
        for attempt in job.attempts
        if attempt.begun_at is not None and attempt.cause == "returned"
    ]
    # By the ledger's own account almost exactly: workers agree on a server's time to some ms.
    assert fullest(sorted(ledgers), PER - 0.02) <= COUNT
    assert [hold for hold in site.app.holds() if hold.kind == "limit"] == []
    site.check()


def test_what_was_claimed_and_waits_asks_again(site: Site) -> None:
    """Permits do not bunch behind a long body: what it kept waiting is counted anew."""
    site.worker(processes=1, concurrency=1)
    # Short bodies, so that the child is handed many ahead.
    short = site.enqueue_many("work", [(n,) for n in range(300)])
    site.wait_over(short)
    jobs: list[Job] = []
    limited: set[str] = set()
    for n in range(30):
        jobs.append(site.enqueue("work", n, 0.04))
        jobs.append(site.enqueue("mail", n))
        limited.add(jobs[-1].id)
    site.wait_over(jobs, 60)
    assert fullest(begins(site, limited), PER - SLACK) <= COUNT
    site.check()


def test_a_drain_waits_for_what_is_limited(site: Site) -> None:
    """Its holds it does not wait for, and it ends when nothing else is left."""
    mails = site.enqueue_many("mail", [(n,) for n in range(12)])
    held = site.enqueue("plain", 1)
    site.app.pause(task="plain")
    site.drain()
    assert {job.refresh().state for job in mails} == {"succeeded"}
    assert held.refresh().state == "pending"


def test_a_permit_dies_with_its_worker(site: Site) -> None:
    """A supervisor killed between the permit and the body wastes it, and no more."""
    jobs = site.enqueue_many("mail", [(n,) for n in range(11)])
    dying = site.worker(fault="after_claim:1", ready=False)
    assert dying.wait() < 0
    assert site.log.entries("start") == []
    site.drain()
    assert {job.refresh().state for job in jobs} == {"succeeded"}
    assert {(job.row.attempts, job.row.losses) for job in jobs} == {(0, 0)}
    limited = {job.id for job in jobs}
    assert fullest(begins(site, limited), PER - SLACK) <= COUNT
    site.check()
