"""Endings: each kind, under its fence, together with the attempt's row; and in batches."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import null, update
from tests.conformance.kit import NOW, SECOND, Ledger, ending, new_job, unlike

from failbetter.errors import LedgerError
from failbetter.ledger import claims
from failbetter.ledger.claims import Claimed
from failbetter.ledger.endings import RECORD_RETURN, Error, is_recorded
from failbetter.ledger.schema import jobs
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause

ERROR = Error("shop.Broken", "it broke", "Traceback: it broke", "1-abc")
LATER = NOW + 60 * SECOND


def claimed(ledger: Ledger, **given: Any) -> Claimed:
    ledger.add(**given)
    return ledger.claim_one()


def test_a_loss_is_no_record_of_the_lost_ending(worked: Ledger) -> None:
    job = claimed(worked)
    worked.settle(ending(job, Cause.LOST))
    with worked.database.look() as tx:
        assert not is_recorded(tx, job.id, job.fence, "worker-1")
    again = worked.claim_one()
    worked.settle(ending(again))
    with worked.database.look() as tx:
        assert is_recorded(tx, again.id, again.fence, "worker-1")
        assert not is_recorded(tx, again.id, again.fence, "worker-2")


# -- what an ending makes of the row


def test_a_first_success(worked: Ledger) -> None:
    job = claimed(worked)
    worked.begin(job)
    made = ending(job, now=NOW + 5, result='{"n":1}', note="seen")
    assert worked.settle(made) == []
    row = worked.row(job.id)
    assert (row.state, row.reason, row.result, row.note) == ("succeeded", None, '{"n":1}', "seen")
    assert (row.begun_at, row.ended_at, row.starts) == (NOW + 5, NOW + 5, 1)
    assert (row.worker, row.claimed, row.cancel) == (None, None, None)
    assert row.fence == 2
    (attempt,) = worked.attempts(job.id)
    assert (attempt.fence, attempt.number, attempt.cause, attempt.state) == (
        1,
        1,
        "returned",
        "succeeded",
    )
    assert (attempt.begun_at, attempt.ended_at, attempt.worker, attempt.code) == (
        NOW + 5,
        NOW + 5,
        "worker-1",
        "v1",
    )
    assert (attempt.error_type, attempt.traceback, attempt.evidence) == (None, None, None)


def test_a_success_that_was_never_marked_begun(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job)
    assert worked.row(job.id).state == "succeeded"


def test_a_retry_waits_with_its_error_in_sight(worked: Ledger) -> None:
    job = claimed(worked, priority=4)
    worked.begin(job)
    worked.end(job, Cause.RAISED, error=ERROR)
    row = worked.row(job.id)
    assert (row.state, row.reason, row.run_at) == ("pending", None, NOW + 10 * SECOND)
    assert (row.begun_at, row.ended_at, row.worker, row.claimed) == (None, None, None, None)
    assert (row.starts, row.attempts) == (1, 1)
    assert (row.error_type, row.error_message, row.fingerprint) == (
        "shop.Broken",
        "it broke",
        "1-abc",
    )
    (attempt,) = worked.attempts(job.id)
    assert (attempt.cause, attempt.state, attempt.run_at) == (
        "raised",
        "pending",
        NOW + 10 * SECOND,
    )
    assert (attempt.error_type, attempt.error_message, attempt.traceback) == (
        "shop.Broken",
        "it broke",
        "Traceback: it broke",
    )
    assert worked.claim() == []
    assert worked.claim(now=NOW + 10 * SECOND)[0].priority == 4


def test_a_later_success_keeps_the_last_error(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job, Cause.RAISED, error=ERROR)
    job = worked.claim_one(now=LATER)
    assert (job.starts, job.attempts) == (1, 1)
    worked.end(job, now=LATER, result="5")
    row = worked.row(job.id)
    assert (row.state, row.result, row.starts) == ("succeeded", "5", 2)
    assert (row.error_type, row.attempts) == ("shop.Broken", 1)
    assert [attempt.number for attempt in worked.attempts(job.id)] == [1, 2]


def test_a_failure_is_kept_with_its_evidence(worked: Ledger) -> None:
    job = claimed(worked, policy=Policy(max_attempts=1))
    worked.end(job, Cause.TIMED_OUT, error=ERROR, evidence='{"stacks":"…"}', now=NOW + 9)
    row = worked.row(job.id)
    assert (row.state, row.reason, row.ended_at) == ("failed", "timeout", NOW + 9)
    assert row.error_message == "it broke"
    (attempt,) = worked.attempts(job.id)
    assert (attempt.state, attempt.reason, attempt.evidence) == (
        "failed",
        "timeout",
        '{"stacks":"…"}',
    )
    assert worked.claim(now=LATER) == []


def test_a_discard(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job, Cause.DISCARDED_BY_TASK)
    row = worked.row(job.id)
    assert (row.state, row.reason) == ("discarded", "by_task")


def test_a_release_keeps_its_budget_on_the_row(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job, Cause.RELEASED, delay=30.0)
    row = worked.row(job.id)
    assert (row.run_at, row.released_since, row.attempts) == (NOW + 30 * SECOND, NOW, 0)
    job = worked.claim_one(now=LATER)
    worked.end(job, Cause.RELEASED, delay=1.0, now=LATER)
    assert worked.row(job.id).released_since == NOW
    job = worked.claim_one(now=LATER + SECOND)
    worked.end(job, Cause.RAISED, now=LATER + SECOND)
    assert worked.row(job.id).released_since is None


@pytest.mark.parametrize(
    ("cause", "said", "counted"),
    [
        (Cause.CRASHED, {}, {"crashes": 1}),
        (Cause.CRASHED, {"alone": False}, {"crashes": 1, "suspect": 1}),
        (Cause.LOST, {}, {"losses": 1}),
        (Cause.INTERRUPTED, {}, {"hand_backs": 1}),
        (Cause.BYSTANDER, {}, {"hand_backs": 1}),
        (Cause.TIMED_OUT, {}, {"attempts": 1}),
    ],
)
def test_each_budget_has_its_column(
    worked: Ledger, cause: Cause, said: dict[str, Any], counted: dict[str, int]
) -> None:
    job = claimed(worked)
    worked.end(job, cause, **said)
    row = worked.row(job.id)
    expected = {"attempts": 0, "crashes": 0, "losses": 0, "hand_backs": 0, "suspect": 0, **counted}
    assert {name: getattr(row, name) for name in expected} == expected
    # And comes back with the next claim, for the next decision.
    facts = worked.claim_one(now=LATER).facts()
    assert {name: getattr(facts, name) for name in expected} == expected
    assert facts.starts == 1


def test_a_body_that_never_began_leaves_no_attempt(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job, Cause.INTERRUPTED, begun=False)
    row = worked.row(job.id)
    assert (row.state, row.starts, row.hand_backs) == ("pending", 0, 0)
    assert worked.attempts(job.id) == []


def test_what_expires_untried_leaves_no_attempt(worked: Ledger) -> None:
    job = claimed(worked, expires_at=NOW + 1)
    worked.end(job, Cause.REFUSED, begun=False, now=NOW + 2)
    row = worked.row(job.id)
    assert (row.state, row.reason, row.ended_at) == ("discarded", "expired", NOW + 2)
    assert worked.attempts(job.id) == []


def test_attempts_tell_the_whole_story_in_order(worked: Ledger) -> None:
    number = worked.add(policy=Policy(max_attempts=9))
    at = NOW
    causes = [Cause.RAISED, Cause.LOST, Cause.RELEASED, Cause.CRASHED, Cause.INTERRUPTED]
    for cause in causes:
        at += 3600 * SECOND
        worked.end(worked.claim_one(now=at), cause, now=at)
    at += 3600 * SECOND
    worked.end(worked.claim_one(now=at), now=at)
    attempts = worked.attempts(number)
    assert [attempt.cause for attempt in attempts] == [*map(str, causes), "returned"]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4, 5, 6]
    assert [attempt.state for attempt in attempts] == ["pending"] * 5 + ["succeeded"]
    assert len({attempt.fence for attempt in attempts}) == 6


def test_any_text_is_kept(worked: Ledger) -> None:
    text = "naïve ☃ 💥 \\0 ' \" \n" + "x" * 200_000
    job = claimed(worked)
    worked.end(job, Cause.RAISED, error=Error("T", text, text, "1-x"), evidence=text)
    (attempt,) = worked.attempts(job.id)
    assert (attempt.error_message, attempt.traceback, attempt.evidence) == (text, text, text)


# -- the fence

STALE = [
    (Cause.RETURNED, {}),
    (Cause.RAISED, {"error": ERROR}),
    (Cause.RAISED, {"verdict": "fail", "error": ERROR}),
    (Cause.RELEASED, {}),
    (Cause.DISCARDED_BY_TASK, {}),
    (Cause.CRASHED, {}),
    (Cause.LOST, {}),
]


@pytest.mark.parametrize(("cause", "said"), STALE)
@pytest.mark.parametrize("meanwhile", ["handed on", "given back", "ended", "cancelled"])
def test_a_late_ending_changes_nothing_and_is_told(
    worked: Ledger, cause: Cause, said: dict[str, Any], meanwhile: str
) -> None:
    zombie = claimed(worked)
    worked.begin(zombie)
    if meanwhile == "handed on":
        worked.end(zombie, Cause.LOST)
        worked.begin(worked.claim_one())
    elif meanwhile == "given back":
        worked.give_back(zombie)
    elif meanwhile == "ended":
        worked.end(zombie)
    else:
        worked.end(zombie, Cause.LOST)
        worked.cancel(zombie.id)
    row, attempts = worked.row(zombie.id), worked.attempts(zombie.id)
    late = ending(zombie, cause, now=LATER, worker="zombie", result='"late"', **said)
    assert worked.settle(late) == [late]
    assert unlike(row, worked.row(zombie.id)) == {}
    assert worked.attempts(zombie.id) == attempts


@pytest.mark.parametrize(("cause", "said"), STALE)
def test_an_ending_is_written_once(worked: Ledger, cause: Cause, said: dict[str, Any]) -> None:
    """A supervisor that does not know whether its commit arrived writes it again."""
    job = claimed(worked)
    made = ending(job, cause, **said)
    assert worked.settle(made) == []
    row, attempts = worked.row(job.id), worked.attempts(job.id)
    assert worked.settle(made) == [made]
    assert unlike(row, worked.row(job.id)) == {}
    assert worked.attempts(job.id) == attempts


def test_a_job_that_is_not_there(worked: Ledger) -> None:
    job = claimed(worked)
    for cause in (Cause.RETURNED, Cause.RAISED):
        made = msgspec.structs.replace(ending(job, cause), id=job.id + 1)
        assert worked.settle(made) == [made]
        assert worked.attempts(job.id + 1) == []


def test_a_zombie_of_the_same_worker_is_a_zombie_too(worked: Ledger) -> None:
    job = claimed(worked)
    worked.give_back(job)
    again = worked.claim_one()
    late = ending(job)
    assert worked.settle(late) == [late]
    worked.end(again)


# -- a claim that the ledger has lost: a server crashed before it was on disk


def lose(ledger: Ledger, claim: Claimed) -> None:
    """Have the job's row say again what it said before the claim."""
    before = {"rank": -claim.priority, "worker": null(), "claimed": null(), "begun_at": null()}
    with ledger.database.engine.begin() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == claim.id)
            .values(state="pending", fence=claim.fence - 1, **before)
        )


