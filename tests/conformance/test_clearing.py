"""What a drill leaves is taken away whole, in batches; and nothing else is."""

from __future__ import annotations

from tests.conformance.kit import NOW, Ledger, attempt_of

from failbetter import ids
from failbetter.ledger import clearing, effects, outbox, progress
from failbetter.ledger.clearing import Drill
from failbetter.ledger.schema import metadata

LAST = (1 << 63) - 1


def counts(ledger: Ledger) -> dict[str, int]:
    """How many rows each table has."""
    return {
        table.name: len(ledger.database.query(table.select())) for table in metadata.sorted_tables
    }


def worked_through(ledger: Ledger, queue: str) -> int:
    """A job with everything that can be kept of one; it has ended."""
    number = ledger.add(queue=queue)
    (job,) = ledger.claim(queues=[queue])
    ledger.begin(job)
    fence, holder = attempt_of(job)[1:]
    with ledger.database.write() as tx:
        effects.intend(tx, number, fence, holder, "charge", NOW)
        effects.done(tx, number, fence, holder, "charge", "1", NOW)
        progress.start(tx, number, fence, holder, "items", 2, NOW)
        progress.advance(tx, number, fence, holder, "items", ["a"], [("b", "E", "no")], [], NOW)
        outbox.put(tx, number)
    ledger.end(job)
    return number


def clear(ledger: Ledger, drill: Drill, limit: int = 100) -> int:
    with ledger.database.write() as tx:
        return clearing.clear(tx, drill, limit)


def test_ended_jobs_go_with_all_that_is_kept_of_them(worked: Ledger) -> None:
    drill = Drill(ids.take(), "here")
    worked_through(worked, "default")
    before = counts(worked)
    for _ in range(3):
        worked_through(worked, drill.queue)
    spread = ("jobs", "attempts", "effects", "items", "progress", "outbox")
    assert all(counts(worked)[f"failbetter_{it}"] > before[f"failbetter_{it}"] for it in spread)
    assert [clear(worked, drill, 2), clear(worked, drill, 2), clear(worked, drill, 2)] == [2, 1, 0]
    assert counts(worked) == before


def test_live_jobs_and_other_queues_stay(worked: Ledger) -> None:
    drill, other = Drill(ids.take(), "here"), Drill(ids.take(), "here")
    waiting = worked.add(queue=drill.queue)
    elsewhere = worked_through(worked, other.queue)
    assert clear(worked, drill) == 0
    assert {worked.row(waiting).state, worked.row(elsewhere).state} == {"pending", "succeeded"}
    with worked.database.write() as tx:
        assert clearing.left(tx, drill) == 1
        assert clearing.cancel_waiting(tx, drill, 10) == 1
    assert worked.row(waiting).reason == "cancelled"
    assert clear(worked, drill) == 1
    with worked.database.look() as tx:
        assert (clearing.left(tx, drill), clearing.left(tx, other)) == (0, 1)


def test_a_claimed_job_is_not_cancelled_over_its_worker(worked: Ledger) -> None:
    drill = Drill(ids.take(), "here")
    number = worked.add(queue=drill.queue)
    worked.claim(queues=[drill.queue])
    with worked.database.write() as tx:
        assert clearing.cancel_waiting(tx, drill, 10) == 0
    assert clear(worked, drill) == 0
    assert worked.row(number).claimed == 1


def test_no_drill_reaches_a_queue_that_is_not_of_a_drill() -> None:
    assert Drill(LAST, "default").queue.startswith("failbetter.drill.")


def test_a_drill_is_known_until_it_is_forgotten(worked: Ledger) -> None:
    one, two = Drill(ids.take(), "here"), Drill(ids.take(), "there")
    with worked.database.write() as tx:
        for drill in (one, two, one):
            clearing.announce(tx, drill)
        assert sorted(clearing.announced(tx), key=lambda drill: drill.number) == [one, two]
        clearing.forget(tx, one)
        assert clearing.announced(tx) == [two]
