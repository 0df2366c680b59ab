"""A job that kills its process every time: bounded, with its reason; its neighbours are done.

The row "poison job" of the comparison with today's systems; promise 4; A4.
"""

from __future__ import annotations

import pytest
from tests.faults.harness import Site


def test_poison_alone_in_its_child(site: Site) -> None:
    """At most `max_crashes` runs, "killed by signal 9", neighbours never charged nor run twice."""
    worker = site.worker(processes=2)
    poison = site.enqueue("poison")
    neighbours = site.enqueue_many("plain", [(n, 0.005) for n in range(200)])
    site.wait_over([poison, *neighbours])
    assert (poison.state, poison.reason) == ("failed", "crashed")
    assert len(site.log.starts(poison)) == 3
    assert "killed by signal 9" in (poison.error_message or "")
    assert [attempt.cause for attempt in poison.attempts] == ["crashed"] * 3
    assert all(attempt.evidence["signal"] == 9 for attempt in poison.attempts)
    for job in neighbours:
        row = job.row
        assert (row.state, row.starts, row.crashes) == ("succeeded", 1, 0)
    assert worker.alive
    worker.kill()
    site.check()


def test_poison_among_others_in_a_child(site: Site) -> None:
    """With `--concurrency 4` a death has several suspects: each runs alone next, the innocent are
    refunded, and the poison job has at most one run more than `max_crashes`."""
    worker = site.worker(concurrency=4)
    poison = site.enqueue("poison", 0.2)
    neighbours = site.enqueue_many("plain", [(n, 0.6) for n in range(3)])
    neighbours += site.enqueue_many("awork", [(n, 0.05) for n in range(30)])
    site.wait_over([poison, *neighbours])
    assert (poison.state, poison.reason) == ("failed", "crashed")
    assert 2 <= len(site.log.starts(poison)) <= 4
    assert "killed by signal 9" in (poison.error_message or "")
    suspects = [job for job in neighbours if job.row.starts > 1]
    assert suspects, "nobody shared the death: this shows nothing"
    for job in neighbours:
        row = job.row
        assert (row.state, row.attempts, row.crashes, row.suspect) == ("succeeded", 0, 0, 0)
        # One shared death at most: whoever was in it has been alone or among healthy ones since.
        assert [attempt.cause for attempt in job.attempts[:-1]] in ([], ["crashed"])
    for job in [*suspects, poison]:
        first = job.attempts[0]
        if "shared_with" in first.evidence:
            check_ran_alone(site, job.id, first.number + 1)
    assert worker.alive
    worker.kill()
    site.check()


def check_ran_alone(site: Site, job: str, number: int) -> None:
    """No other body ran in the process while that attempt did."""
    entries = site.log.entries()
    begin = next(e for e in entries if (e.job, e.attempt, e.what) == (job, number, "start"))
    ends = [e.at for e in entries if (e.job, e.attempt, e.what) == (job, number, "end")]
    end = ends[0] if ends else begin.at + 0.1
    for other in entries:
        if other.what == "start" and other.pid == begin.pid and other.job != job:
            over = [
                e.at
                for e in entries
                if (e.job, e.attempt) == (other.job, other.attempt) and e.what != "start"
            ]
            assert other.at > end or (over and over[0] < begin.at), f"{other.job} ran beside {job}"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_many_poison_jobs(site: Site, concurrency: int) -> None:
    """Promise 4: all of them reach their end, and so do all others."""
    poison = site.enqueue_many("poison", [(0.01,)] * 4)
    others = site.enqueue_many("plain", [(n, 0.01) for n in range(40)])
    site.drain(processes=2, concurrency=concurrency)
    assert {(job.refresh().state, job.reason) for job in poison} == {("failed", "crashed")}
    assert {job.refresh().state for job in others} == {"succeeded"}
    assert max(len(site.log.starts(job)) for job in poison) <= (3 if concurrency == 1 else 4)
    site.check()