@pytest.mark.parametrize(("cause", "said"), STALE)
@pytest.mark.parametrize("runs", [False, True])
def test_two_attempts_of_one_fence_are_told_apart(
    worked: Ledger, cause: Cause, said: dict[str, Any], runs: bool
) -> None:
    first = claimed(worked)
    lose(worked, first)
    worked.register(2)
    second = worked.claim_one(2)
    assert (second.fence, second.worker) == (first.fence, 2)
    if runs:
        worked.begin(second, now=NOW + 1)
    row = worked.row(first.id)
    late = ending(first, cause, result='"late"', **said)
    assert worked.settle(late) == [late]
    worked.begin(first, now=LATER)
    assert worked.give_back(first) == 0
    assert worked.intend(first) == ("lost", None)
    assert unlike(row, worked.row(first.id)) == {}
    assert worked.attempts(first.id) == []
    assert worked.intend(second) == ("go", None)
    assert worked.done(second) == "done"
    worked.end(second)


def test_who_claims_again_what_it_has_claimed_goes_on_with_the_same_attempt(
    worked: Ledger,
) -> None:
    first = claimed(worked)
    lose(worked, first)
    late = ending(first)
    assert worked.settle(late) == [late]
    assert worked.intend(first) == ("lost", None)
    assert worked.claim_one(now=LATER) == first
    assert worked.settle(late) == []


