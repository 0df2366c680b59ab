"""The public App over a real ledger: enqueue, the Job handle, queries, health. No worker runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.kit import SECOND, Ledger, wall

import failbetter
from failbetter import App, Job, JobFailed, JobNotFound, PayloadTooLarge, Refused
from failbetter.ledger.endings import Error
from failbetter.lifecycle.states import Cause


@pytest.fixture
def ledger(app: App) -> Ledger:
    """The app's own ledger, at which worker 1 is registered, as of now."""
    made = Ledger(app.database)
    made.register(1, renewed_at=wall(), swept_at=wall())
    return made


@pytest.fixture
def run(ledger: Ledger) -> Callable[..., None]:
    """Has the one job that is due end as told."""

    def end(cause: Cause = Cause.RETURNED, **given: Any) -> None:
        job = ledger.claim_one(now=ledger.soon())
        now = ledger.database.now()
        ledger.begin(job, now=now)
        ledger.end(job, cause, now=now, **given)

    return end


def work(path: str, size: int = 1, token: str = "") -> None: ...


# -- enqueue


def test_a_job_is_there_when_enqueue_returns(app: App) -> None:
    task = app.task(queue="images", priority=3, tags=("a", "b"))(work)
    before = datetime.now(UTC)
    job = task.enqueue("cat.png", size=2)
    found = app.job(job.id)
    assert (found.task, found.queue, found.priority, found.state) == (
        "work",
        "images",
        3,
        "pending",
    )
    assert found.args == {"path": "cat.png", "size": 2}
    assert found.tags == ("a", "b")
    assert before - timedelta(seconds=1) < found.created_at <= datetime.now(UTC)
    assert found.run_at == found.created_at
    assert (found.reason, found.over, found.attempt, found.attempts) == (None, False, 0, [])
    assert job.created
    assert job == found
    assert len({job, found}) == 1
    assert repr(job) == f"<Job {job.id}>"


def test_a_bad_argument_is_a_type_error_and_nothing_is_stored(app: App) -> None:
    task = app.task(work)
    for args, says in [((), "path"), ((5,), "path"), (("a", "b"), "size")]:
        with pytest.raises(TypeError, match=says):
            task.enqueue(*args)
    assert app.jobs.count() == 0


def test_too_much(database_url: str) -> None:
    app = App(database_url, max_payload=100)
    with pytest.raises(PayloadTooLarge):
        app.task(work).enqueue("x" * 200)
    assert app.jobs.count() == 0
    app.close()


def test_many(app: App) -> None:
    jobs = app.task(work).enqueue_many([("a",), ["b", 2], {"path": "c", "size": 3}])
    assert [job.refresh().args for job in jobs] == [
        {"path": "a"},
        {"path": "b", "size": 2},
        {"path": "c", "size": 3},
    ]
    assert app.task(work).enqueue_many([]) == []


@pytest.mark.parametrize("bad", [("c", "no size"), {"nope": 1}, "text", b"bytes", 5])
def test_many_are_all_or_none(app: App, bad: Any) -> None:
    with pytest.raises(TypeError):
        app.task(work).enqueue_many([("a",), ("b",), bad])
    assert app.jobs.count() == 0


def test_many_from_a_generator_that_breaks(app: App) -> None:
    def calls() -> Any:
        yield ("a",)
        raise LookupError

    with pytest.raises(LookupError):
        app.task(work).enqueue_many(calls())
    assert app.jobs.count() == 0


@pytest.mark.parametrize(
    ("run_after", "seconds"), [(60, 60), ("1h", 3600), (timedelta(minutes=2), 120), (0, 0)]
)
def test_later(app: App, run_after: Any, seconds: float) -> None:
    job = app.task(work).using(run_after=run_after).enqueue("a")
    assert (job.run_at - job.created_at).total_seconds() == pytest.approx(seconds, abs=0.01)


def test_at_a_moment(app: App) -> None:
    at = datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert app.task(work).using(run_after=at).enqueue("a").run_at == at


def test_other_settings_for_one_occasion(app: App) -> None:
    task = app.task(queue="images", priority=1)(work)
    job = task.using(queue="slow", priority=-5).enqueue("a")
    assert (job.queue, job.priority) == ("slow", -5)
    assert task.enqueue("b").queue == "images"


