"""Who runs when, with real workers: order, queues, keys, time limits, and nobody behind the long.

A1, A4, A9, A15, A16, B3; promises 4, 6, 7 and 8.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil
from tests.faults.harness import Entry, Site, accepted_by_others, wait_until

if TYPE_CHECKING:
    from failbetter import Job


def started(site: Site) -> list[str]:
    """Ids in the order in which bodies began."""
    return [entry.job for entry in sorted(site.log.entries("start"), key=lambda e: e.at)]


def test_priorities(site: Site) -> None:
    """Higher first; among equals, first come, first served."""
    made: list[tuple[int, int, str]] = []
    for n in range(60):
        priority = (-5, 0, 3, 100)[n % 4]
        job = site.enqueue("plain", n, using={"priority": priority})
        made.append((-priority, n, job.id))
    site.drain()
    assert started(site) == [number for _, _, number in sorted(made)]
    site.check()


def test_queues_in_order_and_only_those(site: Site) -> None:
    """`--queue first --queue second`: first before second whatever the priorities, no others.

    `--drain` ends although other queues' jobs wait.
    """
    second = site.enqueue_many(
        "plain", [(n,) for n in range(20)], using={"queue": "second", "priority": 50}
    )
    first = site.enqueue_many("plain", [(n,) for n in range(20)], using={"queue": "first"})
    other = site.enqueue_many("plain", [(n,) for n in range(5)], using={"queue": "other"})
    site.drain(queues=["first", "second"])
    assert started(site) == [job.id for job in [*first, *second]]
    assert {(job.refresh().state, job.row.fence) for job in other} == {("pending", 0)}
    site.drain()
    assert {job.refresh().state for job in other} == {"succeeded"}
    site.check()


def test_drain_waits_for_what_is_due_later(site: Site) -> None:
    """`--drain` waits for `run_after`, retries, releases, and jobs of workers that died."""
    later = site.enqueue("plain", 1, using={"run_after": 1.5})
    flaky = site.enqueue("flaky", 1, 3)
    released = site.enqueue("released_at_first", 1, 5)
    hopeless = site.enqueue("hopeless", 1)
    site.drain()
    assert later.refresh().state == "succeeded"
    began = later.attempts[0].begun_at
    assert began is not None
    assert began >= later.run_at
    assert (flaky.refresh().state, flaky.row.attempts, flaky.row.starts) == ("succeeded", 3, 4)
    # A1: a release spends nothing, though this task has but one attempt.
    assert (released.refresh().state, released.row.attempts) == ("succeeded", 0)
    assert released.row.starts == 6
    assert (hopeless.refresh().state, hopeless.reason) == ("failed", "error")
    assert hopeless.row.attempts == 3
    site.check()


def test_release_has_its_own_budget(site: Site) -> None:
    """A1, promise 4: bounded by `release_within`, ended `gave_up`, no attempt charged."""
    job = site.enqueue("busy_signal", 1)
    site.drain()
    assert (job.refresh().state, job.reason, job.row.attempts) == ("failed", "gave_up", 0)
    assert 5 <= job.row.starts <= 11
    site.check()


def test_expiry(site: Site) -> None:
    """Promises 7 and 8, B3: untried work that expires is discarded, tried work fails; no body
    begins after its time; a worker of other queues sweeps it up."""
    worker = site.worker(queues=["nothing-here"])
    untried = site.enqueue_many("perishable", [(n,) for n in range(10)])
    lasting = site.enqueue("plain", 1, using={"queue": "later"})
    site.wait_over(untried, 10)
    assert {(job.state, job.reason) for job in untried} == {("discarded", "expired")}
    assert not any(site.log.starts(job) for job in untried)
    worker.kill()
    worker = site.worker()
    tried = site.enqueue_many("perishable_and_hopeless", [(n,) for n in range(3)])
    site.wait_over([*tried, lasting], 10)
    worker.kill()
    for job in tried:
        assert (job.refresh().state, job.reason) == ("failed", "expired")
        assert job.error_type == "ValueError"
        limit = job.created_at.timestamp() + 0.5
        assert all(one.begun_at and one.begun_at.timestamp() < limit for one in job.attempts)
    # Checked again when the body is about to begin: claimed in time, handed out too late.
    holders, gate = site.hold(1)
    late = site.enqueue("perishable", 1)
    worker = site.worker()
    site.log.wait_for("start", holders[0])
    wait_until(lambda: late.refresh().over or time.time() > late.created_at.timestamp() + 0.7, "it")
    gate.touch()
    site.wait_over([*holders, late])
    assert (late.state, late.reason) == ("discarded", "expired")
    worker.kill()
    site.check()


UNIQUE = """
for n in range(int(sys.argv[1])):
    job = app.tasks["only"].enqueue(f"key {n % 40}")
    print(job.id, int(job.created))
    if job.created:
        record_accepted(job)