@pytest.mark.parametrize("size", [1, 20])
def test_a_worker_claims_again_what_was_lost(worked: Ledger, size: int) -> None:
    worked.insert(*(new_job() for _ in range(4 * size)))
    claims_made = worked.claim()
    lost, taken, kept, over = (claims_made[n::4] for n in range(4))
    for job in lost:
        lose(worked, job)
    worked.settle(*(ending(job) for job in over))
    for job in taken:
        lose(worked, job)
    worked.register(2)
    worked.claim(2, now=LATER)
    for job in lost:  # the second has them, too
        worked.end(msgspec.structs.replace(job, worker=2), Cause.LOST, begun=False)
        lose(worked, job)
    rows = [worked.row(job.id) for job in (*taken, *kept, *over)]
    held = [(job.id, job.fence) for job in claims_made]
    with worked.database.write() as tx:
        assert claims.claim_again(tx, 3, held) == 0
        assert claims.claim_again(tx, 1, held) == size
        assert claims.claim_again(tx, 1, held) == 0
    assert [worked.row(row.id) for row in rows] == rows
    assert worked.settle(*(ending(job) for job in (*lost, *kept))) == []


# -- batches


def test_nothing_to_settle(worked: Ledger) -> None:
    assert worked.settle() == []


@pytest.mark.parametrize("lost_places", [(), (0,), (5,), (9,), (2, 3, 8), tuple(range(10))])
@pytest.mark.parametrize("cause", [Cause.RETURNED, Cause.RAISED, None])
def test_batches_in_which_some_are_lost(
    worked: Ledger, lost_places: tuple[int, ...], cause: Cause | None
) -> None:
    worked.insert(*(new_job() for _ in range(10)))
    jobs = worked.claim()
    causes = list(Cause)[:7]
    endings = [
        ending(job, causes[place % len(causes)] if cause is None else cause)
        for place, job in enumerate(jobs)
    ]
    for place in lost_places:
        worked.give_back(jobs[place])
    lost = worked.settle(*endings)
    assert {made.id for made in lost} == {jobs[place].id for place in lost_places}
    for place, (job, made) in enumerate(zip(jobs, endings, strict=True)):
        row = worked.row(job.id)
        if place in lost_places:
            assert (row.state, row.starts, row.worker) == ("pending", 0, None)
            assert worked.attempts(job.id) == []
        else:
            assert row.state == made.transition.state
            assert [attempt.cause for attempt in worked.attempts(job.id)] == [str(made.cause)]