def test_waiting_counts_from_the_later_of_enqueue_and_first_run(app: App) -> None:
    task = app.task(expires_after="1h")(work)
    job = task.enqueue("a")
    assert job.row.expires_at == job.row.created_at + 3600 * SECOND
    job = task.using(run_after="2h").enqueue("a")
    assert job.row.expires_at == job.row.run_at + 3600 * SECOND
    job = task.using(run_after=datetime(2020, 1, 1, tzinfo=UTC), expires_after=5).enqueue("a")
    assert job.row.expires_at == job.row.created_at + 5 * SECOND
    assert app.task(name="plain")(work).enqueue("a").row.expires_at is None


def test_unique(app: App) -> None:
    task = app.task(unique=lambda path, size=1, token="": path)(work)
    other = app.task(name="other", unique=lambda path, size=1, token="": path)(work)
    one, again, different = task.enqueue("a"), task.enqueue("a", size=9), task.enqueue("b")
    assert again == one
    assert (one.created, again.created, different.created) == (True, False, True)
    assert again.args == {"path": "a"}
    assert other.enqueue("a").created, "a key belongs to its task"
    assert [job.created for job in task.enqueue_many([("a",), ("c",), ("c",)])] == [
        False,
        True,
        False,
    ]


def test_no_key_this_time(app: App) -> None:
    task = app.task(unique=lambda path, size=1, token="": None)(work)
    assert task.enqueue("a") != task.enqueue("a")


def test_keys_are_any_json_and_of_any_length(app: App) -> None:
    task = app.task(unique=lambda path, size=1, token="": [path, size])(work)
    assert task.enqueue("x" * 1000) == task.enqueue("x" * 1000)
    assert task.enqueue("x" * 1000, 2).created


def test_a_key_that_raises_stores_nothing(app: App) -> None:
    task = app.task(unique=lambda path, size=1, token="": 1 / 0)(work)
    with pytest.raises(ZeroDivisionError):
        task.enqueue("a")
    assert app.jobs.count() == 0


def test_exclusive(app: App, ledger: Ledger) -> None:
    task = app.task(exclusive=lambda path, size=1, token="": path)(work)
    for path in ("a", "a", "b"):
        task.enqueue(path)
    assert len(ledger.claim(now=ledger.soon())) == 2


def test_the_policy_is_that_of_the_time_of_enqueue(
    app: App, ledger: Ledger, run: Callable[..., None]
) -> None:
    job = app.task(max_attempts=1)(work).enqueue("a")
    app.task(max_attempts=9)(work)
    run(Cause.RAISED)
    assert job.refresh().state == "failed"


def test_async_callers(app: App) -> None:
    async def main() -> list[Job]:
        task = app.task(work)
        one = await task.aenqueue("a")
        many = await task.aenqueue_many([("b",), ("c",)])
        later = await task.using(run_after=60).aenqueue("d")
        assert (await one.arefresh()).state == "pending"
        assert (await later.acancel()).state == "discarded"
        assert (await app.ahealth()).status == "warn"
        return [one, *many, later]

    assert len(set(asyncio.run(main()))) == 4


def test_threads_share_an_app(app: App) -> None:
    task = app.task(unique=lambda path, size=1, token="": path)(work)
    jobs: list[Job] = []
    errors: list[BaseException] = []

    def produce(own: int) -> None:
        try:
            for n in range(20):
                jobs.append(task.enqueue(f"{own}-{n}"))
                jobs.append(task.enqueue(f"shared-{n}"))
                assert jobs[-1].refresh().state == "pending"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=produce, args=(own,)) for own in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(jobs)) == app.jobs.count() == 120


# -- one job


def test_a_job_that_is_not_there(app: App) -> None:
    with pytest.raises(JobNotFound, match="0123456789abc"):
        app.job("0123456789abc")
    with pytest.raises(ValueError, match="no job id"):
        app.job("nonsense")


