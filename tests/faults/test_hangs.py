"""Four ways to hang, and their async kin: each is stopped within `timeout` + 2 s, with its stacks.

The row "hang" of the comparison with today's systems; promises 4 and 7.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from tests.faults.apps import HANGS
from tests.faults.harness import Site

if TYPE_CHECKING:
    from tests.faults.conftest import SideBySide

    from failbetter import Job

# These do not hear the exception that their worker raises in them: their process is replaced.
DEAF = {"hang_in_c", "hang_swallowing", "ahang_swallowing", "ahang_busy", "ahang_in_c"}


def check_hung(site: Site, name: str, job: Job) -> list[str]:
    """What is wrong with the record of a body that hung."""
    job.refresh()
    wrong = []
    if (job.state, job.reason) != ("failed", "timeout"):
        wrong.append(f"{name} ended {job.state}/{job.reason}")
    if len(job.attempts) != 1 or len(site.log.starts(job)) != 1:
        wrong.append(f"{name} ran {len(site.log.starts(job))} times")
        return wrong
    attempt = job.attempts[0]
    assert attempt.begun_at is not None
    took = (attempt.ended_at - attempt.begun_at).total_seconds()
    if attempt.cause != "timed_out" or not 1.0 <= took <= 3.0:
        wrong.append(f"{name}: {attempt.cause} after {took:.2f} s")
    stacks = f"{attempt.traceback} {attempt.evidence.get('stacks')}"
    if name not in stacks:
        wrong.append(f"{name}: where it hung is not on record: {stacks}")
    return wrong


def test_hangs_one_body_a_child(site: Site) -> None:
    """All of them, with neighbours in the other child that are none the worse for it."""
    jobs = [(name, site.enqueue(name)) for name in HANGS]
    neighbours = site.enqueue_many("plain", [(n, 0.01) for n in range(100)])
    site.drain(processes=2)
    wrong = [one for name, job in jobs for one in check_hung(site, name, job)]
    assert not wrong, "\n".join(wrong)
    assert {job.refresh().row.starts for job in neighbours} == {1}
    site.check()


# At most two in a group use a core while they hang.
GROUPS = [
    ("hang_in_c", "hang_asleep", "ahang_swallowing"),
    ("hang_busy", "ahang_asleep", "hang_swallowing_exceptions"),
    ("ahang_busy", "ahang_in_c", "hang_swallowing"),
]


@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_hang_among_neighbours(side_by_side: SideBySide, names: tuple[str, ...]) -> None:
    """Promise 4: four bodies share a child, one hangs. The others are handed back, uncharged."""
    side_by_side(**{name: functools.partial(hang_among_neighbours, name) for name in names})


def test_every_hang_has_neighbours() -> None:
    assert sorted(HANGS) == sorted(name for group in GROUPS for name in group)


def hang_among_neighbours(name: str, site: Site) -> None:
    worker = site.worker(concurrency=4)
    warm = site.enqueue("plain", 0)
    site.wait_over([warm])
    hung = site.enqueue(name)
    neighbours = site.enqueue_many("plain", [(1, 1.6), (2, 1.6)])
    neighbours += site.enqueue_many("awork", [(3, 1.6)])
    site.wait_over([hung, *neighbours])
    worker.kill()
    wrong = check_hung(site, name, hung)
    assert not wrong, "\n".join(wrong)
    for job in neighbours:
        row = job.refresh().row
        assert (row.state, row.attempts, row.crashes, row.losses) == ("succeeded", 0, 0, 0)
        causes = [attempt.cause for attempt in job.attempts]
        if name not in DEAF:
            assert causes == ["returned"]
        else:
            assert causes in (["bystander", "returned"], ["returned"])
    site.check()