def test_the_same_ending_twice_in_one_batch(worked: Ledger) -> None:
    for cause in (Cause.RETURNED, Cause.RAISED):
        job = claimed(worked)
        made = ending(job, cause)
        lost = worked.settle(made, made)
        assert len(lost) == 1
        assert len(worked.attempts(job.id)) == 1


def test_a_batch_is_all_or_nothing(worked: Ledger) -> None:
    worked.insert(*(new_job() for _ in range(3)))
    jobs = worked.claim()
    bad = msgspec.structs.replace(ending(jobs[2]), worker=None)
    with pytest.raises(LedgerError):
        worked.settle(ending(jobs[0]), ending(jobs[1], Cause.RAISED), bad)
    for job in jobs:
        assert worked.row(job.id).starts == 0
        assert worked.attempts(job.id) == []
    assert worked.settle(*(ending(job) for job in jobs)) == []


def test_a_big_batch(worked: Ledger) -> None:
    worked.insert(*(new_job() for _ in range(2_000)))
    jobs = worked.claim(limit=2_000)
    assert worked.settle(*(ending(job) for job in jobs)) == []
    assert len(worked.rows(states=("succeeded",))) == 2_000


# -- attempts are append-only


def test_no_two_attempts_of_one_fence(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job, Cause.RAISED)
    (before,) = worked.attempts(job.id)
    with pytest.raises(LedgerError), worked.database.write() as tx:
        tx.run(RECORD_RETURN, job.id, job.fence, 1, NOW, NOW, "forger", None)
    assert worked.attempts(job.id) == [before]


def test_a_persons_acts_leave_attempts_as_they_are(worked: Ledger) -> None:
    number = worked.fail()
    before = worked.attempts(number)
    worked.retry(number)
    worked.cancel(number)
    assert worked.attempts(number) == before
