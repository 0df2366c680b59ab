"""C4 in the ledger: workers that are asked to load new code, and attempts on old code."""

from __future__ import annotations

from tests.conformance.kit import NOW, SECOND, Ledger, attempt_of, new_job

from failbetter.ledger import registry, restarts
from failbetter.ledger.endings import Error, settle
from failbetter.lifecycle.decide import Outcome
from failbetter.lifecycle.states import Cause
from failbetter.worker.judgement import Undecided, judge
from failbetter.worker.outages import Outages


def test_a_worker_is_asked_and_answers(ledger: Ledger) -> None:
    ledger.register(1)
    ledger.register(2)
    with ledger.database.write() as tx:
        restarts.note(tx, 1, "newer", "SyntaxError: no")
        asked = restarts.ask(tx, 1)
    with ledger.database.look() as tx:
        assert (restarts.asked(tx, 1), restarts.asked(tx, 2), restarts.asked(tx, 3)) == (
            asked,
            None,
            None,
        )
        worker = registry.one(tx, 1)
        assert worker is not None
        assert (worker.restart_error, worker.newer_code) == (None, "newer")  # it is tried again
        assert registry.one(tx, 3) is None
    with ledger.database.write() as tx:
        restarts.done(tx, 1, asked - 1)
        assert restarts.asked(tx, 1) == asked  # that was an answer to an earlier one
        restarts.done(tx, 1, asked)
        restarts.note(tx, 1, None, "ImportError: no")
    with ledger.database.look() as tx:
        worker = registry.one(tx, 1)
    assert worker is not None
    assert (worker.restart_at, worker.newer_code, worker.restart_error) == (
        None,
        None,
        "ImportError: no",
    )


def test_who_runs_the_same_beside_a_worker_is_asked(ledger: Ledger) -> None:
    """Not those elsewhere, with other code, asked already, or that could not load what is there."""
    for number, given in enumerate(
        [{}, {}, {"fleet": "there"}, {"code": "v2"}, {"restart_at": 5}, {"restart_error": "no"}], 1
    ):
        ledger.register(number, **given)
    with ledger.database.write() as tx:
        assert restarts.ask_alike(tx, 1, "elsewhere", "v1") == 1
    asked = [worker.id for worker in ledger.workers() if (worker.restart_at or 0) > 5]
    assert asked == [2]


def test_since_when_a_worker_runs_its_code(ledger: Ledger) -> None:
    ledger.register(1, started_at=NOW)
    assert ledger.workers()[0].runs_code_since == NOW
    with ledger.database.write() as tx:
        registry.describe(tx, 1, "v2", "[]")
        now = tx.now()
    assert abs(ledger.workers()[0].runs_code_since - now) < 60 * SECOND


def test_a_job_is_handed_back_once_for_each_code(ledger: Ledger) -> None:
    """Whatever its attempts on other code were like; the rows of the attempts say so."""
    ledger.register(1)
    ledger.insert(new_job())
    seen = []
    for code, newer in [("v1", "v2"), ("v1", "v2"), ("v2", "v3"), ("v3", None), ("v1", "v2")]:
        (job,) = ledger.claim(1, now=ledger.soon() + 10**12)
        one = Undecided(
            job, Outcome(Cause.RAISED), NOW, NOW + 1, code, Error("TypeError", "no"), newer=newer
        )
        with ledger.database.write() as tx:
            ending = judge(tx, one, "worker-1", Outages(tx))
            assert not settle(tx, [ending])
        charged = ending.transition.attempts - job.attempts
        seen.append((charged, ending.transition.hand_backs - job.hand_backs, ending.evidence))
        assert attempt_of(job)[0] == ending.id
    assert seen == [
        (0, 1, '{"newer_code":"v2","not_charged":true}'),
        (1, 0, '{"newer_code":"v2"}'),
        (0, 1, '{"newer_code":"v3","not_charged":true}'),
        (1, 0, None),
        (1, 0, '{"newer_code":"v2"}'),
    ]