def test_its_story(app: App, ledger: Ledger, run: Callable[..., None]) -> None:
    job = app.task(max_attempts=2, backoff=0)(work).enqueue("a")
    run(Cause.RAISED, error=Error("ValueError", "one", "T", "1-a"))
    job.refresh()
    run(Cause.CRASHED, evidence='{"signal":9}')
    run(Cause.RAISED, error=Error("KeyError", "two", "T", "1-b"))
    job.refresh()
    assert (job.state, job.reason, job.over, job.attempt) == ("failed", "error", True, 3)
    assert (job.error_type, job.error_message, job.fingerprint) == ("KeyError", "two", "1-b")
    assert job.ended_at is not None
    first, second, third = job.attempts
    assert (first.number, first.cause, first.error_message, first.traceback) == (
        1,
        "raised",
        "one",
        "T",
    )
    assert first.next_run_at is not None
    assert (second.cause, second.evidence) == ("crashed", {"signal": 9})
    assert (third.state, third.reason, third.next_run_at) == ("failed", "error", None)
    assert len({attempt.id for attempt in job.attempts}) == 3
    assert all(attempt.id.startswith(job.id) for attempt in job.attempts)


def test_effects(app: App, ledger: Ledger) -> None:
    job = app.task(work).enqueue("a")
    claimed = ledger.claim_one(now=ledger.soon())
    ledger.intend(claimed, "charge", now=ledger.soon())
    ledger.intend(claimed, "mail", now=ledger.soon())
    ledger.done(claimed, "charge", '{"id":1}', now=ledger.soon())
    charge, mail = sorted(job.effects, key=lambda effect: effect.name)
    assert (charge.name, charge.result) == ("charge", {"id": 1})
    assert charge.done_at is not None
    assert (mail.done_at, mail.result) == (None, None)


def test_redacted_arguments_are_shown_nowhere(app: App) -> None:
    job = app.task(redact=("token",))(work).enqueue("a", token="s3cret")
    assert app.job(job.id).args == {"path": "a", "token": "***"}


def test_a_result(app: App, run: Callable[..., None]) -> None:
    job = app.task(work).enqueue("a")
    with pytest.raises(TimeoutError, match="pending"):
        job.result(timeout=0)
    with pytest.raises(TimeoutError, match="a worker"):
        job.result(timeout=0.05)
    run(result='{"n":[1,2]}')
    assert job.result(timeout=5) == {"n": [1, 2]}


def test_a_result_of_nothing_and_one_that_is_missing(app: App, run: Callable[..., None]) -> None:
    job = app.task(work).enqueue("a")
    run(note="result missing: too large")
    assert job.result() is None
    assert job.note == "result missing: too large"


def test_the_result_of_a_job_that_came_to_nothing(app: App, run: Callable[..., None]) -> None:
    task = app.task(work)
    job = task.enqueue("a")
    run(Cause.RAISED, verdict="fail", error=Error("ValueError", "why", "T", "1-a"))
    with pytest.raises(JobFailed, match=r"failed\(error\): ValueError: why") as caught:
        job.result()
    assert (caught.value.job_id, caught.value.state, caught.value.reason) == (
        job.id,
        "failed",
        "error",
    )
    job = task.enqueue("b")
    job.cancel()
    with pytest.raises(JobFailed, match=r"discarded\(cancelled\)"):
        job.result(timeout=0)


def test_a_result_is_waited_for(app: App, run: Callable[..., None]) -> None:
    job = app.task(work).enqueue("a")
    timer = threading.Timer(0.1, run, kwargs={"result": "7"})
    timer.start()
    assert job.result(timeout=10) == 7
    timer.join()


def test_what_a_pending_job_waits_for(app: App, ledger: Ledger) -> None:
    task = app.task(exclusive=lambda path, size=1, token="": size or None)(work)
    plain, shared = task.enqueue("a", 0), task.enqueue("b", 1)
    later = task.using(run_after=datetime(2100, 1, 1, tzinfo=UTC)).enqueue("c", 0)
    assert plain.waiting_for() == "a worker"
    assert "exclusive" in str(shared.waiting_for())
    assert later.waiting_for() == "its time, 2100-01-01T00:00:00+00:00"
    first = ledger.claim(now=ledger.soon(), limit=1)[0]
    assert plain.refresh().waiting_for() == "claimed by worker-1"
    ledger.begin(first)
    assert plain.refresh().state == "running"
    assert plain.attempt == 1
    assert plain.waiting_for() == "runs on worker-1"
    assert "lease expired" in str(plain.waiting_for(now=time.time() + 31))
    ledger.remove(1)
    assert "gone" in str(plain.waiting_for())
    ledger.end(first)
    assert plain.refresh().waiting_for() is None


