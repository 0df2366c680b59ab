"""What a drill leaves is taken away whole, in batches; and nothing else is."""

from __future__ import annotations

import shutil

import pytest
from tests.conformance.kit import NOW, Ledger, attempt_of, wall

from failbetter import App, ids
from failbetter.drill.place import Place, clear_dead
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


# -- what dead drills left, as the next one finds it

HOUR = 3600


def number_of(seconds_ago: float) -> int:
    """The number of a drill that began so long ago."""
    ago = round(seconds_ago * 1000)
    return ids.take() - (ago << 22)


def test_what_a_drill_of_another_host_left_is_taken_away_after_an_hour(
    ledger: Ledger, app: App
) -> None:
    old, young = Drill(number_of(HOUR + 60), "elsewhere"), Drill(number_of(HOUR - 60), "elsewhere")
    for drill in (old, young):
        ledger.add(queue=drill.queue)
        with ledger.database.write() as tx:
            clearing.announce(tx, drill)
    assert clear_dead(app) == [old]
    with ledger.database.look() as tx:
        assert clearing.announced(tx) == [young]
        assert (clearing.left(tx, old), clearing.left(tx, young)) == (0, 1)


def test_a_drill_of_this_host_is_dead_once_nobody_holds_its_place(app: App) -> None:
    place = Place(app)
    assert clear_dead(app) == []
    assert place.folder.is_dir()
    place.close()
    assert clear_dead(app) == [place.drill]
    assert not place.folder.exists()
    with app.database.look() as tx:
        assert clearing.announced(tx) == []


def test_a_drill_whose_folder_is_gone_is_dead(app: App) -> None:
    place = Place(app)
    shutil.rmtree(place.folder)
    place.close()
    assert clear_dead(app) == [place.drill]
    assert clear_dead(app) == []


def test_what_a_living_worker_holds_is_not_taken_from_it(
    ledger: Ledger, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failbetter.drill.place.PATIENCE", 0.0)
    place = Place(app)
    queue = place.drill.queue
    ledger.register(1, queues=f'["{queue}"]', renewed_at=wall())
    number = ledger.add(queue=queue)
    ledger.claim(queues=[queue])
    assert place.clear() == 1
    assert ledger.row(number).claimed == 1
    with app.database.look() as tx:
        assert clearing.announced(tx) == [place.drill]
    place.close()
