"""The claim: who gets what, in which order, and that nobody else does; the way back."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, new_job, unlike
from tests.unit.processes import other

from failbetter.errors import LedgerUnavailable
from failbetter.ledger import claims, registry
from failbetter.lifecycle.states import Cause
from failbetter.limits import DRILL

LATER = NOW + 10 * SECOND


def test_a_claim_takes_the_row(worked: Ledger) -> None:
    number = worked.add(payload='{"a":1}', priority=3)
    (job,) = worked.claim()
    row = worked.row(number)
    assert (job.id, job.fence, job.payload, job.priority) == (number, 1, '{"a":1}', 3)
    assert (row.state, row.fence, row.worker, row.claimed) == ("pending", 1, 1, 1)
    assert worked.claim() == []


def test_nothing_waits(worked: Ledger) -> None:
    assert worked.claim_and_due() == ([], None)


def test_higher_priority_first_then_age_then_id(worked: Ledger) -> None:
    old_low = worked.add(priority=-1, run_at=NOW - 100)
    young = worked.add(run_at=NOW - 5)
    old = worked.add(run_at=NOW - 50)
    same_age = worked.add(run_at=NOW - 50)
    high = worked.add(priority=9, run_at=NOW - 1)
    assert [job.id for job in worked.claim()] == [high, old, same_age, young, old_low]


def test_one_by_one_in_the_same_order(worked: Ledger) -> None:
    numbers = [
        worked.add(priority=priority, run_at=NOW - age)
        for priority, age in [(0, 1), (5, 1), (0, 9), (5, 3), (-5, 99)]
    ]
    order = [worked.claim_one().id for _ in numbers]
    assert order == [numbers[place] for place in (3, 1, 2, 0, 4)]


def test_what_an_undone_claim_took_is_claimed(worked: Ledger) -> None:
    numbers = [worked.add(), worked.add()]
    with pytest.raises(InterruptedError), worked.database.write() as tx:
        assert len(claims.claim(tx, 1, [], 1, NOW)[0]) == 1
        raise InterruptedError
    numbers.append(worked.add(run_at=LATER))
    assert sorted(job.id for job in worked.claim(now=LATER)) == sorted(numbers)


def test_the_limit(worked: Ledger) -> None:
    worked.insert(*(new_job(priority=n % 3, queue=f"q{n % 2}") for n in range(20)))
    sizes = [len(worked.claim(limit=8)) for _ in range(4)]
    assert sizes == [8, 8, 4, 0]


def test_not_before_its_time(worked: Ledger) -> None:
    worked.add(run_at=LATER)
    assert worked.claim_and_due() == ([], LATER)
    assert worked.claim(now=LATER - 1) == []
    assert len(worked.claim(now=LATER)) == 1


def test_it_tells_when_the_next_falls_due(worked: Ledger) -> None:
    worked.add(run_at=LATER + 7, priority=5)
    worked.add(run_at=LATER, queue="other")
    worked.add(run_at=NOW)
    claimed, due = worked.claim_and_due()
    assert len(claimed) == 1
    assert due == LATER
    assert worked.claim_and_due(queues=["default"]) == ([], LATER + 7)


def test_a_waiting_high_priority_does_not_hold_up_what_is_due(worked: Ledger) -> None:
    worked.add(priority=100, run_at=LATER)
    due = worked.add(priority=-100)
    assert [job.id for job in worked.claim()] == [due]


# -- lanes


def test_only_the_named_queues(worked: Ledger) -> None:
    first, second, third = (worked.add(queue=queue) for queue in ("a", "b", "c"))
    assert [job.id for job in worked.claim(queues=["b", "nothing"])] == [second]
    assert {job.id for job in worked.claim(queues=["c", "a"])} == {first, third}


def test_named_queues_go_before_one_another_in_that_order(worked: Ledger) -> None:
    in_a = worked.add(queue="a", priority=100, run_at=NOW - 100)
    in_b = worked.add(queue="b", priority=-100)
    assert [job.id for job in worked.claim(queues=["b", "a"])] == [in_b, in_a]


def test_without_names_all_queues_are_one(worked: Ledger) -> None:
    low = worked.add(queue="a", priority=0, run_at=NOW - 100)
    high = worked.add(queue="z", priority=1)
    older = worked.add(queue="m", priority=0, run_at=NOW - 200)
    assert [job.id for job in worked.claim()] == [high, older, low]


def test_lanes_are_found_whatever_their_names(worked: Ledger) -> None:
    queues = ["", "A", "a", "a ", "aa", "ü", "日本", "_", "%", "zz"]
    worked.insert(
        *(
            new_job(queue=queue, priority=priority, exclusive=key)
            for queue in queues
            for priority in (-32768, 0, 32767)
            for key in (None, f"{queue}{priority}")
        )
    )
    with worked.database.look() as tx:
        found = claims.lanes(tx, [])
    assert len(found) == len(queues) * 3 * 2
    assert [lane.rank for lane in found] == sorted(lane.rank for lane in found)
    assert len(worked.claim(limit=100)) == len(queues) * 3 * 2


def test_a_lane_says_when_its_first_is_due(worked: Ledger) -> None:
    worked.add(run_at=NOW - 3)
    worked.add(run_at=NOW - 7)
    with worked.database.look() as tx:
        assert [lane.run_at for lane in claims.lanes(tx, [])] == [NOW - 7]


# -- who may claim


def test_an_unregistered_worker_gets_nothing(ledger: Ledger) -> None:
    number = ledger.add()
    before = ledger.row(number)
    assert ledger.claim(worker=1) == []
    assert unlike(before, ledger.row(number)) == {}


def test_a_worker_that_was_declared_lost_gets_nothing(worked: Ledger) -> None:
    worked.insert(new_job(), new_job())
    assert len(worked.claim(limit=1)) == 1
    worked.remove(1)
    assert worked.claim() == []


def test_two_claimers_never_share_a_job(worked: Ledger, connect: Callable[[], Ledger]) -> None:
    numbers = worked.insert(*(new_job(priority=n % 2) for n in range(600)))
    workers = [worked.register(number) for number in range(2, 6)]
    claimed: list[tuple[int, int]] = []
    start = threading.Barrier(len(workers))

    def work(own: Ledger, worker: int) -> None:
        start.wait()
        while batch := own.claim(worker, limit=7):
            claimed.extend((job.id, worker) for job in batch)

    threads = [threading.Thread(target=work, args=(connect(), worker)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in claimed) == numbers
    assert all(worked.row(number).worker == worker for number, worker in claimed[::20])


CLAIMER = """
    import sys
    from failbetter.ledger import claims
    from failbetter.ledger.database import Database
    database = Database(sys.argv[1])
    database.ensure_schema()
    print("ready")
    sys.stdin.readline()
    mine = []
    while True:
        with database.write() as tx:
            batch, _ = claims.claim(tx, int(sys.argv[2]), [], 7, int(sys.argv[3]))
        if not batch:
            break
        mine += [job.id for job in batch]
    print(*mine)
