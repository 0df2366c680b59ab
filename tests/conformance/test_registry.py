"""Workers in the ledger: who there is, what each holds, whom nobody knows any more."""

from __future__ import annotations

import msgspec
import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, new_job, new_worker

from failbetter.errors import LedgerError
from failbetter.ledger import reads, registry
from failbetter.lifecycle.states import Cause


def test_a_worker_as_it_was_given(ledger: Ledger) -> None:
    ledger.register(5, name="wörker", lease=7, queues='["a"]', code=None)
    assert ledger.workers() == [new_worker(5, name="wörker", lease=7, queues='["a"]', code=None)]


def test_the_oldest_first(ledger: Ledger) -> None:
    for number in (7, 3, 5):
        ledger.register(number)
    assert [worker.id for worker in ledger.workers()] == [3, 5, 7]


def test_no_two_workers_of_one_id(ledger: Ledger) -> None:
    ledger.register(1)
    with pytest.raises(LedgerError):
        ledger.register(1)


def test_renewal_counts(ledger: Ledger) -> None:
    ledger.register(1)
    assert ledger.renew(1, NOW + 5)
    assert ledger.renew(1, NOW + 9, stopping=True)
    (worker,) = ledger.workers()
    assert (worker.beats, worker.renewed_at, worker.stopping) == (2, NOW + 9, 1)


def test_a_removed_worker_is_told_at_its_next_renewal(ledger: Ledger) -> None:
    ledger.register(1)
    ledger.register(2)
    assert ledger.remove(1)
    assert not ledger.remove(1)
    assert not ledger.renew(1)
    assert ledger.renew(2)
    assert [worker.id for worker in ledger.workers()] == [2]


def test_what_its_children_have_loaded(ledger: Ledger) -> None:
    ledger.register(1)
    with ledger.database.write() as tx:
        registry.describe(tx, 1, "v2", '["a","b"]')
    (worker,) = ledger.workers()
    assert (worker.code, worker.tasks, worker.beats) == ("v2", '["a","b"]', 0)


def test_a_lease_as_readers_see_it() -> None:
    worker = new_worker(renewed_at=NOW, lease=30 * SECOND)
    assert not worker.lease_expired(NOW + 30 * SECOND)
    assert worker.lease_expired(NOW + 30 * SECOND + 1)
    assert not msgspec.structs.replace(worker, renewed_at=NOW + 99 * SECOND).lease_expired(NOW)


def test_what_a_worker_holds(worked: Ledger) -> None:
    worked.register(2)
    first, second, third = worked.insert(*(new_job() for _ in range(3)))
    jobs = worked.claim(1, limit=2)
    worked.claim(2)
    worked.begin(jobs[1], now=NOW + 4)
    held = worked.held(1)
    assert [(one.job.id, one.running, one.begun_at) for one in held] == [
        (first, False, None),
        (second, True, NOW + 4),
    ]
    assert held[0].job == jobs[0]
    assert [one.job.id for one in worked.held(2)] == [third]
    with worked.database.look() as tx:
        assert registry.held_fences(tx, 1) == {(first, 1), (second, 1)}
        assert registry.held_fences(tx, 3) == set()


def test_in_pages(worked: Ledger) -> None:
    numbers = worked.insert(*(new_job() for _ in range(25)))
    worked.claim()
    found, after = [], 0
    while page := worked.held(after=after, limit=10):
        assert len(page) <= 10
        found += [one.job.id for one in page]
        after = page[-1].job.id
    assert found == numbers


def test_what_is_ended_or_given_back_is_held_no_more(worked: Ledger) -> None:
    worked.insert(*(new_job() for _ in range(4)))
    jobs = worked.claim()
    worked.end(jobs[0])
    worked.end(jobs[1], Cause.RAISED)
    worked.give_back(jobs[2])
    assert [one.job.id for one in worked.held()] == [jobs[3].id]


def test_orphans_are_held_by_nobody_known(worked: Ledger) -> None:
    worked.register(2)
    worked.insert(*(new_job() for _ in range(4)))
    worked.claim(1, limit=2)
    worked.claim(2, limit=1)
    with worked.database.look() as tx:
        assert registry.orphaned(tx) == []
    worked.remove(1)
    with worked.database.look() as tx:
        assert registry.orphaned(tx) == [1]
    worked.settle()
    for one in worked.held(1):
        worked.end(one.job, Cause.LOST)
    with worked.database.look() as tx:
        assert registry.orphaned(tx) == []


def test_a_worker_for_readers(ledger: Ledger) -> None:
    ledger.register(1, name="w", renewed_at=NOW, lease=5)
    found = reads.worker(ledger.database, 1)
    assert found is not None
    assert (found.name, found.renewed_at, found.lease) == ("w", NOW, 5)
    assert reads.worker(ledger.database, 2) is None


# -- what has waited too long


def test_expired_are_those_that_wait(worked: Ledger) -> None:
    never, later, over, running, ended = worked.insert(
        new_job(),
        new_job(expires_at=NOW + 2),
        new_job(expires_at=NOW + 1),
        new_job(expires_at=NOW + 1, priority=9),
        new_job(expires_at=NOW + 1, priority=8),
    )
    jobs = worked.claim(limit=2)
    assert [job.id for job in jobs] == [running, ended]
    worked.end(jobs[1])
    with worked.database.look() as tx:
        assert [job.id for job in registry.expired(tx, NOW, 10)] == []
        assert [job.id for job in registry.expired(tx, NOW + 1, 10)] == [over]
        assert {job.id for job in registry.expired(tx, NOW + 2, 10)} == {over, later}
        assert len(registry.expired(tx, NOW + 2, 1)) == 1
    assert worked.row(never).state == "pending"
