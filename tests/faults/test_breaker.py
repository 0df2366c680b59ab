"""An outage under real workers: jobs wait for its end and none fails of it. A16, D5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.harness import Site, wait_until

if TYPE_CHECKING:
    from failbetter import Hold


def the_breaker(site: Site) -> Hold | None:
    """The open breaker, if it is open."""
    return next((hold for hold in site.app.holds() if hold.active), None)


def test_an_outage_spends_nothing_and_fails_nothing(site: Site) -> None:
    """Two workers count together; one is killed while it is open; a probe ends it."""
    service = site.folder / "service"
    for _ in range(2):
        site.worker()
    jobs = site.enqueue_many("call", [(str(service),)] * 200)
    wait_until(lambda: the_breaker(site), "the breaker to open")
    before = len(site.log.entries("start"))
    # A probe goes on however long it takes, and another job each time.
    wait_until(lambda: len(site.log.entries("start")) >= before + 3, "three probes")
    site.workers[0].kill()
    other = site.enqueue("plain", 1)  # which needs no such service
    site.wait_over([other])
    assert the_breaker(site) is not None
    before = len(site.log.entries("start"))
    wait_until(lambda: len(site.log.entries("start")) >= before + 3, "three probes more")
    assert all(not job.refresh().over for job in jobs)
    service.touch()
    site.wait_over(jobs, 60)
    rows = [job.row for job in jobs]
    assert {row.state for row in rows} == {"succeeded"}
    raised = [one for job in jobs for one in job.attempts if one.cause == "raised"]
    charged = [one for one in raised if "held_back" not in one.evidence]
    # Those that opened it; both workers may have done so at once.
    assert 4 <= len(charged) <= 8 < len(raised)
    wait_until(lambda: site.app.holds() == [], "all to be let go of")
    site.check()
