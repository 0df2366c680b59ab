"""SIGKILL at every named boundary, each time with a healthy worker to come after or beside.

Promises 1 to 6 and 9. Each point stands in the code that really runs (`failbetter.faultpoints`).
"""

from __future__ import annotations

import pytest
from tests.faults import promises
from tests.faults.harness import Site, wait_until

from failbetter.faultpoints import POINTS

IN_SUPERVISOR = {
    "after_claim": "after_claim:2",
    "in_commit": "in_commit:3",
    "after_commit": "after_commit:3",
    "in_tick": "in_tick:4",
    "in_hand_back": "in_hand_back:1",
}
IN_CHILD = {"before_body": "before_body:5", "in_body": "in_body:5", "after_body": "after_body:5"}
IN_COURIER = {"before_delivered"}  # see test_mirror
IN_OWN_COMMIT = {"before_own_commit", "after_own_commit"}  # see test_resume
IN_RECOVERY = {"after_recover_lock", "after_removal", "in_recovery", "before_recorded"}
"""See test_recover."""
IN_OPERATION = {"in_operation"}  # see test_operations
IN_EDIT = {"in_edit"}  # see test_edit
IN_SENDING = {"before_send", "after_send"}  # see test_guests
IN_PRUNING = {"before_pruning", "in_pruning"}  # see test_pruning


def test_every_point_is_tested() -> None:
    elsewhere = IN_COURIER | IN_OWN_COMMIT | IN_RECOVERY | IN_OPERATION | IN_EDIT | IN_PRUNING
    elsewhere |= IN_SENDING
    assert IN_SUPERVISOR.keys() | IN_CHILD.keys() | elsewhere == POINTS


def fill(site: Site) -> None:
    site.enqueue_many("work", [(n, 0.002) for n in range(60)])
    # Long ones among short ones: what waits behind them is taken back and handed back.
    site.enqueue_many("work", [(n, 0.4) for n in range(3)])
    site.enqueue_many("pay", [(n,) for n in range(40)])
    site.enqueue_many("work", [(n, 0.002) for n in range(60)])


@pytest.mark.parametrize("point", sorted(IN_SUPERVISOR))
def test_supervisor_killed_at(site: Site, point: str) -> None:
    """Promises 1 to 6: whatever a supervisor was doing, the next worker takes it up."""
    fill(site)
    first = site.worker(fault=IN_SUPERVISOR[point], ready=False)
    assert first.wait() == -9
    site.drain(processes=2)
    site.check()
    succeeded = site.app.jobs.where(state="succeeded").count()
    uncertain = site.app.failed.where(reason="uncertain").count()
    assert succeeded + uncertain == len(site.accepted)
    # One child, one body at a time: nothing else can have been running when it died, and of what
    # was charged with a loss all the rest had written that it began.
    assert uncertain <= 1
    assert len(promises.charged_without_body(site.app, site.log)) <= 1
    assert sum(job.row.crashes for job in site.app.jobs) == 0


@pytest.mark.parametrize("point", sorted(IN_CHILD))
def test_child_killed_at(site: Site, point: str) -> None:
    """Promise 4: every child of the first worker dies there at its fifth job, one after another."""
    fill(site)
    first = site.worker(fault=IN_CHILD[point], processes=2)
    wait_until(lambda: first.text().count("killed by signal 9") >= 6, "six deaths", 60)
    second = site.worker(processes=1)
    site.wait_all_over(60)
    assert first.alive
    assert second.alive
    first.kill()
    second.kill()
    site.check()
    rows = [job.row for job in site.app.jobs]
    if point == "before_body":
        # A job whose body had not begun is never charged.
        assert {row.starts for row in rows} == {1}
        assert {row.state for row in rows} == {"succeeded"}
    assert sum(row.losses for row in rows) == 0
    assert sum(row.crashes for row in rows) <= first.text().count("killed by signal 9")