"""


def test_unique_with_many_producers(site: Site) -> None:
    """A15, B5, C7: with producers at once and no worker: one job a key, and all are told of it."""
    producers = [site.python(UNIQUE, 120) for _ in range(3)]
    answers = [line.split() for producer in producers for line in site.output_of(producer)]
    assert len(answers) == 360
    assert sum(int(created) for _, created in answers) == 40
    assert len({number for number, _ in answers}) == 40
    site.accepted += accepted_by_others(site)
    assert site.app.jobs.count() == len(site.accepted) == 40
    # Beside a worker a key is free again as soon as its job is over, and never twice live.
    worker = site.worker(processes=2)
    producers = [site.python(UNIQUE, 120) for _ in range(3)]
    answers = [line.split() for producer in producers for line in site.output_of(producer)]
    created = [number for number, made in answers if made == "1"]
    site.accepted = accepted_by_others(site)
    assert len(created) == len(set(created)) == len(site.accepted) - 40
    site.wait_all_over()
    assert site.app.jobs.count() == len(site.accepted)
    by_key: dict[str, list[Job]] = {}
    for job in site.app.jobs:
        by_key.setdefault(job.args["key"], []).append(job)
    for jobs in by_key.values():
        jobs.sort(key=lambda job: job.created_at)
        for one, other in pairwise(jobs):
            assert one.ended_at is not None
            assert one.ended_at <= other.created_at or one.row.ended_at is not None
    worker.kill()
    site.check()


def spans(site: Site, jobs: list[Job]) -> list[tuple[Entry, Entry]]:
    """Begin and end of each body that came to its end, by begin."""
    ids = {job.id for job in jobs}
    begun = {}
    found = []
    for entry in site.log.entries():
        if entry.job in ids and entry.what == "start":
            begun[entry.job, entry.attempt] = entry
        elif entry.job in ids and entry.what == "end":
            found.append((begun[entry.job, entry.attempt], entry))
    return sorted(found, key=lambda span: span[0].at)


def test_exclusive_never_overlaps(site: Site) -> None:
    """A15: two workers of two processes, one of them killed: at most one body of a key at a time,
    while bodies of different keys do run at once, and other jobs are not held up."""
    by_key = {key: site.enqueue_many("alone", [(key, 0.02)] * 30) for key in "abc"}
    others = site.enqueue_many("plain", [(n,) for n in range(50)])
    first = site.worker(processes=2)
    site.worker(processes=2)
    wait_until(lambda: len(site.log.entries("end")) > 30, "a third of them to be done")
    first.kill()
    site.worker(processes=2)
    site.wait_all_over()
    for jobs in by_key.values():
        found = spans(site, jobs)
        assert len({begin.job for begin, _ in found}) == 30
        for (_, end), (begin, _) in pairwise(found):
            assert end.at <= begin.at, f"{end.job} and {begin.job} overlapped"
    assert {job.refresh().state for job in others} == {"succeeded"}
    for worker in site.workers[1:]:
        worker.kill()
    site.check()


def test_nothing_waits_behind_a_long_body(site: Site) -> None:
    """One long job among many short ones, in two processes: all short ones end while it runs."""
    warm = site.enqueue_many("plain", [(n,) for n in range(300)])
    worker = site.worker(processes=2)
    site.wait_over(warm)
    short = site.enqueue_many("plain", [(n,) for n in range(150)])
    long, gate = site.hold(1)
    short += site.enqueue_many("plain", [(n,) for n in range(300)])
    site.wait_over(short)
    assert long[0].refresh().state == "running"
    gate.touch()
    site.wait_over(long)
    assert {job.row.starts for job in short} == {1}
    worker.kill()
    site.check()


def test_nothing_is_kept_from_another_worker(site: Site) -> None:
    """What one worker has claimed and cannot run soon, another one runs."""
    warm = site.enqueue_many("plain", [(n,) for n in range(300)])
    busy = site.worker()
    site.wait_over(warm)
    long, gate = site.hold(1)
    short = site.enqueue_many("plain", [(n,) for n in range(300)])
    site.log.wait_for("start", long[0])
    idle = site.worker()
    site.wait_over(short, 10)
    gate.touch()
    site.wait_over(long)
    assert {(job.row.starts, job.row.losses) for job in short} == {(1, 0)}
    for worker in (busy, idle):
        worker.kill()
    site.check()


def test_a_lone_job_is_not_held_up(site: Site) -> None:
    """Batching delays no single job: an idle worker picks it up at once, also after a busy time."""
    site.enqueue_many("plain", [(n,) for n in range(500)])
    worker = site.worker()
    site.wait_all_over()
    waits = []
    for n in range(30):
        job = site.enqueue("plain", n)
        accepted = time.monotonic()
        waits.append(site.log.wait_for("start", job).at - accepted)
    # The promise is a few milliseconds; what is ruled out here is a polling interval or a batch.
    assert statistics.median(waits) < 0.05, sorted(waits)
    site.wait_all_over()
    worker.kill()
    site.check()


def test_idle_worker_is_idle(site: Site) -> None:
    """An idle worker uses under 1% of a core, its children included."""
    worker = site.worker(processes=2)
    site.enqueue_many("plain", [(n,) for n in range(10)])
    site.wait_all_over()
    processes = [psutil.Process(worker.pid), *worker.children()]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    time.sleep(0.5)
    before, began = spent(), time.monotonic()
    time.sleep(5)
    share = (spent() - before) / (time.monotonic() - began)
    assert share < 0.02, f"{share:.1%} of a core"
    worker.kill()
