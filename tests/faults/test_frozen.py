"""A worker frozen past its lease and thawed again: a zombie, whose late results change nothing.

The row "worker frozen past its lease, then thawed" of the comparison with today's systems;
promises 2, 3 and 9.
"""

from __future__ import annotations

import time

import pytest
from tests.faults.harness import PATIENCE, Site, wait_until

LEASE = 2.0


@pytest.mark.parametrize("with_children", [False, True])
def test_frozen_while_bodies_run(site: Site, with_children: bool) -> None:
    """The second worker's result stays; the zombie is told, says so, and works on."""
    zombie = site.worker(lease=LEASE, processes=2)
    jobs = [site.enqueue("work", 1, 0.6), site.enqueue("awork", 2, 0.6)]
    for job in jobs:
        site.log.wait_for("start", job)
    zombie.freeze(children=with_children)
    second = site.worker(lease=LEASE, processes=2)
    site.wait_over(jobs, LEASE + 5 + PATIENCE)
    before = [(job.row.fence, job.row.ended_at, job.attempts) for job in jobs]
    assert [job.state for job in jobs] == ["succeeded", "succeeded"]
    for job in jobs:
        lost, ended = job.attempts
        assert (lost.cause, ended.cause) == ("lost", "returned")
        assert job.row.losses == 1
    zombie.thaw()
    if not with_children:
        zombie.wait_said("late result of attempt 1 changed nothing")
    zombie.wait_said("declared lost")
    # It begins anew as another worker of the same process: with the second one gone it works on.
    second.kill()
    wait_until(lambda: zombie.pid in site.registered(), "the thawed worker to register anew")
    more = site.enqueue_many("work", [(n,) for n in range(20)])
    site.wait_over(more)
    after = [(job.refresh().row.fence, job.row.ended_at, job.attempts) for job in jobs]
    assert after == before
    zombie.kill()
    site.check()


def test_promise_of_time(site: Site) -> None:
    """Promise 2: a dead attempt is moved within its lease + 5 s, though its process still is."""
    zombie = site.worker(lease=LEASE)
    site.worker(lease=LEASE)
    job = site.enqueue("work", 1, 0.5)
    entry = site.log.wait_for("start", job)
    holder = zombie if zombie.children()[0].pid == entry.pid else site.workers[1]
    frozen = wait_until(lambda: job.refresh().state == "running" and holder, "running")
    frozen.freeze(children=True)
    site.wait_over([job], LEASE + 5)
    frozen.thaw()
    for worker in site.workers:
        worker.kill()
    site.check()


def test_zombie_body_is_told(site: Site) -> None:
    """Promises 3 and 9: a thawed body's effect does not happen a second time."""
    zombie = site.worker(lease=LEASE)
    job = site.enqueue("pay_late", 7, 0.8)
    site.log.wait_for("start", job)
    zombie.freeze(children=True)
    site.worker(lease=LEASE)
    site.wait_over([job], LEASE + 5 + PATIENCE)
    assert len(site.log.entries("effect charge", job)) == 1
    zombie.thaw()
    zombie.wait_said("declared lost")
    again = site.enqueue("pay_late", 8, 0.0)
    site.wait_over([again])
    for worker in site.workers:
        worker.kill()
    site.check()


def test_frozen_idle_and_frozen_together(site: Site) -> None:
    """Promise 2: a sweeper that was frozen itself declares nobody dead by what it did not see."""
    workers = [site.worker(lease=LEASE) for _ in range(2)]
    jobs = [site.enqueue("work", n, 4.5) for n in range(2)]
    for job in jobs:
        site.log.wait_for("start", job)
    for worker in workers:
        worker.freeze()
    # Longer than the lease; nothing can be polled for while nobody moves.
    time.sleep(LEASE + 1)
    for worker in workers:
        worker.thaw()
    site.wait_over(jobs)
    assert [len(site.log.starts(job)) for job in jobs] == [1, 1]
    assert [job.row.losses for job in jobs] == [0, 0]
    for worker in workers:
        assert not worker.said("declared lost")
        worker.kill()
    site.check()
