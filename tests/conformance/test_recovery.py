"""Recovery at one go: what it finds, what it does, what it says, and what it must not do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text, update
from tests.conformance.backends import Backend
from tests.conformance.kit import NOW, SECOND, Ledger, new_job, wall

import failbetter
from failbetter import App, board, ids
from failbetter.ledger import notes, progress, registry, turns
from failbetter.ledger.schema import turns as turns_table
from failbetter.lifecycle.policy import Policy
from failbetter.recovery import settling, startup
from failbetter.recovery.lock import Lock
from failbetter.recovery.report import RecoveryProgress
from failbetter.recovery.sweeper import Sweeper
from failbetter.recovery.watch import Watch

LEASE = 30.0


@pytest.fixture
def ledger(app: App) -> Ledger:
    """The app's own ledger."""
    return Ledger(app.database)


def dead_here(ledger: Ledger, *given: object, number: int = 7, begun: bool = True) -> list[int]:
    """Jobs that a worker of this host held when it died."""
    fleet = ledger.database.fleet
    lock = fleet.hold(number)
    ledger.register(number, fleet=fleet.id, renewed_at=wall())
    inserted = ledger.insert(*given)  # type: ignore[arg-type]
    jobs = ledger.claim(number, limit=10_000)
    if begun:
        ledger.begin(*jobs)
    else:
        board.create(fleet.board_path(number), 1)
    lock.close()
    return inserted


def states(ledger: Ledger, numbers: list[int]) -> list[tuple[str, str | None]]:
    return [(row.state, row.reason) for row in map(ledger.row, numbers)]


# -- what it finds


def test_an_empty_ledger(app: App) -> None:
    assert not app.needs_recovery()
    report = app.recover()
    assert (report.outcome, report.ok, report.jobs) == ("nothing", True, [])
    status = app.recovery_status()
    assert (status.in_progress, status.last_outcome) == (False, "nothing")
    assert status.last_at is not None


def test_a_dead_worker_of_this_host(app: App, ledger: Ledger) -> None:
    numbers = dead_here(ledger, new_job(), new_job(task="other"))
    assert app.needs_recovery()
    report = app.recover()
    assert (report.outcome, report.ok, report.handed_back, report.ended) == (
        "recovered",
        True,
        2,
        0,
    )
    assert [(job.id, job.task, job.became, job.state) for job in report.jobs] == [
        (ids.to_text(numbers[0]), "work", "handed_back", "pending"),
        (ids.to_text(numbers[1]), "other", "handed_back", "pending"),
    ]
    (gone,) = report.gone
    assert (gone.name, gone.host, gone.why) == ("worker-7", "here", "its supervisor died")
    assert states(ledger, numbers) == [("pending", None)] * 2
    assert ledger.workers() == []
    assert not app.needs_recovery()
    assert app.recover().outcome == "nothing"
    with app.database.look() as tx:
        assert notes.read(tx, "gone 7") is None


def test_each_job_by_its_own_policy(app: App, ledger: Ledger) -> None:
    numbers = dead_here(
        ledger, new_job(), new_job(Policy(on_lost="fail")), new_job(Policy(max_losses=1))
    )
    report = app.recover()
    assert (report.outcome, report.handed_back, report.ended) == ("recovered", 1, 2)
    assert states(ledger, numbers) == [("pending", None), ("failed", "lost"), ("failed", "lost")]
    assert sorted((job.became, job.state, job.reason) for job in report.jobs) == [
        ("ended", "failed", "lost"),
        ("ended", "failed", "lost"),
        ("handed_back", "pending", None),
    ]


def test_what_had_not_begun_keeps_its_place(app: App, ledger: Ledger) -> None:
    (number,) = dead_here(ledger, new_job(), begun=False)
    report = app.recover()
    assert [job.why for job in report.jobs] == ["its body had not begun"]
    row = ledger.row(number)
    assert (row.state, row.losses, row.starts, row.run_at) == ("pending", 0, 0, NOW)


@pytest.mark.parametrize(("ago", "became"), [(30, "pending"), (90, "failed")])
def test_recover_within(app: App, ledger: Ledger, ago: int, became: str) -> None:
    """From when the worker was last heard of."""
    (number,) = dead_here(ledger, new_job(Policy(recover_within=60.0)))
    ledger.renew(7, app.database.now() - ago * SECOND)
    app.recover()
    assert ledger.row(number).state == became


