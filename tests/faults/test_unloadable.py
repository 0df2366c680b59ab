"""Jobs that the code cannot take: `failed(unloadable)`, in the list, retryable once it can.

The row "function gone, payload undecodable" of the comparison with today's systems; C2.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from tests.faults.harness import Site, number_of, wait_until

from failbetter.ledger.schema import jobs

if TYPE_CHECKING:
    from failbetter import Job

GONE = {"FAILBETTER_TEST_GONE": "plain"}

# What a row's payload can be after an accident, none of which `plain(n, seconds)` can be given.
UNDECODABLE = ["{", "", "null", "[]", "[1]", '{"n":"text"}', '{"m":1}', "{}", '{"n":1}}', "\x01"]


def rewrite(site: Site, job: Job, **values: object) -> None:
    """Change a job's row behind failbetter's back."""
    with site.app.database.engine.begin() as connection:
        statement = sqlalchemy.update(jobs).where(jobs.c.id == number_of(job)).values(**values)
        assert connection.execute(statement).rowcount == 1


def test_function_gone(site: Site) -> None:
    """It fails with its reason, the others go on, and it can be retried once the code is back."""
    jobs_ = site.enqueue_many("plain", [(n,) for n in range(20)])
    others = site.enqueue_many("work", [(n,) for n in range(20)])
    site.drain(env=GONE, processes=2)
    for job in jobs_:
        assert (job.refresh().state, job.reason) == ("failed", "unloadable")
        assert job.error_type == "failbetter.UnknownTask"
        assert "'plain'" in (job.error_message or "")
        assert [attempt.cause for attempt in job.attempts] == ["unloadable"]
    assert {job.refresh().state for job in others} == {"succeeded"}
    site.check()
    assert site.app.failed.where(reason="unloadable").count() == 20
    assert site.app.failed.where(task="plain").retry().moved == 20
    site.drain()
    assert {job.refresh().state for job in jobs_} == {"succeeded"}
    site.check(retried=jobs_)


def test_function_known_to_another_worker(site: Site) -> None:
    """During a rolling deploy a task is unloadable only when no live worker knows it."""
    old = site.worker(env=GONE)
    new = site.worker(queues=["elsewhere"])
    # What the others know is learned with each renewal of the lease, and a worker told at its
    # start knows it from then on.
    old.kill()
    old = site.worker(env=GONE)
    job = site.enqueue("plain", 1)
    wait_until(lambda: job.refresh().run_at.timestamp() > job.created_at.timestamp() + 0.5, "delay")
    assert (job.state, job.row.attempts) == ("pending", 0)
    capable = site.worker()
    site.wait_over([job])
    assert (job.state, job.row.attempts, job.row.starts) == ("succeeded", 0, len(job.attempts))
    for worker in (old, new, capable):
        worker.kill()
    site.check()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_payload_undecodable(site: Site, concurrency: int) -> None:
    """Whatever the row holds, the job fails with a reason and harms no neighbour."""
    broken = site.enqueue_many("plain", [(n,) for n in range(len(UNDECODABLE))])
    healthy = site.enqueue_many("plain", [(n,) for n in range(20)])
    kept = [job.row.payload for job in broken]
    for job, payload in zip(broken, UNDECODABLE, strict=True):
        rewrite(site, job, payload=payload)
    worker = site.drain(concurrency=concurrency)
    found = {
        payload: (job.refresh().state, job.reason, job.error_type)
        for job, payload in zip(broken, UNDECODABLE, strict=True)
    }
    expected = ("failed", "unloadable", "failbetter.UndecodablePayload")
    assert found == dict.fromkeys(UNDECODABLE, expected)
    assert not worker.said(r"child \d+ (killed|exited)")
    for job in healthy:
        assert (job.refresh().state, job.row.starts) == ("succeeded", 1)
    site.check()
    for job, payload in zip(broken, kept, strict=True):
        rewrite(site, job, payload=payload)
        job.retry()
    site.drain()
    assert {job.refresh().state for job in broken} == {"succeeded"}
    site.check(retried=broken)


def test_policy_undecodable(site: Site) -> None:
    """C2: a row whose policy cannot be read runs once at most, and no worker dies of it."""
    unreadable = ["{", "[]", '{"max_attempts":"many"}']
    broken = site.enqueue_many("hopeless", [(n,) for n in range(3)])
    broken += site.enqueue_many("work", [(n, 0.2) for n in range(3)])
    broken += site.enqueue_many("poison", [(0.1,)] * 3)
    healthy = site.enqueue_many("plain", [(n,) for n in range(20)])
    for job, policy in zip(broken, unreadable * 3, strict=True):
        rewrite(site, job, policy=policy)
    worker = site.worker()
    site.wait_over([*broken, *healthy])
    assert worker.alive
    assert {len(site.log.starts(job)) for job in broken} == {1}
    ends = {(job.task, job.state, job.reason) for job in broken}
    assert ends == {
        ("hopeless", "failed", "error"),
        ("poison", "failed", "crashed"),
        ("work", "succeeded", None),
    }
    assert {(job.state, job.row.starts) for job in healthy} == {("succeeded", 1)}
    worker.kill()


def test_app_gone(site: Site) -> None:
    """A worker whose app cannot be loaded ends at once with a clear line, and takes nothing."""
    job = site.enqueue("plain", 1)
    began = time.monotonic()
    worker = site.worker(ready=False, env={"FAILBETTER_LEASE": "never"})
    assert worker.wait() == 78
    assert time.monotonic() - began < 10
    assert worker.said("lease")
    assert (job.refresh().state, job.row.fence) == ("pending", 0)
    site.drain()
    site.check()
