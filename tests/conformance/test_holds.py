"""Holds: what is paused is not claimed, says so, and waits at its old place. A16, D5."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger

import failbetter
from failbetter import App, holds, ids, ledger
from failbetter.ledger import claims, registry
from failbetter.ledger.endings import Error
from failbetter.ledger.holds import HoldRow, Kind
from failbetter.ledger.kinds import Tx
from failbetter.lifecycle.states import Cause
from failbetter.recovery.deciding import expiry
from failbetter.worker.desk import Desk
from failbetter.worker.hall import Hall
from failbetter.worker.nursery import Nursery
from failbetter.worker.settings import Settings


@pytest.fixture
def at(app: App) -> Ledger:
    """The app's own ledger, at which workers 1 and 2 are registered."""
    made = Ledger(app.database)
    made.register(1)
    made.register(2)
    return made


def ids_of(claimed: list[claims.Claimed]) -> list[int]:
    return [job.id for job in claimed]


# -- a queue


def test_a_paused_queue_is_passed_over(app: App, at: Ledger) -> None:
    kept, free = at.add(queue="images"), at.add(queue="mail")
    app.pause("images", reason="the disk is full", actor="ana")
    assert ids_of(at.claim()) == [free]
    assert at.row(kept).held is None
    waits = app.job(ids.to_text(kept)).waiting_for()
    assert waits == "queue images to be resumed (paused by ana: the disk is full)"
    app.resume("images")
    assert ids_of(at.claim()) == [kept]


def test_what_falls_due_in_a_paused_queue_wakes_nobody(app: App, at: Ledger) -> None:
    at.add(queue="images", run_at=NOW + SECOND)
    assert at.claim_and_due()[1] == NOW + SECOND
    app.pause("images")
    assert at.claim_and_due() == ([], None)


def test_what_is_held_is_not_what_waits_longest(app: App, at: Ledger) -> None:
    at.add(queue="images")
    app.pause("images")
    with at.database.look() as tx:
        assert ledger.reads.oldest_due(tx, NOW) is None


def test_nobody_waits_for_a_paused_queue_to_drain(app: App, at: Ledger) -> None:
    at.add(queue="images")
    app.pause("images")
    with at.database.look() as tx:
        assert not claims.any_live(tx, [])
        assert not claims.any_live(tx, ["images"])


# -- a task, a group


def test_a_paused_task_is_parked_by_the_claim(app: App, at: Ledger) -> None:
    kept = [at.add(task="upload") for _ in range(3)]
    free = at.add(task="mail")
    app.pause(task="upload")
    (job,) = at.claim(limit=2)
    assert job.id == free
    at.end(job)
    row = at.row(kept[0])
    assert (row.state, row.claimed, row.worker, row.starts) == ("pending", None, None, 0)
    assert [hold.jobs for hold in app.holds()] == [3]
    with at.database.look() as tx:
        assert not claims.any_live(tx, [])


def test_what_was_parked_comes_back_at_its_old_place(app: App, at: Ledger) -> None:
    kept = [at.add(task="upload", run_at=NOW - 9 * SECOND, priority=3) for _ in range(3)]
    app.pause(task="upload")
    assert at.claim() == []
    later = at.add(task="mail", run_at=NOW - SECOND, priority=3)
    app.resume(task="upload")
    assert app.holds() == []
    claimed = at.claim()
    assert ids_of(claimed) == [*kept, later]
    assert [job.attempts for job in claimed] == [0, 0, 0, 0]


def test_a_paused_group_keeps_what_failed_so_before(app: App, at: Ledger) -> None:
    hurt = at.add()
    error = Error("ValueError", "no", "Traceback", "1-cause")
    assert at.end(at.claim_one(), Cause.RAISED, error=error).run_at is not None
    fresh = at.add()
    app.pause(group="1-cause")
    assert ids_of(at.claim(now=NOW + 3600 * SECOND)) == [fresh]
    assert at.row(hurt).held is not None


def test_exclusive_jobs_are_parked_too(app: App, at: Ledger) -> None:
    kept = [at.add(task="upload", exclusive="k", run_at=NOW - n) for n in (2, 1)]
    app.pause(task="upload")
    assert at.claim() == []
    app.resume(task="upload")
    assert ids_of(at.claim()) == kept[:1]


def test_a_lane_full_of_held_jobs_hides_nothing_for_long(app: App, at: Ledger) -> None:
    for _ in range(30):
        at.add(task="upload")
    free = at.add(task="mail")
    app.pause(task="upload")
    with at.database.write() as tx:
        held = ledger.holds.standing(tx, to_claim=True)
        found, _ = claims.look(tx, [], NOW, held)
        claimed, more, _ = claims.claim_in(tx, 1, found, 3, NOW, held)
    assert (claimed, more) == ([], True)  # it says that it has not looked through
    for _ in range(10):
        if claimed := at.claim(limit=3):
            break
    assert ids_of(claimed) == [free]


def test_what_is_parked_can_be_cancelled_and_expires(app: App, at: Ledger) -> None:
    cancelled, expiring = at.add(task="upload"), at.add(task="upload", expires_at=NOW + SECOND)
    app.pause(task="upload")
    assert at.claim() == []
    assert at.cancel(cancelled)
    with at.database.write() as tx:
        (late,) = registry.expired(tx, NOW + 2 * SECOND, 10)
    assert late.id == expiring
    at.settle(expiry(late, NOW + 2 * SECOND))
    for number in (cancelled, expiring):
        row = at.row(number)
        assert (row.state, row.held) == ("discarded", None)
    app.resume(task="upload")
    assert at.claim() == []


