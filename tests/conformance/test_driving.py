"""Maintenance drives operations: canaries, ramps, pauses, and what whoever began it left undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.conformance.kit import NOW, SECOND, Ledger, set_clocks

from failbetter import App, Jobs, Operation, OperationNotFound, ids
from failbetter.ledger import operations as rows
from failbetter.ledger.endings import Error
from failbetter.ledger.filters import Filters
from failbetter.ledger.schema import operations, selected
from failbetter.lifecycle.ramp import Options
from failbetter.lifecycle.states import Cause
from failbetter.triage import steps
from failbetter.triage.ramp import Driver

FAILED = Filters(states=("failed",))


class Scene:
    """A ledger, its clock, a maintainer, and a worker whose jobs fare as told."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger = ledger
        self._patch = monkeypatch
        self.now = NOW + 3600 * SECOND
        self.broken = {"1-Bug"}
        self.pass_(0)
        self.driver = Driver(ledger.database)

    def pass_(self, seconds: float) -> None:
        """Time passes."""
        self.now += round(seconds * SECOND)
        set_clocks(self._patch, self.now)

    def fail(self, error: str, count: int) -> list[int]:
        return [self.ledger.fail(error=error, run_at=NOW) for _ in range(count)]

    def retry(self, **given: Any) -> Operation:
        return Jobs(self.ledger.database, FAILED).retry(all=True, **given)

    def tick(self) -> int:
        """A second later maintenance looks after it all; how many jobs it moved."""
        self.pass_(1)
        moved = 0
        while True:
            driven = self.driver.tick(0.0)
            moved += driven.moved
            if not driven.more:
                return moved

    def work(self) -> int:
        """All that is due is run; how many jobs it was."""
        claimed = self.ledger.claim(limit=1000, now=self.now)
        for job in claimed:
            mark = self.ledger.row(job.id).fingerprint
            if mark in self.broken:
                error = Error("Bug", "no", None, mark)
                self.ledger.end(job, Cause.RAISED, verdict="fail", now=self.now, error=error)
            else:
                self.ledger.end(job, now=self.now)
        return len(claimed)

    def go_on(self, operation: Operation, ticks: int = 60) -> None:
        """Maintain and work until the operation runs no more."""
        for _ in range(ticks):
            self.tick()
            self.pass_(1)
            self.work()
            if operation.refresh().state != "running":
                return
        raise AssertionError(f"still running: {operation.report()}")


