"""Bulk acts: what moves, what is skipped and why, what becomes of each; the count is never lost."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, unlike

from failbetter import App, Jobs, Operation, OperationNotFound, Refused, ids
from failbetter.ledger import lists, moving
from failbetter.ledger.endings import Error
from failbetter.ledger.filters import Filters
from failbetter.ledger.schema import jobs
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.ramp import Options
from failbetter.lifecycle.states import Cause
from failbetter.triage import operations, steps

LATER = NOW + 3600 * SECOND
FAILED = Filters(states=("failed",))


def failed(ledger: Ledger) -> Jobs:
    """The failed jobs."""
    return Jobs(ledger.database, FAILED)


def retry(ledger: Ledger, **given: Any) -> Operation:
    """Retry everything that failed."""
    return failed(ledger).retry(all=True, **given)


def parts(operation: Operation) -> dict[str, Any]:
    """The parts of the report that are not empty."""
    report = operation.report()
    assert report.counted == report.total == operation.total
    found = {name: getattr(report, name) for name in report.__struct_fields__}
    return {name: value for name, value in found.items() if value and name != "total"}


def claim(ledger: Ledger, number: int) -> Any:
    (job,) = (job for job in ledger.claim(now=ledger.soon()) if job.id == number)
    return job


# -- retry


def test_retry_gives_fresh_budgets_and_keeps_the_past(worked: Ledger) -> None:
    number = worked.fail(priority=4, policy=Policy(max_attempts=1))
    operation = retry(worked, note="back", actor="ann")
    row = worked.row(number)
    assert (row.state, row.reason, row.ended_at, row.attempts) == ("pending", None, None, 0)
    assert (row.starts, row.error_type, len(worked.attempts(number))) == (1, "ValueError", 1)
    assert (operation.verb, operation.state, operation.note) == ("retry", "done", "back")
    assert (operation.actor, operation.moved, operation.refused) == ("ann", 1, {})
    assert worked.claim_one(now=worked.soon()).priority == 4


def test_what_became_of_each(worked: Ledger) -> None:
    names = ("good", "alike", "otherwise", "waits", "runs", "set_aside")
    numbers = {name: worked.fail() for name in names}
    operation = retry(worked)
    assert parts(operation) == {"waiting": 6}
    jobs = {job.id: job for job in worked.claim(now=worked.soon())}
    worked.give_back(jobs[numbers["waits"]])
    worked.begin(jobs[numbers["runs"]])
    worked.end(jobs[numbers["good"]])
    same, other = Error("ValueError", "no", None, "1-ValueError"), Error("E", "no", None, "1-E")
    worked.end(jobs[numbers["alike"]], Cause.RAISED, verdict="fail", error=same)
    worked.end(jobs[numbers["otherwise"]], Cause.RAISED, verdict="fail", error=other)
    worked.end(jobs[numbers["set_aside"]], Cause.DISCARDED_BY_TASK)
    assert parts(operation) == {
        "succeeded": 1,
        "failed_alike": 1,
        "failed_otherwise": 1,
        "discarded": 1,
        "running": 1,
        "waiting": 1,
    }
    became = {ids.from_text(one.id): one.became for one in operation.jobs()}
    assert became[numbers["otherwise"]] == "failed_otherwise"
    assert operation.moved == 6


def test_what_moved_meanwhile_is_skipped(worked: Ledger) -> None:
    stays, retried, again, discarded = (worked.fail() for _ in range(4))
    preview = failed(worked).preview()
    worked.retry(retried)
    worked.retry(again)
    job = next(job for job in worked.claim() if job.id == again)
    worked.end(job, Cause.RAISED, verdict="fail")
    worked.discard(discarded)
    before = {number: worked.row(number) for number in (retried, again, discarded)}
    operation = preview.retry()
    assert operation.moved == 1
    assert parts(operation) == {"waiting": 1, "skipped": {"changed": 3}}
    assert operation.refused == {
        ids.to_text(retried): "not failed but pending",
        ids.to_text(again): "it has failed again since",
        ids.to_text(discarded): "not failed but discarded",
    }
    assert worked.row(stays).state == "pending"
    assert {number: worked.row(number) for number in before} == before


def test_what_is_not_ready_is_skipped_by_its_verdict(worked: Ledger) -> None:
    worked.fail(expires_at=NOW + SECOND)
    worked.fail(task="gone")
    worked.fail(policy=Policy(replay="confirm"))
    assert parts(retry(worked)) == {
        "skipped": {"expired": 1, "needs_confirmation": 1, "unknown_task": 1}
    }
    assert len(worked.rows(states=("failed",))) == 3


def test_what_is_confirmed_is_retried_but_never_what_never_is(worked: Ledger) -> None:
    asks = worked.fail(policy=Policy(replay="confirm"))
    never = worked.fail(policy=Policy(replay="never"))
    unique = worked.fail(policy=Policy(replay="never"), unique="k")
    operation = retry(worked, confirm=True)
    assert worked.row(asks).state == "pending"
    assert [worked.row(number).state for number in (never, unique)] == ["failed", "failed"]
    assert set(operation.refused.values()) == {
        "its task says that it is never to be run again by hand"
    }
    assert worked.retry(never) == "its task says that it is never to be run again by hand"


def test_time_that_ran_out_since(worked: Ledger) -> None:
    number = worked.fail(expires_at=worked.database.now() + 3600 * SECOND)
    preview = failed(worked).preview()
    with worked.database.write() as tx:
        (one,) = rows_of(tx, preview.token)
        moving.retry(tx, ids.from_text(preview.token), [one], moving.Ask(), one.expires_at)
    assert worked.row(number).state == "failed"
    assert preview.retry().refused == {ids.to_text(number): "expired"}


def rows_of(tx: Any, token: str) -> list[Any]:
    found: list[Any] = lists.look(tx, ids.from_text(token), 0, 10)
    return found


def test_a_key_that_was_taken_since(worked: Ledger) -> None:
    number = worked.fail(unique="k")
    preview = failed(worked).preview()
    live = worked.add(unique="k")
    operation = preview.retry()
    assert parts(operation) == {"skipped": {"duplicate": 1}}
    assert worked.row(number).state == "failed"
    worked.cancel(live)
    assert parts(retry(worked)) == {"waiting": 1}


def test_a_job_that_is_gone_is_counted(worked: Ledger, connect: Callable[[], Ledger]) -> None:
    number = worked.fail()
    preview = failed(worked).preview()
    delete(worked, number)
    operation = preview.retry()
    assert (parts(operation), operation.state) == ({"skipped": {"gone": 1}}, "done")
    worked.fail()
    later = retry(worked)
    delete(worked, worked.rows()[0].id)
    assert parts(later) == {"gone": 1}


def delete(ledger: Ledger, number: int) -> None:
    with ledger.database.engine.begin() as connection:
        connection.execute(jobs.delete().where(jobs.c.id == number))


def test_many_wait_behind_others_of_their_priority(
    worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MANY", 2)
    retried = {worked.fail(priority=1, run_at=NOW - SECOND) for _ in range(2)}
    retried.add(worked.fail(priority=1, unique="k"))
    retry(worked)
    fresh = worked.add(priority=1, run_at=NOW)
    lower = worked.add(priority=0, run_at=NOW - 2 * SECOND)
    order = [worked.claim(limit=1, now=worked.soon())[0] for _ in range(5)]
    assert order[0].id == fresh
    assert {job.id for job in order[1:]} == retried | {lower}
    worked.end(order[1], Cause.RAISED)
    worked.end(order[0], Cause.RAISED)


def test_few_keep_their_place(worked: Ledger) -> None:
    number = worked.fail(priority=1)
    retry(worked)
    worked.add(priority=0, run_at=NOW)
    assert worked.claim(limit=1, now=worked.soon())[0].id == number


def test_it_goes_in_bounded_steps(worked: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.step, "__defaults__", (3,))
    numbers = [worked.fail() for _ in range(8)]
    seen: list[int] = []
    operation = failed(worked).preview().retry(progress=lambda done, _total: seen.append(done))
    assert operation.moved == 8
    assert len(seen) == 3
    assert {worked.row(number).state for number in numbers} == {"pending"}


def test_two_at_once_retry_each_job_once(worked: Ledger, connect: Callable[[], Ledger]) -> None:
    numbers = [worked.fail(unique=f"k{at}" if at % 5 == 0 else None) for at in range(40)]
    before = {number: worked.row(number).fence for number in numbers}
    previews = [failed(connect()).preview() for _ in range(3)]
    start = threading.Barrier(len(previews))
    done: list[Operation] = []

    def act(preview: Any) -> None:
        start.wait()
        done.append(preview.retry())

    threads = [threading.Thread(target=act, args=(one,)) for one in previews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(operation.moved for operation in done) == 40
    assert sum(len(operation.refused) for operation in done) == 80
    assert {number: worked.row(number).fence for number in numbers} == {
        number: fence + 1 for number, fence in before.items()
    }


def test_a_later_operation_takes_over(worked: Ledger) -> None:
    number = worked.fail()
    first = retry(worked)
    worked.end(claim(worked, number), Cause.RAISED, verdict="fail")
    second = retry(worked)
    assert parts(first) == {"taken_over": 1}
    assert parts(second) == {"waiting": 1}
    worked.end(claim(worked, number))
    assert (parts(first), parts(second)) == ({"taken_over": 1}, {"succeeded": 1})


# -- discard, restore, undo


def test_discard_then_restore(worked: Ledger, app: App) -> None:
    number = worked.fail(unique="k")
    before = worked.row(number)
    operation = failed(worked).discard(all=True, note="no use")
    row = worked.row(number)
    assert (row.state, row.reason, operation.verb) == ("discarded", "by_operator", "discard")
    assert parts(operation) == {"discarded": 1}
    restored = app.jobs.where(reason="by_operator").restore(actor="ann")
    assert unlike(before, worked.row(number)) == {
        "fence": (before.fence, before.fence + 2),
    }
    assert (parts(restored), parts(operation)) == ({"restored": 1}, {"taken_over": 1})
    with pytest.raises(Refused, match="is a restore"):
        restored.undo()


def test_restore_is_for_what_a_person_discarded(worked: Ledger, app: App) -> None:
    number = worked.add(run_at=LATER)
    worked.cancel(number)
    worked.fail()
    operation = app.jobs.restore(all=True)
    assert parts(operation) == {"skipped": {"not_discarded": 2}}
    assert "not discarded by a person but discarded (cancelled)" in operation.refused.values()


def test_discard_takes_what_cannot_be_retried(worked: Ledger) -> None:
    worked.fail(task="gone", expires_at=NOW + SECOND)
    assert parts(failed(worked).discard(all=True)) == {"discarded": 1}


def test_undo_returns_what_has_not_begun(worked: Ledger) -> None:
    kinds = ("waits", "given_back", "ran", "runs", "failed")
    numbers = {name: worked.fail(unique=name) for name in kinds}
    before = {name: worked.row(number) for name, number in numbers.items()}
    operation = retry(worked)
    jobs = {job.id: job for job in worked.claim(now=worked.soon())}
    worked.give_back(jobs[numbers["waits"]], jobs[numbers["given_back"]])
    worked.end(jobs[numbers["ran"]])
    worked.begin(jobs[numbers["runs"]])
    worked.end(jobs[numbers["failed"]], Cause.RAISED)
    report = operation.undo()
    assert (report.undone, report.succeeded, report.running, report.waiting) == (2, 1, 1, 1)
    assert operation.state == "undone"
    for name in ("waits", "given_back"):
        assert set(unlike(before[name], worked.row(numbers[name]))) == {"fence"}
    assert [job.id for job in worked.claim(now=worked.soon())] == [numbers["failed"]]
    ran = {ids.from_text(one.id) for one in operation.jobs() if one.became != "undone"}
    assert ran == {numbers[name] for name in ("ran", "runs", "failed")}
    with pytest.raises(Refused, match="cannot be undone: it is undone"):
        operation.undo()


def test_undo_leaves_what_began_while_it_was_looked_at(worked: Ledger) -> None:
    number = worked.fail()
    operation = retry(worked)
    with worked.database.write() as tx:
        seen = lists.look_back(tx, ids.from_text(operation.id), 0, 10)
    worked.end(claim(worked, number), Cause.RAISED)
    before = worked.row(number)
    assert before.state == "pending"
    with worked.database.write() as tx:
        assert moving.give_back(tx, ids.from_text(operation.id), seen) == 0
    assert worked.row(number) == before
    assert parts(operation) == {"waiting": 1}


def test_what_changes_while_it_is_looked_at_is_left_alone(worked: Ledger) -> None:
    changes, stays = worked.fail(), worked.fail()
    preview = failed(worked).preview()
    number = ids.from_text(preview.token)
    with worked.database.write() as tx:
        steps.begin(tx, number, "retry", Options(), None, None)
        looked = lists.look(tx, number, 0, 10)
    assert len(looked) == 2
    worked.retry(changes)
    worked.end(claim(worked, changes), Cause.RAISED)
    changed = worked.row(changes)
    with worked.database.write() as tx:
        assert moving.retry(tx, number, looked, moving.Ask(), tx.now()) == 1
    assert worked.row(changes) == changed
    assert worked.row(stays).state == "pending"
    operation = Operation(worked.database, operations.loaded(worked.database, number))
    assert parts(operation) == {"skipped": {"changed": 1}, "waiting": 1}


def test_undo_of_a_discard(worked: Ledger) -> None:
    number = worked.fail()
    before = worked.row(number)
    operation = failed(worked).discard(all=True)
    assert operation.undo().undone == 1
    assert set(unlike(before, worked.row(number))) == {"fence"}
    assert parts(retry(worked)) == {"waiting": 1}


def test_what_was_undone_can_be_retried(worked: Ledger) -> None:
    number = worked.fail()
    first = retry(worked)
    first.undo()
    second = retry(worked)
    assert (parts(first), parts(second)) == ({"undone": 1}, {"waiting": 1})
    worked.end(claim(worked, number))
    assert (parts(first), parts(second)) == ({"undone": 1}, {"succeeded": 1})


def test_a_cancelled_wish_is_not_undone(worked: Ledger) -> None:
    number = worked.fail()
    operation = retry(worked)
    worked.cancel(number)
    assert operation.undo().discarded == 1
    assert worked.row(number).reason == "cancelled"


# -- looking it up


def test_operations_are_listed_newest_first(worked: Ledger, app: App) -> None:
    worked.fail()
    first, second = retry(worked), failed(worked).discard(all=True)
    failed(worked).preview()
    assert app.operations == [second, first]
    found = app.operation(first.id)
    assert (found.id, found.verb, found.total) == (first.id, "retry", 1)


def test_an_operation_that_there_is_none_of(worked: Ledger, app: App) -> None:
    with pytest.raises(OperationNotFound):
        app.operation("0000000000005")
    with pytest.raises(OperationNotFound, match="is a preview"):
        app.operation(failed(worked).preview().token)
    with pytest.raises(ValueError, match="no job id"):
        app.operation("5")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rate": 0}, ValueError),
        ({"rate": "fast"}, ValueError),
        ({"canary": 0}, ValueError),
        ({"canary": 1.5}, ValueError),
        ({"actor": 5}, TypeError),
        ({"note": "x" * 3000}, ValueError),
    ],
)
def test_what_cannot_be_changes_nothing(worked: Ledger, given: Any, error: type) -> None:
    number = worked.fail()
    with pytest.raises(error):
        retry(worked, **given)
    assert worked.row(number).state == "failed"


def test_wrong_states_are_refused(worked: Ledger) -> None:
    worked.fail()
    operation = retry(worked)
    with pytest.raises(Refused, match="cannot be aborted: it is done"):
        operation.abort()
    with pytest.raises(Refused, match="cannot be resumed: it is done"):
        operation.resume()


def test_wait_is_for_the_jobs_ends(worked: Ledger) -> None:
    number = worked.fail()
    operation = retry(worked)
    with pytest.raises(TimeoutError, match="not at its end"):
        operation.wait(timeout=0)
    worked.end(claim(worked, number))
    assert operation.wait(timeout=0).succeeded == 1


# -- it adds up, whatever happens


@pytest.mark.parametrize("round_", range(4))
def test_it_always_adds_up(worked: Ledger, round_: int) -> None:
    """Any interleaving of acts and endings: each report sums to its selection."""
    seed = int(os.environ.get("FAILBETTER_TEST_SEED") or random.randrange(1 << 30)) + round_
    print(f"seed {seed}")
    rng = random.Random(seed)
    for at in range(12):
        worked.fail(
            error=rng.choice(["ValueError", "KeyError"]), unique=f"k{at % 8}" if at % 3 else None
        )
    begun: list[Operation] = []
    open_: list[Any] = []

    def end(jobs: list[Any]) -> None:
        for job in jobs:
            way = rng.random()
            error = Error("E", "no", None, rng.choice(["1-ValueError", "1-KeyError", "1-E"]))
            if way < 0.3:
                worked.end(job)
            elif way < 0.7:
                worked.end(job, Cause.RAISED, verdict="fail", error=error)
            elif way < 0.8:
                worked.end(job, Cause.RAISED, error=error)
            else:
                worked.give_back(job)

    for _ in range(25):
        match rng.choice(["preview", "act", "undo", "run", "single", "restore"]):
            case "preview":
                open_.append(failed(worked).preview())
            case "act" if open_:
                preview = open_.pop(rng.randrange(len(open_)))
                begun.append(preview.retry() if rng.random() < 0.7 else preview.discard())
            case "undo" if begun:
                operation = rng.choice(begun)
                if operation.verb != "restore" and operation.state != "undone":
                    operation.undo()
            case "run":
                end(worked.claim(limit=rng.randrange(1, 8), now=worked.soon()))
            case "single":
                for row in worked.rows(states=("failed",))[:2]:
                    (worked.retry if rng.random() < 0.5 else worked.discard)(row.id)
            case "restore":
                jobs = Jobs(worked.database, Filters(states=("discarded",)))
                begun.append(jobs.restore(all=True))
        for operation in begun:
            parts(operation)
            assert operation.report().moved == operation.moved
