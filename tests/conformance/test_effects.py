"""Effects in the ledger: at most once per job, fenced, in doubt until settled."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import NOW, SECOND, Ledger

from failbetter import Jobs
from failbetter.ledger import effects, reads
from failbetter.ledger.claims import Claimed
from failbetter.ledger.filters import Filters
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause

LATER = NOW + 60 * SECOND


def claimed(ledger: Ledger) -> Claimed:
    ledger.add()
    return ledger.claim_one()


def next_attempt(ledger: Ledger, job: Claimed) -> Claimed:
    ledger.end(job, Cause.LOST)
    return ledger.claim_one()


def test_begun_and_done(worked: Ledger) -> None:
    job = claimed(worked)
    assert worked.intend(job, now=NOW + 1) == ("go", None)
    assert worked.in_doubt(job.id)
    assert worked.done(job, result='{"id":7}', now=NOW + 2) == "done"
    assert not worked.in_doubt(job.id)
    (effect,) = reads.effects_of(worked.database, job.id)
    assert (effect.name, effect.intended_at, effect.done_at, effect.result) == (
        "e",
        NOW + 1,
        NOW + 2,
        '{"id":7}',
    )


def test_a_later_attempt_gets_the_result(worked: Ledger) -> None:
    job = claimed(worked)
    worked.intend(job)
    worked.done(job, result='"x"')
    again = next_attempt(worked, job)
    assert worked.intend(again) == ("done", '"x"')


def test_a_result_of_nothing(worked: Ledger) -> None:
    job = claimed(worked)
    worked.intend(job)
    worked.done(job)
    assert worked.intend(job) == ("done", None)


def test_what_was_begun_and_not_finished_is_in_doubt(worked: Ledger) -> None:
    job = claimed(worked)
    worked.intend(job)
    again = next_attempt(worked, job)
    assert worked.intend(again) == ("uncertain", None)
    assert worked.in_doubt(job.id)


def test_known_not_to_have_happened(worked: Ledger) -> None:
    job = claimed(worked)
    worked.intend(job)
    assert worked.not_done(job) == "go"
    assert not worked.in_doubt(job.id)
    assert worked.intend(job) == ("go", None)


def test_what_is_done_is_not_undone(worked: Ledger) -> None:
    job = claimed(worked)
    worked.intend(job)
    worked.done(job, result="1")
    worked.not_done(job)
    assert worked.intend(job) == ("done", "1")


def test_names_and_jobs_are_apart(worked: Ledger) -> None:
    job, other = claimed(worked), claimed(worked)
    worked.intend(job, "a")
    worked.done(job, "a", "1")
    assert worked.intend(job, "b") == ("go", None)
    assert worked.intend(job, "A") == ("go", None)
    assert worked.intend(other, "a") == ("go", None)


def test_several_effects_in_order(worked: Ledger) -> None:
    job = claimed(worked)
    for place, name in enumerate(["second", "first", "ü☃"]):
        worked.intend(job, name, now=NOW + place)
        worked.done(job, name, now=NOW + place)
    found = reads.effects_of(worked.database, job.id)
    assert [effect.name for effect in found] == ["second", "first", "ü☃"]


# -- the fence


def test_a_lost_attempt_begins_nothing(worked: Ledger) -> None:
    zombie = claimed(worked)
    next_attempt(worked, zombie)
    assert worked.intend(zombie) == ("lost", None)
    assert reads.effects_of(worked.database, zombie.id) == []


def test_what_happened_stays_true_even_of_a_lost_attempt(worked: Ledger) -> None:
    zombie = claimed(worked)
    worked.intend(zombie)
    again = next_attempt(worked, zombie)
    assert worked.done(zombie, result="5") == "lost"
    assert worked.intend(again) == ("done", "5")


def test_so_does_what_did_not(worked: Ledger) -> None:
    zombie = claimed(worked)
    worked.intend(zombie)
    again = next_attempt(worked, zombie)
    assert worked.not_done(zombie) == "lost"
    assert worked.intend(again) == ("go", None)


def test_a_zombie_does_not_speak_for_another_attempts_effect(worked: Ledger) -> None:
    zombie = claimed(worked)
    again = next_attempt(worked, zombie)
    worked.intend(again)
    assert worked.done(zombie, result='"stale"') == "lost"
    assert worked.not_done(zombie) == "lost"
    assert worked.in_doubt(again.id)
    worked.done(again, result='"right"')
    assert worked.intend(again) == ("done", '"right"')


def test_of_a_job_that_is_over_no_effect_begins(worked: Ledger) -> None:
    job = claimed(worked)
    worked.end(job)
    assert worked.intend(job) == ("lost", None)


def test_no_retry_while_an_effect_is_in_doubt(worked: Ledger) -> None:
    """Promise 9, A10: a doubt is settled truthfully, never guessed."""
    job = claimed(worked)
    worked.intend(job)
    worked.end(job, Cause.CRASHED, uncertain=True)
    assert worked.row(job.id).reason == "uncertain"
    assert "in doubt" in str(worked.retry(job.id, LATER))
    (why,) = Jobs(worked.database, Filters(ids=(job.id,))).retry().refused.values()
    assert "in doubt" in why
    assert worked.row(job.id).state == "failed"


def test_the_task_can_tell_when_it_is_retried(worked: Ledger) -> None:
    worked.add(policy=Policy(verify=True, max_crashes=1))
    job = worked.claim_one()
    worked.intend(job)
    worked.end(job, Cause.CRASHED, uncertain=True)
    assert worked.row(job.id).reason == "uncertain"
    assert worked.retry(job.id, LATER) is None
    assert worked.intend(worked.claim_one(now=LATER)) == ("uncertain", None)


def confirm(ledger: Ledger, number: int, name: str | None = None, **given: Any) -> str | None:
    wanted = {"result": "7", "by": "ann", "now": LATER, "happened": True} | given
    with ledger.database.write() as tx:
        return effects.confirm(tx, number, name, **wanted)


def in_doubt(ledger: Ledger, *names: str) -> int:
    """A failed job with such effects in doubt."""
    job = claimed(ledger)
    for name in names:
        ledger.intend(job, name)
    ledger.end(job, Cause.CRASHED, uncertain=True)
    return job.id


def test_a_person_says_that_it_happened(worked: Ledger) -> None:
    number = in_doubt(worked, "e")
    assert confirm(worked, number) is None
    assert worked.row(number).note == "the effect 'e' happened, says ann"
    assert worked.retry(number, LATER) is None
    assert worked.intend(worked.claim_one(now=LATER)) == ("done", "7")


def test_a_person_says_that_it_did_not_happen(worked: Ledger) -> None:
    number = in_doubt(worked, "e")
    assert confirm(worked, number, "e", happened=False) is None
    assert worked.row(number).note == "the effect 'e' did not happen, says ann"
    assert worked.retry(number, LATER) is None
    assert worked.intend(worked.claim_one(now=LATER)) == ("go", None)


def test_of_several_doubts_one_is_named(worked: Ledger) -> None:
    number = in_doubt(worked, "e", "f")
    assert confirm(worked, number) == "several effects are in doubt, so name one: e, f"
    assert confirm(worked, number, "g") == "no effect 'g' is in doubt, but: e, f"
    assert confirm(worked, number, "f") is None
    assert "in doubt" in str(worked.retry(number, LATER))
    assert confirm(worked, number) is None
    assert worked.retry(number, LATER) is None


def test_what_cannot_be_confirmed(worked: Ledger) -> None:
    assert confirm(worked, 404) == "not found"
    job = claimed(worked)
    assert confirm(worked, job.id) == "not failed but pending"
    worked.end(job, Cause.RAISED, verdict="fail")
    assert confirm(worked, job.id) == "no effect of it is in doubt"