@pytest.fixture
def scene(worked: Ledger, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(worked, monkeypatch)


def test_a_rate_releases_by_time(scene: Scene) -> None:
    scene.fail("Outage", 20)
    operation = scene.retry(rate=5)
    assert (operation.state, operation.moved) == ("running", 0)
    released = [scene.tick() for _ in range(3)]
    assert sum(released) == 16
    assert max(released[1:]) == 5
    times = sorted(row.run_at for row in scene.ledger.rows(states=("pending",)))
    gaps = {later - earlier for earlier, later in zip(times[-5:], times[-4:], strict=False)}
    assert gaps == {SECOND // 5}
    assert (operation.report().waiting, operation.report().unreleased) == (16, 4)
    for _ in range(2):
        scene.tick()
    assert (operation.refresh().state, operation.moved) == ("done", 20)


def test_canaries_are_drawn_from_every_cause(scene: Scene) -> None:
    bug, outage = scene.fail("Bug", 20), scene.fail("Outage", 30)
    operation = scene.retry(canary=6)
    assert scene.tick() == 6
    waiting = {row.id for row in scene.ledger.rows(states=("pending",))}
    assert (len(waiting & set(bug)), len(waiting & set(outage))) == (3, 3)
    assert scene.tick() == 0
    assert operation.report().unreleased == 44


def test_a_bug_is_held_back_while_the_outages_jobs_go_on(scene: Scene) -> None:
    bug = scene.fail("Bug", 20)
    scene.fail("Outage", 30)
    operation = scene.retry(canary=6, rate=1000)
    scene.go_on(operation)
    scene.work()
    assert operation.state == "paused"
    assert operation.held == {"1-Bug": "3 of 3 failed alike again"}
    assert "1-Bug (3 of 3 failed alike again)" in str(operation.why)
    report = operation.wait(timeout=0)
    assert (report.succeeded, report.failed_alike, report.unreleased) == (30, 3, 17)
    assert report.counted == 50
    never_moved = [number for number in bug if scene.ledger.row(number).fence == 2]
    assert len(never_moved) == 17

    scene.broken = set()
    operation.resume()
    scene.go_on(operation)
    assert operation.state == "done"
    scene.work()
    assert operation.report().succeeded == 47


def test_resumed_too_early_it_pauses_again(scene: Scene) -> None:
    scene.fail("Bug", 40)
    operation = scene.retry(canary=2, rate=8)
    scene.go_on(operation)
    assert (operation.state, operation.report().failed_alike) == ("paused", 2)
    operation.resume()
    scene.go_on(operation)
    assert operation.state == "paused"
    assert 7 <= operation.report().failed_alike < 20


def test_a_rate_alone_pauses_too(scene: Scene) -> None:
    scene.fail("Bug", 100)
    operation = scene.retry(rate=5)
    scene.go_on(operation)
    assert operation.state == "paused"
    assert operation.report().unreleased > 70


def test_abort_and_undo_of_one_that_runs(scene: Scene) -> None:
    scene.fail("Outage", 20)
    operation = scene.retry(rate=5)
    scene.tick()
    scene.work()
    scene.tick()
    operation.abort()
    before = operation.report()
    assert before.waiting > 0
    assert scene.tick() == 0
    report = operation.undo()
    assert (report.undone, report.succeeded) == (before.waiting, before.succeeded)
    assert report.unreleased == before.unreleased
    assert report.counted == 20
    assert scene.tick() == 0


def test_what_its_runner_left_undone_is_done(
    scene: Scene, connect: Callable[[], Ledger], app: App
) -> None:
    numbers = scene.fail("Outage", 10)
    preview = Jobs(scene.ledger.database, FAILED).preview()
    number = ids.from_text(preview.token)
    dead = connect().database
    dead.transact(lambda tx: steps.begin(tx, number, "retry", Options(), None, None))
    dead.transact(lambda tx: steps.step(tx, number, 4))
    assert scene.tick() == 0
    scene.pass_(10)
    assert scene.tick() == 6
    assert {scene.ledger.row(one).fence for one in numbers} == {3}
    assert app.operation(preview.token).state == "done"


def test_an_undo_that_was_left_undone_is_done(scene: Scene, connect: Callable[[], Ledger]) -> None:
    scene.fail("Outage", 10)
    operation = scene.retry()
    with scene.ledger.database.write() as tx:
        row = steps.locked(tx, ids.from_text(operation.id))
        row.state, row.next_at = "undoing", scene.now
        row.course = None
        rows.save(tx, row)
    scene.tick()
    assert operation.refresh().state == "undone"
    assert operation.report().undone == 10


def test_two_maintainers_do_not_do_it_twice(scene: Scene, connect: Callable[[], Ledger]) -> None:
    scene.fail("Outage", 10)
    scene.retry(rate=2)
    other = Driver(connect().database)
    assert scene.tick() > 0
    scene.pass_(1)
    assert other.tick(0.0).moved == 0
    scene.pass_(5)
    assert other.tick(0.0).moved > 0


def test_old_previews_are_cleared_away(scene: Scene, app: App) -> None:
    scene.fail("Outage", 5)
    stale = app.failed.preview()
    kept = scene.retry()
    scene.pass_(86_400)
    fresh = app.failed.preview()
    scene.tick()
    with pytest.raises(OperationNotFound):
        app.preview(stale.token)
    assert app.preview(fresh.token).total == 0
    assert app.operation(kept.id).report().counted == 5


def test_operations_that_ended_long_ago_are_cleared_away(scene: Scene, app: App) -> None:
    """Their lists would else grow for as long as there is the ledger."""
    scene.fail("Outage", 5)
    done, aborted = scene.retry(), scene.retry(rate=1)
    aborted.abort()
    scene.fail("Outage", 2)
    open_ = scene.retry(rate=1)
    scene.tick()
    scene.pass_(89 * 86_400)
    scene.tick()
    assert app.operation(done.id).report().counted == 5
    scene.pass_(2 * 86_400)
    while scene.driver.tick(0.0).more:
        pass
    for gone in (done, aborted):
        with pytest.raises(OperationNotFound):
            app.operation(gone.id)
    with scene.ledger.database.engine.connect() as connection:
        listed = connection.execute(select(selected.c.operation_id).distinct()).scalars().all()
    assert listed == [ids.from_text(open_.id)]


def test_canaries_that_no_worker_runs_hold_all_back(scene: Scene) -> None:
    scene.fail("Outage", 10)
    operation = scene.retry(canary=2)
    scene.tick()
    scene.pass_(601)
    for _ in range(3):
        scene.tick()
    assert operation.refresh().state == "paused"
    assert "no canary of it came to an end in time" in str(operation.why)


def test_one_that_cannot_go_on_keeps_no_other_from_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """A spoilt row ends no worker, which would come across it again and again."""
    scene.fail("Outage", 3)
    spoilt = scene.retry(rate=1)
    scene.fail("Outage", 3)
    sound = scene.retry(rate=1)
    with scene.ledger.database.engine.begin() as connection:
        this = operations.c.id == ids.from_text(spoilt.id)
        connection.execute(update(operations).where(this).values(course="{"))
    for _ in range(20):
        scene.tick()
        scene.pass_(1)
    assert sound.refresh().state == "done"
    assert f"operation {spoilt.id} could not go on" in caplog.text
