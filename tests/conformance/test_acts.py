"""What a person does to jobs: cancel, retry, discard; refused with the reason, never twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, ending, new_job, unlike

from failbetter.ledger import registry
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause

LATER = NOW + 3600 * SECOND
OVER = ["succeeded", "failed", "discarded"]


def in_state(ledger: Ledger, state: str, **given: Any) -> int:
    """A job in the given state; `claimed` and `waiting for its retry` are pending too."""
    number = ledger.add(**given)
    if state == "pending":
        return number
    job = ledger.claim_one()
    if state == "running":
        ledger.begin(job)
    elif state == "succeeded":
        ledger.end(job)
    elif state == "failed":
        ledger.end(job, Cause.RAISED, verdict="fail")
    elif state == "discarded":
        ledger.end(job, Cause.DISCARDED_BY_TASK)
    elif state == "retrying":
        ledger.end(job, Cause.RAISED)
    else:
        assert state == "claimed"
    return number


# -- cancel


@pytest.mark.parametrize("state", ["pending", "retrying"])
def test_cancel_a_waiting_job(worked: Ledger, state: str) -> None:
    number = in_state(worked, state)
    assert worked.cancel(number, LATER)
    row = worked.row(number)
    assert (row.state, row.reason, row.ended_at) == ("discarded", "cancelled", LATER)
    assert worked.claim(now=LATER) == []


@pytest.mark.parametrize("state", ["claimed", "running"])
def test_cancel_asks_the_worker_of_a_claimed_one(worked: Ledger, state: str) -> None:
    number = in_state(worked, state)
    assert worked.cancel(number)
    row = worked.row(number)
    assert (row.state in ("pending", "running"), row.cancel, row.worker) == (True, 1, 1)
    with worked.database.look() as tx:
        assert registry.cancelled(tx, 1) == [(number, row.fence)]
        assert registry.cancelled(tx, 2) == []


def test_asking_twice_is_asking_once(worked: Ledger) -> None:
    number = in_state(worked, "running")
    assert worked.cancel(number)
    assert worked.cancel(number)


@pytest.mark.parametrize("state", OVER)
def test_nothing_to_cancel(worked: Ledger, state: str) -> None:
    number = in_state(worked, state)
    before = worked.row(number)
    assert not worked.cancel(number)
    assert unlike(before, worked.row(number)) == {}


def test_cancel_a_job_that_is_not_there(worked: Ledger) -> None:
    assert not worked.cancel(5)


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.RAISED, {}),
        (Cause.RELEASED, {"delay": 5.0}),
        (Cause.LOST, {}),
        (Cause.LOST, {"begun": False}),
        (Cause.CRASHED, {}),
        (Cause.INTERRUPTED, {}),
    ],
)
def test_a_wish_is_not_forgotten_when_the_attempt_ends_otherwise(
    worked: Ledger, cause: Cause, said: dict[str, Any]
) -> None:
    """Accepted means that it does not run again, whoever heard of it first."""
    number = worked.add()
    job = worked.claim_one()
    assert worked.cancel(number)
    worked.end(job, cause, now=NOW + 5, **said)
    row = worked.row(number)
    assert (row.state, row.reason, row.ended_at) == ("discarded", "cancelled", NOW + 5)
    assert row.cancel is None
    assert worked.claim(now=LATER) == []


def test_nor_when_the_job_is_given_back(worked: Ledger) -> None:
    numbers = [worked.add() for _ in range(3)]
    jobs = worked.claim()
    worked.cancel(numbers[1])
    assert worked.give_back(*jobs, now=NOW + 5) == 3
    assert [worked.row(number).state for number in numbers] == ["pending", "discarded", "pending"]
    assert worked.row(numbers[1]).ended_at == NOW + 5


@pytest.mark.parametrize(
    ("cause", "said", "state"),
    [
        (Cause.RETURNED, {}, "succeeded"),
        (Cause.RAISED, {"verdict": "fail"}, "failed"),
        (Cause.CANCELLED, {}, "discarded"),
    ],
)
def test_what_is_over_first_stays_over(
    worked: Ledger, cause: Cause, said: dict[str, Any], state: str
) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.cancel(number)
    worked.end(job, cause, **said)
    row = worked.row(number)
    assert (row.state, row.cancel) == (state, None)


def test_a_retried_job_is_not_haunted_by_an_old_wish(worked: Ledger) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.cancel(number)
    worked.end(job, Cause.RAISED, verdict="fail")
    assert worked.retry(number) is None
    job = worked.claim_one()
    worked.end(job, Cause.RAISED)
    assert worked.row(number).state == "pending"


# -- retry


def test_retry_gives_fresh_budgets_and_keeps_the_past(worked: Ledger) -> None:
    number = worked.fail(priority=4, policy=Policy(max_attempts=1))
    worked_before = worked.row(number)
    assert worked.retry(number, LATER) is None
    row = worked.row(number)
    assert (row.state, row.reason, row.run_at) == ("pending", None, LATER)
    assert (row.begun_at, row.ended_at) == (None, None)
    assert (row.attempts, row.crashes, row.losses, row.hand_backs, row.suspect) == (0, 0, 0, 0, 0)
    assert row.starts == worked_before.starts == 1
    assert row.error_type == "ValueError"
    assert len(worked.attempts(number)) == 1
    (job,) = worked.claim(now=LATER)
    assert (job.id, job.priority, job.attempts, job.starts) == (number, 4, 0, 1)
    worked.end(job, now=LATER)
    assert [attempt.number for attempt in worked.attempts(number)] == [1, 2]


def test_retry_after_every_budget_was_used_up(worked: Ledger) -> None:
    policy = Policy(max_crashes=1)
    number = worked.add(policy=policy)
    worked.end(worked.claim_one(), Cause.CRASHED)
    assert worked.row(number).reason == "crashed"
    worked.retry(number)
    assert worked.claim_one().crashes == 0


def test_a_late_ending_does_not_reach_a_retried_job(worked: Ledger) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.end(job, Cause.RAISED, verdict="fail")
    worked.retry(number)
    before = worked.row(number)
    late = ending(job)
    assert worked.settle(late) == [late]
    assert unlike(before, worked.row(number)) == {}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("pending", "not failed but pending"),
        ("claimed", "not failed but pending"),
        ("running", "not failed but running"),
        ("retrying", "not failed but pending"),
        ("succeeded", "not failed but succeeded"),
        ("discarded", "not failed but discarded"),
    ],
)
@pytest.mark.parametrize("unique", [None, "k"])
def test_only_the_failed_can_be_retried(
    worked: Ledger, state: str, why: str, unique: str | None
) -> None:
    number = in_state(worked, state, unique=unique)
    before = worked.row(number)
    assert worked.retry(number) == why
    assert unlike(before, worked.row(number)) == {}


def test_a_job_that_is_not_there(worked: Ledger) -> None:
    assert worked.retry(5) == "not found"
    assert worked.discard(5) == "not found"


def test_a_retry_does_not_outlive_the_jobs_time(worked: Ledger) -> None:
    number = worked.fail(expires_at=LATER)
    before = worked.row(number)
    assert worked.retry(number, LATER) == "expired"
    assert unlike(before, worked.row(number)) == {}
    assert worked.retry(number, LATER - 1) is None
    assert worked.row(number).expires_at == LATER


def test_a_live_job_of_the_same_key_stands_in_the_way(worked: Ledger) -> None:
    failed = worked.fail(unique="k")
    live = worked.add(unique="k")
    assert worked.retry(failed) == "a live job has its unique key"
    assert worked.row(failed).state == "failed"
    worked.cancel(live)
    assert worked.retry(failed) is None
    assert worked.add(unique="k") == failed


def test_two_failed_of_one_key_only_one_is_retried(worked: Ledger) -> None:
    one, two = worked.fail(unique="k"), worked.fail(unique="k")
    assert worked.retry(one) is None
    assert worked.retry(two) == "a live job has its unique key"


def test_a_second_retry_finds_nothing_to_do(worked: Ledger) -> None:
    number = worked.fail()
    assert worked.retry(number) is None
    assert worked.retry(number) == "not failed but pending"


def test_two_callers_at_once_retry_it_once(worked: Ledger, connect: Callable[[], Ledger]) -> None:
    numbers = [worked.fail() for _ in range(30)]
    callers = [connect() for _ in range(3)]
    outcomes: list[str | None] = []
    start = threading.Barrier(len(callers))

    def call(own: Ledger) -> None:
        start.wait()
        outcomes.extend(own.retry(number) for number in numbers)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(None) == 30
    assert outcomes.count("not failed but pending") == 60


# -- discard


def test_discard_puts_a_failure_aside(worked: Ledger) -> None:
    number = worked.fail(unique="k")
    assert worked.discard(number, LATER) is None
    row = worked.row(number)
    assert (row.state, row.reason, row.ended_at) == ("discarded", "by_operator", LATER)
    assert row.error_type == "ValueError"
    assert len(worked.attempts(number)) == 1
    assert worked.retry(number) == "not failed but discarded"


@pytest.mark.parametrize("state", ["pending", "running", "succeeded", "discarded"])
def test_only_the_failed_can_be_discarded(worked: Ledger, state: str) -> None:
    number = in_state(worked, state)
    before = worked.row(number)
    assert worked.discard(number) == f"not failed but {state}"
    assert unlike(before, worked.row(number)) == {}


def test_acts_touch_no_other_job(worked: Ledger) -> None:
    others = worked.insert(*(new_job() for _ in range(3)))
    before = [worked.row(number) for number in others]
    number = worked.add(run_at=NOW - 1)
    job = worked.claim_one()
    assert job.id == number
    worked.end(job, Cause.RAISED, verdict="fail")
    worked.retry(number)
    worked.cancel(number)
    assert [worked.row(number) for number in others] == before
