"""Hooks of jobs whose process, worker or ending transaction was killed (A14; promise 10)."""

from __future__ import annotations

import msgspec
import pytest
from tests.faults.harness import Site, wait_until

from failbetter import Job
from failbetter.ids import to_text


@pytest.fixture(autouse=True)
def hooks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of these tests have the hooks of `tests.faults.apps`."""
    monkeypatch.setenv("FAILBETTER_TEST_HOOKS", "1")


def hook_jobs(site: Site, name: str) -> list[Job]:
    return list(site.app.jobs.where(task=name))


def told(site: Site, name: str) -> list[str]:
    """The events that the bodies of that hook were given."""
    return [entry.what.removeprefix(f"{name} ") for entry in site.log.entries()
            if entry.what.startswith(f"{name} ")]  # fmt: skip


def events_of(site: Site) -> list[str]:
    """The events of which there is a job, be it done or not."""
    payloads = [job.row.payload for job in hook_jobs(site, "heard")]
    return [msgspec.json.decode(text)["event"]["id"] for text in payloads]


def event_of(job: Job) -> str:
    row = job.refresh().row
    return f"{to_text(row.id)}.{row.fence}.{row.state}"


def test_a_job_that_kills_its_process_calls_its_hook_once(site: Site) -> None:
    """A14, promise 10: until its crash budget is gone, and then once, in another process."""
    job = site.enqueue("poison")
    worker = site.worker()
    site.wait_over([job], 60)
    assert (job.state, job.reason) == ("failed", "crashed")
    wait_until(lambda: told(site, "heard"), "the hook")
    site.wait_all_over()
    assert told(site, "heard") == [event_of(job)]
    assert worker.alive
    assert [one.state for one in hook_jobs(site, "heard")] == ["succeeded"]


@pytest.mark.parametrize("point", ["in_commit", "after_commit"])
def test_a_worker_killed_at_endings(site: Site, point: str) -> None:
    """A14, promise 10: in the transaction there is neither ending nor event, after it there are
    both, and the hooks run though the worker that wrote it is dead."""
    jobs = site.enqueue_many("bad", [(n,) for n in range(60)])
    for passing in (3, 5, 8):
        worker = site.worker(fault=f"{point}:{passing}", ready=False)
        assert worker.wait() == -9
        failed = [job for job in jobs if job.refresh().state == "failed"]
        assert sorted(events_of(site)) == sorted(event_of(job) for job in failed)
    site.drain()
    assert {job.refresh().state for job in jobs} == {"failed"}
    assert set(told(site, "heard")) == {event_of(job) for job in jobs}
    assert sorted(events_of(site)) == sorted(event_of(job) for job in jobs)
    assert len(hook_jobs(site, "opened")) == 1


def test_a_worker_that_is_gone_with_its_job(site: Site) -> None:
    """A14: whoever finds the loss makes the event."""
    job = site.enqueue("not_twice", 1, 30.0)
    first = site.worker()
    site.log.wait_for("start", job)
    first.kill()
    site.worker()
    site.wait_over([job], 60)
    assert (job.state, job.reason) == ("failed", "lost")
    wait_until(lambda: told(site, "heard"), "the hook")
    assert told(site, "heard") == [event_of(job)]


def test_a_hook_that_dies_changes_nothing_of_the_job(site: Site) -> None:
    """A14: it is retried, and fails as a job of its own."""
    job = site.enqueue("bad", 1)
    site.drain(env={"FAILBETTER_TEST_HOOKS": "raise"})
    (hook,) = hook_jobs(site, "heard")
    assert (hook.state, hook.reason, len(hook.attempts)) == ("failed", "error", 2)
    (attempt,) = job.attempts
    assert (job.refresh().state, attempt.error_type) == ("failed", "ValueError")
    assert told(site, "heard") == [event_of(job)] * 2


def test_many_workers_one_group(site: Site) -> None:
    """A14: of all processes that see a cause first, one opens its group."""
    jobs = site.enqueue_many("bad", [(n,) for n in range(40)])
    workers = [site.worker(processes=2) for _ in range(2)]
    site.wait_over(jobs, 60)
    site.wait_all_over(60)
    assert sorted(told(site, "heard")) == sorted(event_of(job) for job in jobs)
    assert len(told(site, "opened")) == 1
    assert all(worker.alive for worker in workers)