"""


def test_nor_do_two_processes(worked: Ledger, database_url: str) -> None:
    numbers = worked.insert(*(new_job() for _ in range(2_000)))
    worked.register(2)
    with (
        other(CLAIMER, database_url, 1, NOW) as one,
        other(CLAIMER, database_url, 2, NOW) as two,
    ):
        for process in (one, two):
            assert process.hear() == "ready"
        for process in (one, two):
            process.tell()
        shares = [list(map(int, process.hear().split())) for process in (one, two)]
    assert sorted(shares[0] + shares[1]) == numbers
    assert all(shares)


@pytest.mark.parametrize("exclusive", [None, "k"])
def test_nobody_is_declared_lost_in_the_middle_of_a_claim(
    worked: Ledger, connect: Callable[[], Ledger], exclusive: str | None
) -> None:
    """Promise 6: between what a claim has checked and its commit, nobody removes its worker."""
    worked.add(exclusive=exclusive)
    sweeper = connect()
    sweeper.database.ensure_schema()
    with worked.database.write() as tx:
        claimed, _ = claims.claim(tx, 1, [], 1, NOW)
        with pytest.raises(LedgerUnavailable), sweeper.database.write(timeout=0.2) as other_tx:
            registry.remove(other_tx, 1)
    assert [held.job.id for held in sweeper.held()] == [job.id for job in claimed] != []
    assert sweeper.remove(1)


@pytest.mark.parametrize("exclusive", [None, "k"])
def test_nobody_claims_while_being_declared_lost(
    worked: Ledger, connect: Callable[[], Ledger], exclusive: str | None
) -> None:
    """Promise 6: a claim waits for what becomes of its worker, and takes nothing if it is gone."""
    worked.add(exclusive=exclusive)
    sweeper = connect()
    with sweeper.database.write() as tx:
        assert registry.remove(tx, 1)
        with pytest.raises(LedgerUnavailable), worked.database.write(timeout=0.2) as other_tx:
            claims.claim(other_tx, 1, [], 1, NOW)
    assert worked.claim() == []


# -- exclusive


def test_one_of_an_exclusive_key_at_a_time(worked: Ledger) -> None:
    first, second, third = (worked.add(exclusive="k") for _ in range(3))
    (job,) = worked.claim()
    assert job.id == first
    assert worked.claim() == []
    worked.begin(job)
    assert worked.claim() == []
    worked.end(job)
    (job,) = worked.claim()
    assert job.id == second
    worked.end(job, Cause.RAISED)  # waits for its retry: the next one may run
    assert [job.id for job in worked.claim()] == [third]


def test_exclusive_keys_do_not_hold_up_one_another(worked: Ledger) -> None:
    worked.insert(*(new_job(exclusive=f"k{n % 3}") for n in range(9)))
    plain = worked.add()
    claimed = worked.claim()
    assert sorted(str(job.exclusive_key) for job in claimed) == ["None", "k0", "k1", "k2"]
    assert plain in {job.id for job in claimed}


def test_many_of_one_key_do_not_hide_the_others(worked: Ledger) -> None:
    worked.insert(*(new_job(exclusive="k") for _ in range(50)))
    behind = worked.add(exclusive="other", run_at=NOW)
    seen = []
    for _ in range(3):
        seen += worked.claim(limit=5)
    assert behind in {job.id for job in seen}
    assert collections.Counter(job.exclusive_key for job in seen) == {"k": 1, "other": 1}


def test_an_exclusive_job_runs_whatever_waits_with_its_key(worked: Ledger) -> None:
    worked.add(exclusive="k", run_at=LATER)
    now = worked.add(exclusive="k")
    assert [job.id for job in worked.claim()] == [now]


def test_exclusive_over_two_workers(worked: Ledger) -> None:
    worked.register(2)
    worked.insert(new_job(exclusive="k"), new_job(exclusive="k", queue="b", priority=9))
    assert len(worked.claim(1)) + len(worked.claim(2)) == 1


# -- begun


def test_that_a_body_has_begun(worked: Ledger) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.begin(job, now=NOW + 3)
    row = worked.row(number)
    assert (row.state, row.begun_at, row.fence) == ("running", NOW + 3, 1)
    assert worked.claim() == []


def test_a_lost_attempt_does_not_begin(worked: Ledger) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.give_back(job)
    before = worked.row(number)
    worked.begin(job)
    assert unlike(before, worked.row(number)) == {}


# -- the way back


def test_what_is_given_back_keeps_its_place(worked: Ledger) -> None:
    first, second, third = (worked.add(run_at=NOW - age) for age in (9, 5, 1))
    job = worked.claim_one()
    assert worked.give_back(job) == 1
    row = worked.row(first)
    assert (row.state, row.worker, row.claimed, row.run_at) == ("pending", None, None, NOW - 9)
    assert (row.starts, row.attempts, row.crashes, row.losses, row.hand_backs) == (0, 0, 0, 0, 0)
    assert [job.id for job in worked.claim()] == [first, second, third]
    assert worked.attempts(first) == []


def test_giving_back_ends_the_claim(worked: Ledger) -> None:
    number = worked.add()
    job = worked.claim_one()
    worked.give_back(job)
    again = worked.claim_one()
    assert again.fence > job.fence
    assert worked.give_back(job) == 0
    assert worked.row(number).worker == 1


def test_giving_back_frees_the_exclusive_key(worked: Ledger) -> None:
    worked.add(exclusive="k", run_at=NOW + 1)
    job = worked.claim(now=NOW + 1)[0]
    other_one = worked.add(exclusive="k")
    worked.give_back(job)
    assert worked.claim_one(now=NOW).id == other_one


@pytest.mark.parametrize("size", [0, 1, 300])
def test_giving_back_many(worked: Ledger, size: int) -> None:
    worked.insert(*(new_job() for _ in range(size)))
    claimed = worked.claim(limit=1000)
    assert worked.give_back(*claimed) == size
    assert len(worked.claim(limit=1000)) == size


def test_a_worker_without_queues_leaves_a_drill_alone(worked: Ledger) -> None:
    drill = f"{DRILL}x"
    worked.add(queue=drill)
    assert worked.claim() == []
    assert worked.claim(queues=["default"]) == []
    (claimed,) = worked.claim(queues=[drill])
    assert claimed.queue == drill


def test_a_drain_without_queues_does_not_wait_for_a_drill(worked: Ledger) -> None:
    drill = f"{DRILL}x"
    worked.add(queue=drill)
    for _ in range(2):  # while it waits, and when it is claimed
        with worked.database.look() as tx:
            assert not claims.any_live(tx, [])
            assert claims.any_live(tx, [drill])
        worked.claim(queues=[drill])