def test_a_worker_knows_what_was_held_since_it_claimed(app: App, at: Ledger) -> None:
    kept, free, queued = at.add(task="upload"), at.add(), at.add(queue="images")
    claimed = at.claim()
    with at.database.look() as tx:
        desk = Desk(app.database, next(one for one in registry.all_workers(tx) if one.id == 1))
    assert desk.kept_back(claimed) == set()
    app.pause(task="upload")
    app.pause("images")
    assert desk.kept_back(claimed) == {kept, queued}
    hall = Hall(Nursery(Settings(app="shop:app")), 2)
    hall.keep(claimed)
    assert sorted(ids_of(hall.remove({kept, queued}))) == sorted([kept, queued])
    assert ids_of(list(hall)) == [free]


# -- letting go


def test_at_a_rate(app: App, at: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [at.add(task="upload") for _ in range(10)]
    app.pause(task="upload")
    assert at.claim() == []
    app.resume(task="upload", rate=2)
    (hold,) = app.holds()
    assert (hold.active, hold.rate, hold.jobs) == (False, 2, 10)
    waits = app.job(ids.to_text(kept[9])).waiting_for()
    assert waits == (
        "its turn: task upload is no longer paused, and its jobs are let go of one by one"
    )
    with at.database.look() as tx:
        (row,) = ledger.holds.letting_go(tx)
    began = row.let_go_since
    assert began is not None
    claimed: list[int] = []
    for seconds, expected in [(0, 1), (1, 3), (1, 3), (2.4, 5), (60, 10)]:
        monkeypatch.setattr(type(at.database.kind), "now", lambda _: began + int(seconds * SECOND))  # noqa: B023
        holds.tick(app.database)
        claimed += ids_of(at.claim(now=NOW))
        assert claimed == kept[:expected]
    holds.tick(app.database)
    assert app.holds() == []


def test_somebody_else_ends_what_was_begun(app: App, at: Ledger) -> None:
    """Whoever resumed was killed between the two."""
    kept = [at.add(task="upload") for _ in range(3)]
    app.pause(task="upload")
    assert at.claim() == []
    with at.database.write() as tx:
        hold = ledger.holds.active(tx, "task", "upload")
        assert hold is not None
        assert ledger.holds.end(tx, hold, None)
        assert not ledger.holds.end(tx, hold, None)
    assert at.claim() == []
    assert holds.tick(app.database)
    assert ids_of(at.claim()) == kept
    assert not holds.tick(app.database)
    assert app.holds() == []


def test_paused_again_while_it_lets_go(app: App, at: Ledger) -> None:
    """The second hold parks what the first one lets go of, and each lets go of its own."""
    kept = [at.add(task="upload") for _ in range(4)]
    app.pause(task="upload")
    assert at.claim() == []
    app.resume(task="upload", rate=0.001)
    app.pause(task="upload")
    holds.tick(app.database)
    assert at.claim() == []
    assert [(hold.active, hold.jobs) for hold in app.holds()] == [(False, 3), (True, 1)]
    app.resume(task="upload")
    assert ids_of(at.claim()) == kept[:1]


# -- the verbs


def test_pausing_twice_keeps_the_first(app: App) -> None:
    before = datetime.now(UTC)
    first = app.pause("images", reason="one", actor="ana")
    again = app.pause("images", reason="two", actor="ben")
    assert again == first
    assert (first.kind, first.name, first.active, first.reason, first.actor) == (
        "queue",
        "images",
        True,
        "one",
        "ana",
    )
    assert abs((first.since - before).total_seconds()) < 60
    assert (first.jobs, first.rate) == (None, None)


def test_pausing_at_the_moment_in_which_another_resumes(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold that was in the way is gone by the time it is looked at."""
    app.pause("images", reason="one")
    looked = ledger.holds.active
    seen: list[bool] = []

    def ends_first(tx: Tx, kind: Kind, name: str) -> HoldRow | None:
        found = looked(tx, kind, name)
        if not seen and found is not None:
            assert ledger.holds.end(tx, found, None)
            found = None
        seen.append(found is not None)
        return found

    monkeypatch.setattr(ledger.holds, "active", ends_first)
    assert app.pause("images", reason="two").reason == "two"
    assert seen == [False, True]


def test_resuming_what_is_not_paused_is_refused(app: App) -> None:
    for what in ({"queue": "images"}, {"task": "upload"}, {"group": "1-cause"}):
        with pytest.raises(failbetter.Refused, match="is not paused"):
            app.resume(**what)


@pytest.mark.parametrize(
    "what", [{}, {"queue": "a", "task": "b"}, {"queue": ""}, {"task": " "}, {"group": "x" * 200}]
)
def test_what_cannot_be_paused(app: App, what: dict[str, str]) -> None:
    for verb in (app.pause, app.resume):
        with pytest.raises(ValueError, match=r"name what is meant|is named by"):
            verb(**what)
    assert app.holds() == []


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_cannot_be(app: App, rate: float) -> None:
    app.pause(task="upload")
    with pytest.raises(ValueError, match="a rate is"):
        app.resume(task="upload", rate=rate)
    with pytest.raises(ValueError, match="not a queue"):
        app.resume("upload", rate=1)
    assert [hold.active for hold in app.holds()] == [True]


def test_health_names_them(app: App, at: Ledger) -> None:
    assert "holds" not in app.health().as_dict()["checks"]
    app.pause("images")
    app.pause(task="upload")
    said = app.health().as_dict()["checks"]["holds"]
    assert said == {
        "status": "pass",
        "observedValue": 2,
        "output": "kept waiting: queue images, task upload",
    }