def test_cancel_retry_discard(app: App, ledger: Ledger, run: Callable[..., None]) -> None:
    task = app.task(max_attempts=1)(work)
    job = task.enqueue("a")
    for act, says in ((job.retry, "not failed but pending"), (job.discard, "not failed")):
        with pytest.raises(Refused, match=says):
            act()
    run(Cause.RAISED)
    assert job.retry().state == "pending"
    run(Cause.RAISED)
    with pytest.raises(Refused, match="failed"):
        job.cancel()
    discarded = job.discard()
    assert (discarded.state, discarded.reason) == ("discarded", "by_operator")
    with pytest.raises(Refused, match="discarded"):
        job.cancel()
    again = task.enqueue("b").cancel()
    assert (again.state, again.reason) == ("discarded", "cancelled")


# -- queries


@pytest.fixture
def failures(app: App, run: Callable[..., None]) -> dict[str, Job]:
    task = app.task(max_attempts=1, unique=lambda path, size=1, token="": path)(work)
    other = app.task(name="other", queue="slow")(work)
    found = {}
    for name, which, error in [
        ("a", task, "ValueError"),
        ("b", task, "shop.ValueError"),
        ("c", task, "KeyError"),
        ("d", other, "ValueError"),
    ]:
        found[name] = which.enqueue(name)
        said = Error(error, f"no {name}", "T", f"1-{which.name}-{error}")
        run(Cause.RAISED, verdict="fail", error=said)
    return found


def names(jobs: failbetter.Jobs) -> str:
    return "".join(sorted(job.args["path"] for job in jobs))


def test_iterating_without_a_filter(app: App, failures: dict[str, Job]) -> None:
    live = app.task(name="live")(work).enqueue("e")
    assert names(app.failed) == "abcd"
    assert names(app.jobs) == "abcde"
    assert next(iter(app.jobs)) == live
    assert [job.args["path"] for job in app.failed.limit(2)] == ["d", "c"]
    assert app.failed.count() == 4


def test_where(app: App, failures: dict[str, Job]) -> None:
    failed = app.failed
    assert names(failed.where(task="work")) == "abc"
    assert names(failed.where(error="ValueError")) == "abd"
    assert names(failed.where(error="ValueError", queue="slow")) == "d"
    assert names(failed.where(message="no [ab]")) == ""
    assert names(failed.where(since="1h")) == "abcd"
    assert names(failed.where(until="1h")) == ""
    assert names(failed.where(since=datetime.now(UTC) + timedelta(hours=1))) == ""
    assert names(failed.where(ids=[failures["a"].id, failures["d"].id])) == "ad"
    assert names(app.jobs.where(state="failed", reason="error")) == "abcd"


def test_where_after_where_only_narrows(app: App, failures: dict[str, Job]) -> None:
    """A selection that is handed on must never come back larger."""
    failed = app.failed
    assert names(failed.where(task="work").where(error="ValueError")) == "ab"
    assert names(failed.where(task="work").where(task="other")) == ""
    assert names(failed.where(task="work").where(task="*o*")) == "abc"
    assert names(failed.where(state="pending")) == ""
    assert names(failed.where(since="1h").where(since="2h")) == "abcd"
    assert names(failed.where(ids=[failures["a"].id]).where(ids=[failures["b"].id])) == ""
    assert names(failed.where(until="1h").where(until=0)) == ""


