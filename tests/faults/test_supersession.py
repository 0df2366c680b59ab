"""Real workers: what is out of date does not run, whoever has it and however far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failbetter import ids
from failbetter.ledger import supersession
from failbetter.ledger.supersession import About

if TYPE_CHECKING:
    from tests.faults.harness import Site


def test_a_late_job_is_not_run(site: Site) -> None:
    gate = site.folder / "gate"
    gate.touch()
    newest = site.enqueue("save", "doc", 4, str(gate))
    site.drain()
    late = site.enqueue("save", "doc", 3, str(gate))
    again = site.enqueue("save", "doc", 4, str(gate))
    other = site.enqueue("save", "another", 1, str(gate))
    site.drain()
    states = [(job.refresh().state, job.reason) for job in (newest, late, again, other)]
    assert states == [
        ("succeeded", None),
        ("discarded", "superseded"),
        ("succeeded", None),
        ("succeeded", None),
    ]
    assert site.log.starts(late) == []
    assert (late.attempts, late.attempt) == ([], 0)
    site.check()


def test_a_claimed_job_that_is_out_of_date_by_then_is_not_begun(site: Site) -> None:
    gate = site.folder / "gate"
    first = site.enqueue("hold", str(gate))
    # Claimed with the first, it waits behind it for the one body that may run.
    late = site.enqueue("save", "doc", 3, str(gate))
    site.worker(processes=1)
    site.log.wait_for("start", first)
    with site.app.database.write() as tx:
        supersession.record(tx, [(ids.take(), About("save", "doc", 4))], tx.now())
    gate.touch()
    site.wait_over([first, late])
    assert (late.refresh().state, late.reason) == ("discarded", "superseded")
    assert site.log.starts(late) == []
    assert late.attempts == []
    site.check()
