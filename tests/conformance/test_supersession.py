"""A job older than the last success of its subject is not run; and versions are what they say."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.conformance.kit import NOW, Ledger, ending

from failbetter import App, ids
from failbetter.durations import as_version
from failbetter.ledger import claims, holds, supersession
from failbetter.ledger.schema import subjects
from failbetter.ledger.supersession import About
from failbetter.lifecycle.states import Cause
from failbetter.running import RunningJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.claims import Claimed


def add(ledger: Ledger, version: int | None, subject: str | None = "doc 1", **given: Any) -> int:
    return ledger.add(subject=subject, version=version, **given)


def succeed(ledger: Ledger, *jobs: Claimed) -> None:
    assert ledger.settle(*[ending(job) for job in jobs]) == []


def last(ledger: Ledger) -> dict[tuple[str, str], int]:
    """The last success of each subject."""
    rows = ledger.database.query(subjects.select())
    return {(row.task, row.subject): row.version for row in rows}


def test_an_older_job_ends_superseded_at_the_claim(worked: Ledger) -> None:
    add(worked, 5)
    succeed(worked, worked.claim_one())
    old, same, new, other = (
        add(worked, 4), add(worked, 5), add(worked, 6), add(worked, 1, "doc 2"),
    )  # fmt: skip
    assert {job.id for job in worked.claim()} == {same, new, other}
    row = worked.row(old)
    assert (row.state, row.reason, row.starts, row.claimed) == ("discarded", "superseded", 0, None)
    assert row.worker is None
    assert row.ended_at is not None
    assert worked.attempts(old) == []


def test_what_has_no_version_or_no_subject_is_never_superseded(worked: Ledger) -> None:
    add(worked, 5)
    succeed(worked, worked.claim_one())
    plain = [add(worked, None), add(worked, 1, None), add(worked, None, None)]
    claimed = worked.claim()
    assert {job.id for job in claimed} == set(plain)
    succeed(worked, *claimed)
    assert last(worked) == {("work", "doc 1"): 5}


def test_a_subject_is_its_tasks(worked: Ledger) -> None:
    add(worked, 5, task="thumbnail")
    succeed(worked, worked.claim_one())
    add(worked, 4, task="upload")
    assert worked.claim_one().task == "upload"


def test_only_a_success_supersedes(worked: Ledger) -> None:
    add(worked, 5)
    worked.end(worked.claim_one(), Cause.RAISED, verdict="fail")
    add(worked, 4)
    assert worked.claim_one().version == 4


def test_a_lost_attempt_notes_nothing(worked: Ledger) -> None:
    number = add(worked, 5)
    job = worked.claim_one()
    worked.give_back(job)
    assert worked.settle(ending(job)) != []
    assert last(worked) == {}
    assert worked.row(number).state == "pending"


def test_a_retried_job_runs_again_at_its_own_version(worked: Ledger) -> None:
    add(worked, 5)
    failed = add(worked, 5)
    one, two = worked.claim()
    succeed(worked, one if one.id != failed else two)
    worked.end(two if one.id != failed else one, Cause.RAISED, verdict="fail")
    assert worked.retry(failed) is None
    assert [job.id for job in worked.claim()] == [failed]


def test_an_old_failure_that_is_retried_ends_superseded(worked: Ledger) -> None:
    old = add(worked, 3)
    worked.end(worked.claim_one(), Cause.RAISED, verdict="fail")
    add(worked, 4)
    succeed(worked, worked.claim_one())
    assert worked.retry(old) is None
    assert worked.claim() == []
    assert worked.row(old).reason == "superseded"
    assert len(worked.attempts(old)) == 1


def test_a_preview_says_what_the_claim_will(worked: Ledger, app: App) -> None:
    numbers = [add(worked, version) for version in (3, 4, 5)]
    other = add(worked, 1, "doc 2")
    for job in worked.claim():
        worked.end(job, Cause.RAISED, verdict="fail")
    add(worked, 4)
    succeed(worked, worked.claim_one())
    verdicts = {job.id: job.verdict for job in app.failed.preview()}
    assert [verdicts[ids.to_text(number)] for number in (*numbers, other)] == [
        "superseded",
        "ready",
        "ready",
        "ready",
    ]


def test_two_that_run_at_once_both_succeed_and_the_higher_version_stands(worked: Ledger) -> None:
    add(worked, 1)
    add(worked, 2)
    one, two = sorted(worked.claim(), key=lambda job: job.version or 0)
    succeed(worked, two)
    succeed(worked, one)
    assert {row.state for row in worked.rows()} == {"succeeded"}
    assert last(worked) == {("work", "doc 1"): 2}


def test_many_of_one_commit(worked: Ledger) -> None:
    for version in range(60):
        add(worked, version % 20, f"doc {version // 20}")
    claimed = worked.claim()
    assert len(claimed) == 60
    succeed(worked, *claimed)
    assert last(worked) == {("work", f"doc {n}"): 19 for n in range(3)}
    for version in range(60):
        add(worked, version % 20, f"doc {version // 20}")
    again = worked.claim()
    assert [job.version for job in again] == [19] * 3
    assert len(worked.rows(reason=("superseded",))) == 57


def test_what_was_dropped_is_no_reason_to_stop_claiming(worked: Ledger, app: App) -> None:
    add(worked, 9)
    succeed(worked, worked.claim_one())
    for _ in range(5):
        add(worked, 1)
    with worked.database.write() as tx:
        held = holds.standing(tx, to_claim=True)
        found, _ = claims.look(tx, [], NOW, held)
        assert claims.claim_in(tx, 1, found, 1, NOW, held) == ([], True, None)


def test_the_last_look_before_the_body(worked: Ledger) -> None:
    old, new = add(worked, 1), add(worked, 2)
    worked.claim()
    with worked.database.write() as tx:
        assert not supersession.is_outdated(tx, old)
        supersession.record(tx, [(new, About("work", "doc 1", 2))], NOW)
    with worked.database.look() as tx:
        assert supersession.is_outdated(tx, old)
        assert not supersession.is_outdated(tx, new)


def test_firsts_at_once_leave_the_highest(worked: Ledger, connect: Callable[[], Ledger]) -> None:
    others = [connect() for _ in range(4)]

    def note(ledger: Ledger, version: int) -> None:
        for n in range(20):
            about = About("work", f"doc {n}", version)
            ledger.database.transact(
                lambda tx, about=about: supersession.record(tx, [(version, about)], NOW)
            )

    threads = [
        threading.Thread(target=note, args=(ledger, n)) for n, ledger in enumerate(others, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(last(worked).values()) == {4}


def test_pruning_the_success_changes_nothing(worked: Ledger, app: App) -> None:
    add(worked, 5)
    succeed(worked, worked.claim_one())
    assert app.prune(all=True).total == 1
    add(worked, 4)
    assert worked.claim() == []


# -- options


def test_a_version_is_stored_with_the_job(worked: Ledger, app: App) -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    at = dt.datetime(2026, 1, 31, 9, 0, 0, 1, tzinfo=zone)

    @app.task(subject=lambda key, when: key, version=lambda key, when: when)
    def save(key: str, when: Any) -> None: ...

    @app.task(subject=lambda key, when: key, version=lambda key, when: at if when else None)
    def stamp(key: str, when: Any) -> None: ...

    save.enqueue("a", 7)
    save.enqueue_many([("b", -7), ("c", 1 << 62)])
    stamp.enqueue("d", True)
    stamp.enqueue("e", False)
    claimed = worked.claim(now=worked.soon())
    expected = round(at.timestamp()) * 1_000_000 + 1
    assert {job.subject: job.version for job in claimed} == {
        "a": 7, "b": -7, "c": 1 << 62, "d": expected, "e": None
    }  # fmt: skip


@pytest.mark.parametrize("bad", [1.5, "7", True, dt.datetime(2026, 1, 1), 1 << 63])  # noqa: DTZ001
def test_what_is_no_version_is_refused_and_nothing_stored(app: App, bad: Any) -> None:
    @app.task(subject=lambda: "x", version=lambda: bad)
    def save() -> None: ...

    with pytest.raises((TypeError, ValueError), match="version"):
        save.enqueue()
    assert app.jobs.count() == 0


def test_a_version_needs_a_subject(app: App) -> None:
    with pytest.raises(ValueError, match="subject"):

        @app.task(version=lambda n: n)
        def save(n: int) -> None: ...


def test_newer_than() -> None:
    line: Any = None
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    job = RunningJob(1, 1, "save", "default", 1, line, version=5)
    assert [job.newer_than(stored) for stored in (None, 4, 5, 6)] == [True, True, False, False]
    dated = RunningJob(1, 1, "save", "default", 1, line, version=as_version(at))
    assert dated.newer_than(at - dt.timedelta(microseconds=1))
    assert not dated.newer_than(at)
    with pytest.raises(TypeError):
        dated.newer_than("yesterday")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no version"):
        RunningJob(1, 1, "save", "default", 1, line).newer_than(1)


def test_ids_of_superseded_jobs_are_shown(worked: Ledger, app: App) -> None:
    add(worked, 5)
    succeed(worked, worked.claim_one())
    old = add(worked, 4)
    worked.claim()
    job = app.job(ids.to_text(old))
    assert (job.state, job.reason, job.attempts) == ("discarded", "superseded", [])