@pytest.mark.parametrize(
    "filters",
    [
        {"state": "broken"},
        {"reason": "because"},
        {"since": "soon"},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001  # that it has no zone is the point
        {"ids": ["x"]},
    ],
)
def test_what_cannot_be_is_a_value_error(app: App, filters: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        app.failed.where(**filters)


def test_an_unknown_filter_is_a_type_error(app: App) -> None:
    with pytest.raises(TypeError, match="exception"):
        app.failed.where(exception="ValueError")  # type: ignore[call-arg]


def test_groups(app: App, failures: dict[str, Job]) -> None:
    groups = app.failed.groups()
    assert [(group.title, group.count) for group in groups] == [
        ("other: ValueError", 1),
        ("work: KeyError", 1),
        ("work: shop.ValueError", 1),
        ("work: ValueError", 1),
    ]
    assert groups[0].sample == failures["d"]
    assert groups[0].first_seen is not None
    assert names(app.failed.where(fingerprint=groups[2].fingerprint)) == "b"


def test_acting_without_a_filter_needs_to_be_meant(app: App, failures: dict[str, Job]) -> None:
    for act in (app.failed.retry, app.failed.discard, app.jobs.where(state="failed").retry):
        with pytest.raises(ValueError, match="all=True"):
            act()
    assert names(app.failed) == "abcd"
    assert app.failed.retry(all=True).moved == 4
    assert app.failed.count() == 0


def test_retry_those_that_match(app: App, failures: dict[str, Job]) -> None:
    outcome = app.failed.where(error="ValueError").retry()
    assert (outcome.moved, outcome.refused) == (3, {})
    assert names(app.failed) == "c"


def test_what_is_refused_is_said_by_job(app: App, failures: dict[str, Job]) -> None:
    app.tasks["work"].enqueue("a")
    outcome = app.failed.where(task="work").retry()
    assert outcome.moved == 2
    assert outcome.refused == {failures["a"].id: "a live job has its unique key"}


def test_acting_on_the_newest_only(app: App, failures: dict[str, Job]) -> None:
    assert app.failed.limit(1).retry().moved == 1
    assert names(app.failed) == "abc"
    assert app.failed.limit(0).discard().moved == 0


def test_discard_those_that_match(app: App, failures: dict[str, Job]) -> None:
    assert app.failed.where(task="other").discard().moved == 1
    assert names(app.failed) == "abc"
    assert failures["d"].refresh().reason == "by_operator"


def test_only_the_failed_of_a_wider_selection_move(app: App, failures: dict[str, Job]) -> None:
    live = app.task(name="live")(work).enqueue("e")
    outcome = app.jobs.where(since="1h").retry()
    assert outcome.moved == 4
    assert outcome.refused == {live.id: "not failed but pending"}


# -- health


def test_no_worker_is_a_warning(app: App) -> None:
    health = app.health()
    assert health.status == "warn"
    found = {finding.name: finding for finding in health.findings}
    assert found["ledger"].status == "pass"
    assert (found["workers"].status, found["workers"].observed) == ("warn", 0)
    assert "no worker" in str(found["workers"].output)


def test_all_is_well(app: App, ledger: Ledger) -> None:
    app.task(work).enqueue("a")
    health = app.health()
    assert health.status == "pass"
    document = health.as_dict()
    assert document["status"] == "pass"
    assert document["checks"]["jobs"]["observedValue"] == {
        "pending": 1,
        "running": 0,
        "failed": 0,
    }
    assert document["checks"]["oldest_waiting_seconds"]["observedValue"] >= 0
    assert document["checks"]["workers"]["observedValue"] == 1


def test_many_jobs_are_counted_no_further_than_needed(
    app: App, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failbetter.health.figures.MOST", 2)
    app.task(work).enqueue_many([("a",), ("b",)])
    found = {finding.name: finding for finding in app.health().findings}
    assert (found["jobs"].observed["pending"], found["jobs"].output) == (2, None)
    app.task(work).enqueue("c")
    found = {finding.name: finding for finding in app.health().findings}
    assert found["jobs"].observed == {"pending": 2, "running": 0, "failed": 0}
    assert found["jobs"].output == "more than 2 are pending"


def test_a_silent_worker_is_named(app: App, ledger: Ledger) -> None:
    ledger.register(2, name="old", renewed_at=wall() - 60 * SECOND)
    health = app.health()
    assert health.status == "warn"
    assert "old" in str({finding.name: finding for finding in health.findings}["leases"].output)


@pytest.mark.parametrize("place", ["missing/jobs.db", "folder", "not-yet.db"])
def test_a_ledger_out_of_reach_is_never_assumed_to_be_well(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    app = App(f"sqlite:///{tmp_path / place}")
    health = app.health()
    assert health.status == "fail"
    assert [(finding.name, finding.status) for finding in health.findings] == [("ledger", "fail")]
    assert health.findings[0].output
    app.close()


def test_migrate_says_what_it_did(empty_url: str) -> None:
    app = App(empty_url)
    before, after = app.migrate()
    assert before is None
    assert app.migrate() == (after, after)
    app.close()
