"""A worker frozen past its lease and thawed again: a zombie, whose late results change nothing.

The rows "worker frozen past its lease, then thawed" and "a healthy job longer than the rescue age"
of the comparison with today's systems; promises 2, 3, 7 and 9.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from tests.faults.harness import PATIENCE, Site, wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import SideBySide

LEASE = 2.0


def test_leases(side_by_side: SideBySide) -> None:
    """Everything here takes some leases of 2 s to show, and next to no work."""
    side_by_side(
        supervisor_frozen=functools.partial(frozen_while_bodies_run, with_children=False),
        all_frozen=functools.partial(frozen_while_bodies_run, with_children=True),
        moved_in_time=moved_in_time,
        zombie_body_is_told=zombie_body_is_told,
        zombie_asks_before_its_successor=zombie_asks_before_its_successor,
        all_workers_frozen_together=all_workers_frozen_together,
        healthy_longer_than_its_lease=healthy_longer_than_its_lease,
    )


def frozen_while_bodies_run(site: Site, with_children: bool) -> None:
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


def moved_in_time(site: Site) -> None:
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


def zombie_body_is_told(site: Site) -> None:
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


def zombie_asks_before_its_successor(site: Site) -> None:
    """Promises 3 and 9: a zombie's effect is refused although nobody has made it yet."""
    zombie = site.worker(lease=LEASE)
    job = site.enqueue("pay_by_gate", str(site.folder))
    site.log.wait_for("start", job)
    zombie.freeze()
    second = site.worker(lease=LEASE)
    site.log.wait_for("start", job, times=2)
    # The zombie's child asks while nobody hears it; the answer comes when its supervisor thaws.
    (site.folder / "gate-1").touch()
    site.log.wait_for("asks", job)
    time.sleep(0.05)  # between that line and the question there is nothing to be seen
    zombie.thaw()
    zombie.wait_said("declared lost")
    wait_until(lambda: zombie.pid in site.registered(), "the thawed worker to register anew")
    assert job.refresh().effects == []
    assert not site.log.entries("effect charge")
    (site.folder / "gate-2").touch()
    site.wait_over([job])
    assert (job.state, job.row.result) == ("succeeded", "2")
    for worker in (zombie, second):
        worker.kill()
    site.check()


def all_workers_frozen_together(site: Site) -> None:
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


def healthy_longer_than_its_lease(site: Site) -> None:
    """Promise 7: bodies of three leases, one of them deaf and dumb in C, beside a second worker."""
    site.worker(lease=2)
    site.worker(lease=2)
    jobs = [site.enqueue("work", 1, 6.5), site.enqueue("hold_the_interpreter", 6.5)]
    site.wait_over(jobs)
    for job in jobs:
        assert (job.state, len(site.log.starts(job)), job.row.losses) == ("succeeded", 1, 0)
    for worker in site.workers:
        worker.kill()
    site.check()