def test_what_is_known_of_the_dead_outlives_who_found_it(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died after it had removed the worker: the next one knows why, and since when."""
    (number,) = dead_here(ledger, new_job(Policy(recover_within=60.0)))
    ledger.renew(7, app.database.now() - 90 * SECOND)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(settling, "judge", die)
        with pytest.raises(KeyboardInterrupt):
            app.recover()
    assert ledger.workers() == []
    assert ledger.row(number).worker == 7
    assert app.recovery_status().last_outcome == "stopped"
    assert app.recover().ended == 1
    assert states(ledger, [number]) == [("failed", "lost")]
    (attempt,) = ledger.attempts(number)
    assert (attempt.worker, attempt.code) == ("worker-7", "v1")


def test_evidence(app: App, ledger: Ledger) -> None:
    (number,) = dead_here(ledger, new_job())
    (held,) = ledger.held(7)
    with app.database.write() as tx:
        progress.count(tx, number, held.job.fence, 7, 3, 10, tx.now())
    app.recover()
    (attempt,) = ledger.attempts(number)
    found = msgspec.json.decode(attempt.evidence or "")
    assert found["checkpoint"] == {"done": 3, "failed": 0, "total": 10}
    assert (found["host"], found["why"]) == ("here", "its supervisor died")
    assert "T" in found["last_heard"]


def test_waiting_work_whose_time_is_over(app: App, ledger: Ledger) -> None:
    (number,) = ledger.insert(new_job(expires_at=NOW))
    assert app.needs_recovery()
    report = app.recover()
    assert (report.outcome, report.ended, report.expired) == ("recovered", 1, 1)
    assert states(ledger, [number]) == [("discarded", "expired")]


def test_orphans(app: App, ledger: Ledger) -> None:
    ledger.register(7)
    number = ledger.add()
    ledger.begin(ledger.claim_one(7))
    ledger.remove(7)
    assert app.needs_recovery()
    assert app.recover().handed_back == 1
    assert states(ledger, [number]) == [("pending", None)]


def test_a_task_that_nobody_knows_any_more(app: App, ledger: Ledger) -> None:
    """Recovery needs no tasks: who claims the job next tells of it."""
    numbers = dead_here(ledger, new_job(task="long_gone"))
    assert app.recover().outcome == "recovered"
    assert states(ledger, numbers) == [("pending", None)]


def test_many(app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    monkeypatch.setattr(startup, "BATCH", 10)
    numbers = dead_here(ledger, *(new_job() for _ in range(25)))
    ledger.insert(*(new_job(expires_at=NOW) for _ in range(25)))
    assert len(app.recover(dry_run=True).jobs) == 50
    seen: list[RecoveryProgress] = []
    report = app.recover(progress=seen.append)
    assert (report.handed_back, report.expired, len(report.jobs)) == (25, 25, 50)
    assert len({job.id for job in report.jobs}) == 50
    assert all(len(ledger.attempts(number)) == 1 for number in numbers)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[1].total == 25


# -- whom it does not believe to be dead


def test_a_live_worker_is_left_alone(app: App, ledger: Ledger) -> None:
    ledger.register(7, renewed_at=wall() + 10 * SECOND)
    ledger.add()
    ledger.begin(ledger.claim_one(7))
    assert not app.needs_recovery()
    report = app.recover()
    assert (report.outcome, report.leased, report.watched) == ("nothing", 1, [])


def test_an_expired_lease_elsewhere_is_told_of_and_not_believed(app: App, ledger: Ledger) -> None:
    ledger.register(7, lease=round(LEASE * SECOND))
    number = ledger.add()
    ledger.begin(ledger.claim_one(7))
    assert app.needs_recovery()
    report = app.recover(timeout=5)
    assert (report.outcome, report.ok, report.leased) == ("nothing", True, 0)
    (watched,) = report.watched
    assert (watched.name, watched.jobs, watched.lease) == ("worker-7", 1, LEASE)
    assert ledger.row(number).worker == 7


def test_it_is_watched_for_a_lease_where_there_is_time_for_that(app: App, ledger: Ledger) -> None:
    ledger.register(7, lease=SECOND)
    number = ledger.add()
    ledger.begin(ledger.claim_one(7))
    began = time.monotonic()
    report = app.recover(timeout=20)
    assert 1 <= time.monotonic() - began < 15
    assert (report.outcome, report.handed_back, report.watched) == ("recovered", 1, [])
    assert "lease ran out" in report.gone[0].why
    assert states(ledger, [number]) == [("pending", None)]


def test_one_that_is_heard_of_meanwhile_lives(app: App, ledger: Ledger) -> None:
    ledger.register(7, lease=SECOND)
    ledger.add()
    ledger.begin(ledger.claim_one(7))

    def renew(seen: RecoveryProgress) -> None:
        if seen.waits_for is not None and "worker-7" in seen.waits_for:
            ledger.renew(7, wall() + 60 * SECOND)

    report = app.recover(timeout=20, progress=renew)
    assert (report.outcome, report.leased, report.watched) == ("nothing", 1, [])


# -- one at a time


def test_another_one_is_waited_for(app: App, ledger: Ledger) -> None:
    dead_here(ledger, new_job())
    other = Lock(app.database)
    assert other.take(lambda seconds, why: False) is None
    status = app.recovery_status()
    assert (status.in_progress, status.by) == (True, other.name)
    for force in (False, True):
        report = app.recover(timeout=0.2, force=force)
        assert (report.outcome, report.ok, report.by) == ("locked", False, other.name)
    said: list[str | None] = []

    def until(seen: RecoveryProgress) -> None:
        said.append(seen.waits_for)
        if len(said) == 3:
            other.release()

    assert app.recover(progress=until).outcome == "recovered"
    assert "another recovery" in str(said[0])
    assert not app.recovery_status().in_progress


def test_one_that_died_on_this_host_keeps_nobody_waiting(app: App) -> None:
    other = Lock(app.database)
    assert other.take(lambda seconds, why: False) is None
    other.close()  # as its death would
    assert not app.recovery_status().in_progress
    assert app.recover(timeout=5).outcome == "nothing"


def test_one_on_another_host_keeps_others_waiting_for_its_lease(
    app: App, ledger: Ledger, tmp_path: Path
) -> None:
    far = App(app.url, fleet_folder=tmp_path / "far")
    other = Lock(far.database)
    assert other.take(lambda seconds, why: False) is None
    other.close()
    report = app.recover(timeout=0.2)
    assert (report.outcome, report.by) == ("locked", other.name)
    with app.database.engine.begin() as connection:
        connection.execute(update(turns_table).values(until=0))
    assert app.recover(timeout=5).outcome == "nothing"
    far.close()


def test_one_that_was_overtaken_stops(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen for longer than its turn, and another one took it."""
    monkeypatch.setattr(settling, "BATCH", 10)
    dead_here(ledger, *(new_job() for _ in range(25)))

    def overtake(seen: RecoveryProgress) -> None:
        if seen.done:
            with app.database.write() as tx:
                turns.mark(tx, "recover", 99)
                turns.inherit(tx, "recover", 99, 99, 60)

    report = app.recover(progress=overtake)
    assert (report.outcome, report.handed_back) == ("locked", 10)
    assert len(ledger.held(7)) == 15


def test_the_window(app: App, ledger: Ledger) -> None:
    app.recover()
    numbers = dead_here(ledger, new_job())
    report = app.recover(skip_window="5m")
    assert (report.outcome, report.ok) == ("skipped", True)
    assert ledger.row(numbers[0]).worker == 7
    assert app.recover(skip_window="5m", force=True).outcome == "recovered"


def test_what_did_not_end_well_is_no_reason_to_skip(app: App, ledger: Ledger) -> None:
    dead_here(ledger, new_job())

    def stop(seen: RecoveryProgress) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        app.recover(progress=stop)
    assert app.recovery_status().last_outcome == "stopped"
    assert app.recover(skip_window=300).outcome == "recovered"


# -- bounded


def test_time_is_over(app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    numbers = dead_here(ledger, *(new_job() for _ in range(25)))

    def dawdle(seen: RecoveryProgress) -> None:
        if seen.done:
            time.sleep(1.1)  # longer than it has

    report = app.recover(timeout=1, progress=dawdle)
    assert (report.outcome, report.ok) == ("timed_out", False)
    assert (report.handed_back, report.left) == (10, 15)
    assert app.recovery_status().last_outcome == "timed_out"
    report = app.recover()
    assert (report.outcome, report.handed_back, report.left) == ("recovered", 15, 0)
    assert all(len(ledger.attempts(number)) == 1 for number in numbers)


def test_what_progress_raises_stops_it_between_batches(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    dead_here(ledger, *(new_job() for _ in range(25)))

    def stop(seen: RecoveryProgress) -> None:
        if seen.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.recover(progress=stop)
    assert len(ledger.held(7)) == 15
    status = app.recovery_status()
    assert (status.in_progress, status.last_outcome) == (False, "stopped")
    assert status.last is not None
    assert status.last.handed_back == 10


def test_a_dry_run_changes_nothing(app: App, ledger: Ledger) -> None:
    numbers = dead_here(ledger, new_job(), new_job(Policy(on_lost="fail")))
    ledger.insert(new_job(expires_at=NOW))
    before = [ledger.row(number) for number in numbers]
    report = app.recover(dry_run=True)
    assert (report.outcome, report.dry_run) == ("recovered", True)
    assert (report.handed_back, report.ended, report.expired) == (1, 2, 1)
    assert [ledger.row(number) for number in numbers] == before
    assert len(ledger.workers()) == 1
    assert app.recovery_status().last_at is None
    assert app.recover().handed_back == 1


# -- trouble


@contextlib.contextmanager
def refusing(app: App, backend: Backend, number: int) -> Iterator[None]:
    """The database lets nobody hand back that one job."""
    where = f"OLD.id = {number} AND NEW.worker IS NULL"
    if backend.name == "sqlite":
        make = [
            f"CREATE TRIGGER no BEFORE UPDATE ON failbetter_jobs WHEN {where}"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        ]
        drop = "DROP TRIGGER no"
    elif backend.name in ("mariadb", "mysql"):
        make = [
            f"CREATE TRIGGER no BEFORE UPDATE ON failbetter_jobs FOR EACH ROW IF {where} THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
        ]
        drop = "DROP TRIGGER no"
    else:
        make = [
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$",
            "CREATE TRIGGER no BEFORE UPDATE ON failbetter_jobs FOR EACH ROW"
            f" WHEN ({where}) EXECUTE FUNCTION no()",
        ]
        drop = "DROP TRIGGER no ON failbetter_jobs"
    with app.database.engine.begin() as connection:
        for statement in make:
            connection.execute(text(statement))
    try:
        yield
    finally:
        with app.database.engine.begin() as connection:
            connection.execute(text(drop))


def test_one_bad_job_stops_none_of_the_others(app: App, ledger: Ledger, backend: Backend) -> None:
    numbers = dead_here(ledger, *(new_job() for _ in range(40)))
    bad = numbers[17]
    with refusing(app, backend, bad):
        report = app.recover()
        assert (report.outcome, report.ok) == ("partial", False)
        assert (report.handed_back, report.refused, report.left) == (39, 1, 0)
        (row,) = [job for job in report.jobs if job.became == "refused"]
        assert row.id == ids.to_text(bad)
        assert "not this one" in row.why
        assert ledger.row(bad).worker == 7
        assert app.needs_recovery()
        assert app.recovery_status().last_outcome == "partial"
    assert app.recover().handed_back == 1
    (attempt,) = ledger.attempts(bad)
    assert "its supervisor died" in str(attempt.error_message)


def test_sweeps_tell_of_a_bad_job_once(
    app: App,
    ledger: Ledger,
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = dead_here(ledger, *(new_job() for _ in range(10)))
    sweeper = Sweeper(app.database)
    with refusing(app, backend, numbers[3]), caplog.at_level(logging.WARNING):
        reports = [sweeper.tick(1_000.0 + n) for n in range(4)]
    assert [one.refused for one in reports] == [1, 0, 0, 0]
    assert [one.handed_back for one in reports] == [9, 0, 0, 0]
    told = [
        record.message for record in caplog.records if "cannot be handed back" in record.message
    ]
    assert len(told) == 1
    monkeypatch.setattr(settling, "_AGAIN", 0.0)
    assert sweeper.tick(1_005.0).handed_back == 1


def test_a_row_that_cannot_be_understood(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the database can refuse one."""
    numbers = dead_here(ledger, *(new_job() for _ in range(10)))
    real = settling.judge

    def judge(tx: object, gone: object, batch: list[registry.Held], begun: object) -> object:
        if any(held.job.id == numbers[4] for held in batch):
            raise ValueError("what is this?")
        return real(tx, gone, batch, begun)  # type: ignore[arg-type]

    monkeypatch.setattr(settling, "judge", judge)
    report = app.recover()
    assert (report.outcome, report.handed_back, report.refused) == ("partial", 9, 1)
    (row,) = [job for job in report.jobs if job.became == "refused"]
    assert row.why == "ValueError: what is this?"


def test_a_ledger_that_cannot_be_written(
    app: App, ledger: Ledger, backend: Backend, database_url: str
) -> None:
    numbers = dead_here(ledger, new_job())
    with backend.occupied(database_url), pytest.raises(failbetter.LedgerUnavailable):
        app.recover(timeout=0.5, max_retries=0)
    assert ledger.row(numbers[0]).worker == 7
    assert app.recovery_status().last_at is None


def test_a_ledger_out_of_reach_is_tried_again(
    app: App, ledger: Ledger, backend: Backend, database_url: str
) -> None:
    dead_here(ledger, new_job())
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(backend.occupied(database_url))

        def give_way(seen: RecoveryProgress) -> None:
            if seen.waits_for is not None:
                said.append(seen.waits_for)
                stack.close()

        report = app.recover(timeout=8, retry_delay=0.2, progress=give_way)
    assert report.outcome == "recovered"
    assert "trying again" in said[0]


def test_unknown_is_never_no(tmp_path: Path) -> None:
    new = App(f"sqlite:///{tmp_path / 'new.db'}")
    assert not new.needs_recovery()
    assert not (tmp_path / "new.db").exists()
    app = App(f"sqlite:///{tmp_path / 'not-mounted' / 'jobs.db'}")
    with pytest.raises(failbetter.LedgerUnavailable):
        app.needs_recovery()
    with pytest.raises(failbetter.LedgerUnavailable):
        app.recover(max_retries=0)
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    app = App(f"sqlite:///{tmp_path / 'broken.db'}")
    with pytest.raises(failbetter.LedgerError):
        app.needs_recovery()


def test_a_schema_of_another_version(app: App, ledger: Ledger) -> None:
    dead_here(ledger, new_job())
    with app.database.engine.begin() as connection:
        connection.execute(text("UPDATE failbetter_version SET version_num = '9999'"))
        connection.execute(
            text("UPDATE failbetter_notes SET value = '9999' WHERE name = 'oldest_code'")
        )
    began = time.monotonic()
    with pytest.raises(failbetter.SchemaMismatch):
        app.recover()
    assert time.monotonic() - began < 3, "that is not worth a second try"


# -- the sweeps' own health


def test_what_sweeps_did_adds_up(app: App, ledger: Ledger) -> None:
    dead_here(ledger, new_job(), new_job(Policy(on_lost="fail")))
    ledger.insert(new_job(expires_at=NOW))
    sweeper = Sweeper(app.database)
    assert app.recovery_status().swept_at is None
    sweeper.tick(1_000.0)
    dead_here(ledger, new_job(), number=8)
    sweeper.tick(1_001.0)
    status = app.recovery_status()
    assert (status.swept.gone, status.swept.handed_back) == (2, 2)
    assert (status.swept.ended, status.swept.expired) == (1, 1)
    assert status.swept_at is not None
    assert abs(status.swept_at.timestamp() - time.time()) < 60
    assert status.last_at is None


def test_a_worker_tells_of_its_sweeps_with_its_renewals(app: App, ledger: Ledger) -> None:
    ledger.register(7)
    for given, kept in ((None, None), (NOW + 5, NOW + 5), (None, NOW + 5), (NOW + 9, NOW + 9)):
        with app.database.write() as tx:
            registry.renew(tx, 7, NOW, False, given)
        with app.database.look() as tx:
            assert registry.last_sweep(tx) == kept


def test_who_can_only_read_believes_nobodys_silence(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage of writes nobody's renewals get through, and all seem silent."""
    ledger.register(7, lease=2 * SECOND)
    sweeper = Sweeper(app.database)

    @contextlib.contextmanager
    def read_only(**_: object) -> Iterator[None]:
        raise failbetter.LedgerUnavailable("no write gets through")
        yield

    now = 1_000.0
    with monkeypatch.context() as patch:
        patch.setattr(app.database, "write", read_only)
        for _ in range(10):
            now += 0.5
            with pytest.raises(failbetter.LedgerUnavailable):
                sweeper.tick(now)
    assert sweeper.tick(now + 0.5).workers_gone == 0
    assert len(ledger.workers()) == 1


def test_twins(app: App, ledger: Ledger) -> None:
    dead_here(ledger, new_job())

    async def all_three() -> tuple[bool, str, str | None]:
        needs = await app.aneeds_recovery()
        report = await app.arecover(timeout="5s")
        return needs, report.outcome, (await app.arecovery_status()).last_outcome

    assert asyncio.run(all_three()) == (True, "recovered", "recovered")


def test_a_watch_forgets_whom_it_could_not_watch() -> None:
    worker = registry.Worker(
        id=7, name="w", host="h", pid=1, fleet="f", lease=10 * SECOND, beats=3, renewed_at=0,
        started_at=0, stopping=0, code=None, queues="[]", tasks="[]", processes=1, concurrency=1,
    )  # fmt: skip
    watch = Watch()
    for second in range(10):
        assert watch.look(float(second), [worker]) == []
    assert watch.look(10.0, [worker]) == [worker]
    watch.forget()
    assert watch.look(11.0, [worker]) == []
    # An hour later, as after a clock that jumps or a process that was frozen.
    assert watch.look(3_611.0, [worker]) == []
