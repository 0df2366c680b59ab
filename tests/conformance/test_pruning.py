"""What is past its time goes, whole and in batches; what is live, young or still needed stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, attempt_of, set_clocks

from failbetter import App, JobNotFound, health, ids, retention
from failbetter.ledger import effects, outbox, progress, pruning, turns
from failbetter.ledger.pruning import Ended
from failbetter.ledger.schema import metadata
from failbetter.lifecycle.states import Cause
from failbetter.retention import Keep, Pruner

DAY = 86_400 * SECOND
SPREAD = ("attempts", "effects", "items", "progress")
pytestmark = pytest.mark.usefixtures("stopped_clock")


def counts(ledger: Ledger) -> dict[str, int]:
    """How many rows each table has."""
    return {
        table.name.removeprefix("failbetter_"): len(ledger.database.query(table.select()))
        for table in metadata.sorted_tables
    }


def ended(ledger: Ledger, age: int = 0, *, fail: bool = False, **given: Any) -> int:
    """A job with all that can be kept of one, that ended so many days ago."""
    at = NOW - age * DAY
    number = ledger.add(run_at=at, created_at=at, **given)
    (job,) = ledger.claim(now=at)
    fence, holder = attempt_of(job)[1:]
    with ledger.database.write() as tx:
        effects.intend(tx, number, fence, holder, "charge", at)
        effects.done(tx, number, fence, holder, "charge", "1", at)
        progress.start(tx, number, fence, holder, "items", 2, at)
        progress.advance(tx, number, fence, holder, "items", ["a"], [("b", "E", "no")], [], at)
    if fail:
        ledger.end(job, Cause.RAISED, verdict="fail", now=at)
    else:
        ledger.end(job, now=at)
    return number


def found(ledger: Ledger, number: int) -> Ended:
    row = ledger.row(number)
    assert row.ended_at is not None
    return Ended(number, row.fence, row.state, row.ended_at)


def there(ledger: Ledger, *numbers: int) -> list[int]:
    """Which of these jobs are in the ledger."""
    known = {row.id for row in ledger.rows()}
    return [number for number in numbers if number in known]


def prune_all(ledger: Ledger, keep: Keep | None = None) -> dict[str, int]:
    """Prune until there is nothing more."""
    pruner = Pruner(ledger.database, keep or Keep(), 1)
    total: dict[str, int] = {}
    while gone := pruner.step():
        for state, number in gone.items():
            total[state] = total.get(state, 0) + number
    return total


def test_every_table_of_a_job_is_known_to_pruning() -> None:
    known = {table.name for table in pruning.KEPT_OF_A_JOB} | {"failbetter_selected"}
    # Of an adopted job, that it was seen is kept: see adopted.pruned.
    having = {table.name for table in metadata.sorted_tables if "job_id" in table.c}
    assert having - {"failbetter_subjects", "failbetter_adopted"} == known


def test_each_end_has_its_own_time(worked: Ledger) -> None:
    young = [ended(worked, 6), ended(worked, 89, fail=True)]
    old = [ended(worked, 8), ended(worked, 91, fail=True)]
    put_aside = [ended(worked, age, fail=True) for age in (29, 31)]
    for number, age in zip(put_aside, (29, 31), strict=True):
        worked.discard(number, NOW - age * DAY)
    assert prune_all(worked) == {"succeeded": 1, "failed": 1, "discarded": 1}
    assert there(worked, *young, *old, *put_aside) == [*young, put_aside[0]]


def test_a_job_goes_with_all_that_is_kept_of_it(worked: Ledger) -> None:
    ended(worked, 1)
    before = counts(worked)
    for _ in range(5):
        ended(worked, 9)
    assert all(counts(worked)[name] > before[name] for name in SPREAD)
    assert prune_all(worked) == {"succeeded": 5}
    after = counts(worked)
    assert {name: after[name] for name in (*SPREAD, "jobs", "outbox")} == {
        name: before[name] for name in (*SPREAD, "jobs", "outbox")
    }


def test_live_jobs_are_never_deleted_however_old(worked: Ledger) -> None:
    waiting = worked.add(created_at=NOW - 900 * DAY, run_at=NOW + DAY)
    running = worked.add(created_at=NOW - 900 * DAY, run_at=NOW - 900 * DAY)
    worked.begin(worked.claim_one())
    assert prune_all(worked, Keep(60, 60, 60)) == {}
    assert there(worked, waiting, running) == [waiting, running]


def test_what_is_kept_for_ever_is_kept(worked: Ledger) -> None:
    numbers = [ended(worked, 9_000), ended(worked, 9_000, fail=True)]
    assert prune_all(worked, Keep(None, None, None)) == {}
    assert prune_all(worked, Keep(succeeded=None)) == {"failed": 1}
    assert there(worked, *numbers) == numbers[:1]


def test_what_moved_since_it_was_found_stays_whole(worked: Ledger) -> None:
    retried, other = ended(worked, 91, fail=True), ended(worked, 91, fail=True)
    seen = [found(worked, retried), found(worked, other)]
    assert worked.retry(retried) is None
    before = worked.attempts(retried)
    with worked.database.write() as tx:
        assert pruning.delete_ended(tx, seen) == seen[1:]
    assert there(worked, retried, other) == [retried]
    assert worked.attempts(retried) == before != []
    # And having run and failed once more, it is another failure than the one that was found.
    (job,) = worked.claim()
    worked.end(job, Cause.RAISED, verdict="fail")
    with worked.database.write() as tx:
        assert pruning.delete_ended(tx, seen[:1]) == []


def test_nothing_is_half_deleted_when_a_batch_fails(worked: Ledger) -> None:
    number = ended(worked, 9)
    before = counts(worked)
    with pytest.raises(ZeroDivisionError), worked.database.write() as tx:
        assert len(pruning.delete_ended(tx, [found(worked, number)])) == 1
        raise ZeroDivisionError
    assert counts(worked) == before


def test_batches_grow_and_end(worked: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_FIRST", 2)
    monkeypatch.setattr(retention, "_LONG", 1e9)
    for _ in range(7):
        ended(worked, 8)
    pruner = Pruner(worked.database, Keep(), 1)
    assert [pruner.step() for _ in range(3)] == [
        {"succeeded": 2},
        {"succeeded": 4},
        {"succeeded": 1},
    ]
    assert pruner.step() == {}


def test_a_batch_that_took_long_is_followed_by_a_smaller_one(
    worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_FIRST", 4)
    monkeypatch.setattr(retention, "_LONG", 0.0)
    for _ in range(9):
        ended(worked, 8)
    pruner = Pruner(worked.database, Keep(), 1)
    steps = [pruner.step() for _ in range(6)]
    assert steps == [{"succeeded": n} for n in (4, 2, 1, 1, 1)] + [{}]


def test_jobs_that_ended_at_one_moment_all_go(worked: Ledger, monkeypatch: Any) -> None:
    monkeypatch.setattr(retention, "_FIRST", 2)
    monkeypatch.setattr(retention, "_MOST", 2)
    numbers = [ended(worked, 8) for _ in range(5)]
    assert prune_all(worked) == {"succeeded": 5}
    assert there(worked, *numbers) == []


def test_jobs_of_many_items_go_in_small_batches(
    worked: Ledger, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_MOST_ITEMS", 5)
    for _ in range(5):
        ended(worked, 8)  # of two items each
    pruner = Pruner(worked.database, Keep(), 1)
    assert [pruner.step() for _ in range(4)] == [{"succeeded": n} for n in (2, 2, 1)] + [{}]
    for _ in range(5):
        ended(worked, 8)
    monkeypatch.setattr(pruning, "_MOST_ITEMS", 1)
    assert app.jobs.limit(4).prune().total == 4
    assert app.prune("1d").total == 1


# -- turns, and what is due


def test_one_at_a_time_of_all_hosts(worked: Ledger) -> None:
    ended(worked, 8)
    with worked.database.write() as tx:
        assert turns.take(tx, "prune", 7, 10.0)
    with worked.database.look() as tx:
        assert not retention.is_due(tx, Keep(), 1)
        assert retention.is_due(tx, Keep(), 7)
    assert Pruner(worked.database, Keep(), 1).step() is None
    own = Pruner(worked.database, Keep(), 7)
    assert own.step() == {"succeeded": 1}
    own.leave()
    assert Pruner(worked.database, Keep(), 1).step() == {}


def test_it_is_due_only_when_something_is_past_its_time(worked: Ledger) -> None:
    with worked.database.look() as tx:
        assert not retention.is_due(tx, Keep(), 1)
    ended(worked, 6)
    with worked.database.look() as tx:
        assert not retention.is_due(tx, Keep(), 1)
        assert retention.is_due(tx, Keep(succeeded=5 * 86_400), 1)
    prune_all(worked, Keep(succeeded=5 * 86_400))
    with worked.database.look() as tx:
        assert not retention.is_due(tx, Keep(succeeded=5 * 86_400), 1)
        assert retention.is_due(tx, Keep(), 1), "the time that health goes by is another now"


# -- mirrored rows


def test_a_job_whose_row_is_still_to_be_written_stays(
    worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    undelivered, other = ended(worked, 9), ended(worked, 8)
    with worked.database.write() as tx:
        outbox.put(tx, undelivered)
    assert prune_all(worked) == {"succeeded": 1}
    assert there(worked, undelivered, other) == [undelivered]
    with worked.database.look() as tx:
        (entry,) = outbox.due(tx, 10)
        assert not retention.is_due(tx, Keep(), 1)
    with worked.database.write() as tx:
        assert outbox.delivered(tx, entry)
    # It was passed by, which is not for ever.
    set_clocks(monkeypatch, NOW + 2 * 3600 * SECOND)
    with worked.database.look() as tx:
        assert retention.is_due(tx, Keep(), 1)
    assert prune_all(worked) == {"succeeded": 1}


def test_an_entry_that_came_since_it_was_found_keeps_the_job(worked: Ledger) -> None:
    number = ended(worked, 9)
    seen = found(worked, number)
    with worked.database.write() as tx:
        outbox.put(tx, number)
        assert pruning.delete_ended(tx, [seen]) == []
    assert there(worked, number) == [number]
    assert worked.attempts(number)


def test_a_row_does_not_fall_back_to_an_older_job(worked: Ledger) -> None:
    mirrored = {"mirror": "{}", "mirror_key": "repos id 1"}
    failed = ended(worked, 20, fail=True)
    first, last = ended(worked, 9), ended(worked, 8)
    table = metadata.tables["failbetter_jobs"]
    with worked.database.engine.begin() as connection:
        chosen = table.c.id.in_([failed, first, last])
        connection.execute(table.update().where(chosen).values(**mirrored))
    assert prune_all(worked) == {"succeeded": 1}
    assert there(worked, failed, first, last) == [failed, last]
    # It goes once the older one has gone.
    assert prune_all(worked, Keep(failed=86_400)) == {"failed": 1, "succeeded": 1}


# -- by a person


def test_prune_without_a_word_does_what_workers_do(worked: Ledger, database_url: str) -> None:
    numbers = [ended(worked, age, fail=True) for age in (3, 1)] + [ended(worked, 2)]
    app = App(database_url, keep_failed="2d")
    would = app.prune(dry_run=True)
    assert (would.pruned, would.dry_run, would.total) == ({"failed": 1}, True, 1)
    assert there(worked, *numbers) == numbers
    report = app.prune()
    assert (report.pruned, report.kept, report.dry_run) == ({"failed": 1}, {}, False)
    assert there(worked, *numbers) == numbers[1:]
    app.close()


def test_prune_by_filters_and_age(worked: Ledger, app: App) -> None:
    mail = [ended(worked, age, fail=True, task="mail") for age in (5, 1)]
    other = ended(worked, 5, fail=True)
    live = worked.add(task="mail", created_at=NOW - 9 * DAY)
    report = app.prune("4d", task="mail", dry_run=True)
    assert report.pruned == {"failed": 1}
    assert app.failed.where(task="mail").prune(older_than="4d").pruned == {"failed": 1}
    assert there(worked, *mail, other, live) == [mail[1], other, live]
    assert app.jobs.where(task="mail").prune().pruned == {"failed": 1}
    assert there(worked, *mail, other, live) == [other, live]


@pytest.mark.parametrize("age", [None, 0, "0s"])
def test_prune_of_everything_must_be_meant(worked: Ledger, app: App, age: Any) -> None:
    numbers = [ended(worked, 5), ended(worked, 1, fail=True)]
    with pytest.raises(ValueError, match="all=True"):
        app.jobs.prune(older_than=age)
    if age is not None:
        with pytest.raises(ValueError, match="all=True"):
            app.prune(age)
    assert there(worked, *numbers) == numbers
    assert app.failed.prune(older_than=age, all=True).pruned == {"failed": 1}
    assert app.prune(age, all=True).pruned == {"succeeded": 1}
    assert there(worked, *numbers) == []


@pytest.mark.parametrize("given", [{"older_than": "long"}, {"state": "done"}, {"since": "x"}])
def test_what_cannot_be_changes_nothing(worked: Ledger, app: App, given: Any) -> None:
    ended(worked, 500)
    with pytest.raises(ValueError, match=r"done|duration"):
        app.prune(**given)
    with pytest.raises(TypeError):
        app.prune(color="red")
    assert counts(worked)["jobs"] == 1


def test_a_limit_takes_the_newest(worked: Ledger, app: App) -> None:
    numbers = [ended(worked, 5 - n) for n in range(3)]
    assert app.jobs.limit(1).prune(dry_run=True).total == 1
    assert app.jobs.limit(1).prune().pruned == {"succeeded": 1}
    assert there(worked, *numbers) == numbers[:2]


def test_what_is_kept_is_told(worked: Ledger, app: App) -> None:
    number = ended(worked, 9)
    with worked.database.write() as tx:
        outbox.put(tx, number)
    for dry_run in (True, False):
        report = app.prune("1d", dry_run=dry_run)
        assert report.pruned == {}
        assert list(report.kept.values()) == [1]
        assert "mirrored row" in next(iter(report.kept))


def test_a_handle_on_a_pruned_job_says_that_it_is_gone(worked: Ledger, app: App) -> None:
    job = app.job(ids.to_text(ended(worked, 9)))
    assert len(job.attempts) == 1
    app.prune("1d")
    assert job.attempts == []
    assert job.effects == []
    with pytest.raises(JobNotFound):
        job.refresh()


# -- what is deleted is written first


def test_what_is_deleted_is_in_the_file(worked: Ledger, app: App, tmp_path: Path) -> None:
    numbers = [ended(worked, 9, fail=True), ended(worked, 8)]
    young = ended(worked, 1)
    path = tmp_path / "old.jsonl"
    assert app.prune("2d", export=path).total == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["id"] for line in lines} == {ids.to_text(number) for number in numbers}
    assert all(line["attempts"] and line["effects"] for line in lines)
    assert there(worked, *numbers, young) == [young]


def test_an_existing_file_is_refused_before_anything_is_deleted(
    worked: Ledger, app: App, tmp_path: Path
) -> None:
    number = ended(worked, 9)
    path = tmp_path / "old.jsonl"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        app.prune("2d", export=path)
    assert path.read_text() == "precious"
    assert there(worked, number) == [number]


# -- health


def finding(ledger: Ledger) -> health.Finding | None:
    found = {one.name: one for one in health.check(ledger.database).findings}
    return found.get("retention")


def test_health_says_what_was_pruned(worked: Ledger) -> None:
    assert finding(worked) is None
    ended(worked, 9)
    ended(worked, 91, fail=True)
    prune_all(worked)
    seen = finding(worked)
    assert seen is not None
    assert seen.status == "pass"
    assert seen.observed == {
        "last": "2023-11-14T22:13:20.000Z",
        "succeeded": 1,
        "discarded": 0,
        "failed": 1,
        "behind_seconds": 0.0,
    }


def test_health_warns_when_pruning_cannot_keep_up(
    worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(worked, 20)
    ended(worked, 1)
    prune_all(worked)
    set_clocks(monkeypatch, NOW + 8 * DAY)
    seen = finding(worked)
    assert seen is not None
    assert seen.status == "warn"
    assert seen.observed["behind_seconds"] == 2 * 86_400
    assert seen.output is not None
    assert "succeeded" in seen.output
