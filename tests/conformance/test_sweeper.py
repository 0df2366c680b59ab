"""The sweeper, with a clock of the test's own: who is dead, who is lost, and who is neither."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, ending, new_job, set_clocks

from failbetter import board
from failbetter.errors import LedgerUnavailable
from failbetter.ledger import claims
from failbetter.ledger.endings import Error
from failbetter.lifecycle.backoff import fixed
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause
from failbetter.recovery import settling
from failbetter.recovery.deciding import Report
from failbetter.recovery.sweeper import Sweeper

LEASE = 10.0
ME = 1


class Watch:
    """A sweeper that ticks once a (pretended) second, and workers that renew when told to."""

    def __init__(self, ledger: Ledger, own: int | None = None) -> None:
        self.ledger = ledger
        self.sweeper = Sweeper(ledger.database, own)
        self.now = 1_000.0

    def tick(self, after: float = 1.0) -> Report:
        """Let time pass and sweep once."""
        self.now += after
        return self.sweeper.tick(self.now)

    def watch(self, seconds: float, *renewing: int, step: float = 1.0) -> Report:
        """Sweep for so long while those workers renew their leases; the sum of all reports."""
        total = Report()
        end = self.now + seconds
        while self.now < end:
            for worker in renewing:
                self.ledger.renew(worker)
            report = self.tick(step)
            for name in ("workers_gone", "handed_back", "ended", "expired"):
                setattr(total, name, getattr(total, name) + getattr(report, name))
        return total


pytestmark = pytest.mark.usefixtures("stopped_clock")


def far(ledger: Ledger, number: int, **given: object) -> int:
    """A worker on another host: only its renewals tell whether it lives."""
    return ledger.register(number, lease=round(LEASE * SECOND), **given)


@contextlib.contextmanager
def near(ledger: Ledger, number: int) -> Iterator[None]:
    """A worker on this host, alive within the block and dead after it."""
    fleet = ledger.database.fleet
    lock = fleet.hold(number)
    ledger.register(number, fleet=fleet.id, lease=round(LEASE * SECOND))
    yield
    lock.close()


def running(ledger: Ledger, worker: int, **given: object) -> int:
    """A job whose body runs on the worker."""
    number = ledger.add(**given)
    job = ledger.claim_one(worker)
    ledger.begin(job)
    return number


# -- dead: on this host, by its lock


def test_a_dead_worker_of_this_host_is_found_at_once(ledger: Ledger) -> None:
    watch = Watch(ledger)
    with near(ledger, 7):
        number = running(ledger, 7)
        assert watch.tick() == Report(workers_examined=1)
    assert watch.tick() == Report(workers_examined=1, workers_gone=1, handed_back=1)
    row = ledger.row(number)
    assert (row.state, row.losses, row.worker, row.run_at) == ("pending", 1, None, NOW)
    (attempt,) = ledger.attempts(number)
    assert (attempt.cause, attempt.state, attempt.worker) == ("lost", "pending", "worker-7")
    assert attempt.error_type == "failbetter.WorkerLost"
    assert "supervisor died" in str(attempt.error_message)
    assert "supervisor died" in msgspec.json.decode(attempt.evidence or "")["why"]
    assert ledger.workers() == []
    assert watch.tick() == Report()


def test_a_live_worker_of_this_host_is_left_alone_within_its_lease(ledger: Ledger) -> None:
    watch = Watch(ledger)
    with near(ledger, 7):
        running(ledger, 7)
        assert watch.watch(20 * LEASE, 7).workers_gone == 0


def test_one_that_is_frozen_is_lost_after_its_lease(ledger: Ledger) -> None:
    """Its lock is held, and yet nothing is heard of it."""
    watch = Watch(ledger)
    with near(ledger, 7):
        number = running(ledger, 7)
        assert watch.watch(LEASE + 2).handed_back == 1
    assert ledger.row(number).losses == 1


def test_its_files_are_removed(ledger: Ledger) -> None:
    fleet = ledger.database.fleet
    with near(ledger, 7):
        board.create(fleet.board_path(7), 1)
    Watch(ledger).tick()
    assert not fleet.lock_path(7).exists()
    assert not fleet.board_path(7).exists()


def test_the_same_lock_in_another_folder_proves_nothing(ledger: Ledger) -> None:
    """No lock file of worker 7 is here: it may well be alive elsewhere."""
    far(ledger, 7)
    running(ledger, 7)
    assert Watch(ledger).watch(LEASE - 1, 7).workers_gone == 0


# -- lost: elsewhere, by its silence


def test_a_silent_worker_is_lost_after_its_lease_and_not_before(ledger: Ledger) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    number = running(ledger, 7)
    assert watch.watch(LEASE).workers_gone == 0
    report = watch.tick()
    assert (report.workers_gone, report.handed_back) == (1, 1)
    (attempt,) = ledger.attempts(number)
    assert "lease ran out" in str(attempt.error_message)


def test_a_worker_that_renews_lives_for_ever(ledger: Ledger) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    running(ledger, 7)
    assert watch.watch(20 * LEASE, 7).workers_gone == 0


def test_only_the_count_of_renewals_is_believed_not_their_times(ledger: Ledger) -> None:
    """The worker's clock is far behind, then far ahead: no two clocks are compared."""
    watch = Watch(ledger)
    far(ledger, 7, renewed_at=0)
    for at in (0, NOW * 2, 5, NOW):
        for _ in range(3):
            ledger.renew(7, at)
            assert watch.tick(LEASE / 3).workers_gone == 0


def test_each_has_its_own_lease(ledger: Ledger) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    ledger.register(8, lease=round(3 * LEASE * SECOND))
    assert watch.watch(LEASE + 2).workers_gone == 1
    assert [worker.id for worker in ledger.workers()] == [8]
    assert watch.watch(2 * LEASE).workers_gone == 1


def test_it_does_not_judge_itself(ledger: Ledger) -> None:
    watch = Watch(ledger, own=ME)
    far(ledger, ME)
    assert watch.watch(5 * LEASE).workers_gone == 0


# -- neither


def test_a_clock_that_jumps_declares_nobody_lost(ledger: Ledger) -> None:
    """The sweeper slept (or its host did): it has not watched anyone meanwhile."""
    watch = Watch(ledger)
    far(ledger, 7)
    far(ledger, 8)
    watch.watch(LEASE / 2, 7, 8)
    assert watch.tick(after=100 * LEASE).workers_gone == 0
    # From here on it takes a whole lease again.
    assert watch.watch(LEASE - 1).workers_gone == 0
    assert watch.watch(2).workers_gone == 2


def test_rare_looks_are_no_watching(ledger: Ledger) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    assert watch.watch(20 * LEASE, step=LEASE * 0.9).workers_gone == 0


def test_an_outage_of_the_ledger_declares_nobody_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    watch.watch(LEASE - 2)

    @contextlib.contextmanager
    def out_of_reach() -> Iterator[None]:
        raise LedgerUnavailable("gone")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(ledger.database, "look", out_of_reach)
        for _ in range(5):
            with pytest.raises(LedgerUnavailable):
                watch.tick()
    # The worker could not renew either; it gets a whole lease from now on.
    assert watch.watch(LEASE - 1).workers_gone == 0
    assert watch.watch(3).workers_gone == 1


def test_an_outage_in_the_middle_of_a_sweep(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(ledger)
    far(ledger, 7)
    far(ledger, 8)
    running(ledger, 7)
    watch.watch(LEASE)

    @contextlib.contextmanager
    def read_only(**_: object) -> Iterator[None]:
        raise LedgerUnavailable("gone")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(ledger.database, "write", read_only)
        with pytest.raises(LedgerUnavailable):
            watch.tick()
    assert len(ledger.workers()) == 2
    assert watch.watch(LEASE - 1).workers_gone == 0


def test_a_sweeper_that_cannot_renew_itself_does_not_believe_others_silence(
    ledger: Ledger,
) -> None:
    """When nobody's renewals get through, the fault is not the others'."""
    watch = Watch(ledger, own=ME)
    far(ledger, ME)
    far(ledger, 7)
    assert watch.watch(10 * LEASE).workers_gone == 0
    assert watch.watch(LEASE + 3, ME).workers_gone == 1


def test_what_does_not_wait_does_not_get_old(ledger: Ledger) -> None:
    """Age is not death: a body may run for as long as it likes."""
    watch = Watch(ledger)
    far(ledger, 7)
    number = running(ledger, 7, policy=Policy(timeout=1.0), expires_at=NOW - 5)
    watch.watch(50 * LEASE, 7)
    assert ledger.row(number).state == "running"


# -- what becomes of the jobs


def test_each_job_by_its_own_budgets(ledger: Ledger) -> None:
    far(ledger, 7)
    numbers = ledger.insert(
        new_job(),
        new_job(Policy(max_losses=1)),
        new_job(Policy(on_lost="fail")),
        new_job(Policy(on_lost="fail")),
    )
    jobs = ledger.claim(7)
    ledger.begin(*jobs[:3])
    watch = Watch(ledger)
    board.create(ledger.database.fleet.board_path(7), 1)  # it has noted no body: the last one's
    report = watch.watch(LEASE + 2)
    assert (report.handed_back, report.ended) == (2, 2)
    found = [(row.state, row.reason, row.losses) for row in map(ledger.row, numbers)]
    assert found == [
        ("pending", None, 1),
        ("failed", "lost", 1),
        ("failed", "lost", 1),
        ("pending", None, 0),
    ]


def test_without_a_board_what_was_handed_out_counts_as_begun(ledger: Ledger) -> None:
    far(ledger, 7)
    number = ledger.add()
    ledger.claim_one(7)
    Watch(ledger).watch(LEASE + 2)
    row = ledger.row(number)
    assert (row.losses, row.starts) == (1, 1)


def test_with_a_board_what_had_not_begun_is_not_charged(ledger: Ledger) -> None:
    fleet = ledger.database.fleet
    with near(ledger, 7):
        numbers = ledger.insert(new_job(), new_job())
        jobs = ledger.claim(7)
        board.create(fleet.board_path(7), 2)
        ring = board.Ring(fleet.board_path(7), 1)
        ring.begin(jobs[1].id, jobs[1].fence, 5)
        ring.close()
    Watch(ledger).tick()
    assert [(row.losses, row.starts) for row in map(ledger.row, numbers)] == [(0, 0), (1, 1)]
    assert ledger.attempts(numbers[0]) == []
    # Its place is kept: it goes first again.
    ledger.register(8)
    assert ledger.claim(8, limit=1)[0].id == numbers[0]


def test_an_earlier_attempt_on_the_board_is_another_attempt(ledger: Ledger) -> None:
    fleet = ledger.database.fleet
    with near(ledger, 7):
        number = ledger.add()
        job = ledger.claim_one(7)
        board.create(fleet.board_path(7), 1)
        ring = board.Ring(fleet.board_path(7), 0)
        ring.begin(job.id, job.fence, 5)
        ring.close()
        ledger.end(job, Cause.RELEASED, delay=0.0)
        ledger.claim_one(7)
    Watch(ledger).tick()
    assert ledger.row(number).losses == 0


def test_an_effect_in_doubt_is_not_run_again(ledger: Ledger) -> None:
    far(ledger, 7)
    number = running(ledger, 7)
    (held,) = ledger.held(7)
    ledger.intend(held.job)
    Watch(ledger).watch(LEASE + 2)
    row = ledger.row(number)
    assert (row.state, row.reason, row.losses) == ("failed", "uncertain", 1)


def test_the_late_result_of_a_lost_worker_changes_nothing(ledger: Ledger) -> None:
    far(ledger, 7)
    number = running(ledger, 7)
    (held,) = ledger.held(7)
    Watch(ledger).watch(LEASE + 2)
    late = ending(held.job)
    assert ledger.settle(late) == [late]
    assert ledger.row(number).state == "pending"
    assert not ledger.renew(7)


def test_a_cancelled_job_of_a_lost_worker_does_not_run_again(ledger: Ledger) -> None:
    far(ledger, 7)
    number = running(ledger, 7)
    ledger.cancel(number)
    Watch(ledger).watch(LEASE + 2)
    assert (ledger.row(number).state, ledger.row(number).reason) == ("discarded", "cancelled")


def test_more_than_one_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    far(ledger, 7)
    ledger.insert(*(new_job() for _ in range(25)))
    ledger.claim(7)
    assert Watch(ledger).watch(LEASE + 2).handed_back == 25
    ledger.register(8)
    assert len(ledger.claim(8)) == 25


# -- orphans


def test_orphans_are_handed_back_at_once(ledger: Ledger) -> None:
    """A sweeper died after it had removed a worker and before it had moved its jobs."""
    far(ledger, 7)
    number = running(ledger, 7)
    ledger.remove(7)
    report = Watch(ledger).tick()
    assert (report.workers_gone, report.handed_back) == (1, 1)
    assert ledger.row(number).worker is None
    assert "not registered" in str(ledger.attempts(number)[0].error_message)


def test_a_sweeper_that_dies_half_way_leaves_the_rest_to_the_next(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    far(ledger, 7)
    ledger.insert(*(new_job() for _ in range(25)))
    ledger.claim(7)
    calls = iter([True, False])
    real = settling.write

    def settle_once(*given: object) -> object:
        if not next(calls):
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    watch = Watch(ledger)
    watch.watch(LEASE)
    with monkeypatch.context() as patch:
        patch.setattr(settling, "write", settle_once)
        with pytest.raises(KeyboardInterrupt):
            watch.tick()
    assert len(ledger.held(7)) == 15
    # It may only be slow: what it was about to do is left to it for a moment.
    assert Watch(ledger).tick().handed_back == 0
    set_clocks(monkeypatch, NOW + 3 * SECOND)
    assert Watch(ledger).tick().handed_back == 15
    assert ledger.held(7) == []


def test_two_sweepers_settle_each_attempt_once(ledger: Ledger) -> None:
    far(ledger, 7)
    numbers = ledger.insert(*(new_job() for _ in range(20)))
    ledger.claim(7)
    watches = [Watch(ledger), Watch(ledger)]
    total = sum(watch.watch(LEASE + 2).handed_back for watch in watches)
    assert total == 20
    assert all(len(ledger.attempts(number)) == 1 for number in numbers)


# -- waiting work that expires


def test_waiting_work_expires_tried_or_not(ledger: Ledger) -> None:
    ledger.register(8)
    untried = ledger.add(expires_at=NOW)
    tried = ledger.add(expires_at=NOW + 20 * SECOND, policy=Policy(backoff=fixed(0, jitter=False)))
    jobs = {job.id: job for job in ledger.claim(8)}
    ledger.give_back(jobs[untried])
    ledger.end(jobs[tried], Cause.RAISED)
    far(ledger, 9)
    assert Watch(ledger).tick().expired == 1
    row = ledger.row(untried)
    assert (row.state, row.reason, row.ended_at) == ("discarded", "expired", NOW)
    assert ledger.attempts(untried) == []
    assert ledger.row(tried).state == "pending"


def test_tried_work_that_expires_keeps_its_error(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.register(8)
    number = ledger.add(expires_at=NOW + 20 * SECOND)
    job = ledger.claim_one(8)
    ledger.end(job, Cause.RAISED, error=Error("ValueError", "the real one", "T", "1-x"))
    set_clocks(monkeypatch, NOW + 20 * SECOND)
    assert Watch(ledger).tick().expired == 1
    row = ledger.row(number)
    assert (row.state, row.reason) == ("failed", "expired")
    assert (row.error_type, row.error_message) == ("ValueError", "the real one")


def test_what_is_claimed_does_not_expire_under_its_worker(ledger: Ledger) -> None:
    far(ledger, 7)
    number = ledger.add(expires_at=NOW)
    ledger.claim_one(7)
    assert Watch(ledger).watch(LEASE * 2, 7).expired == 0
    assert ledger.row(number).worker == 7


def test_many_that_expire(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BATCH", 10)
    ledger.insert(*(new_job(expires_at=NOW) for _ in range(30)), new_job())
    watch = Watch(ledger)
    # A sweep ends no more than a batch, so that nobody waits long for it; the next goes on.
    assert [watch.tick().expired for _ in range(4)] == [10, 10, 10, 0]
    assert len(ledger.rows(states=("pending",))) == 1


def test_an_empty_ledger(ledger: Ledger) -> None:
    assert Watch(ledger).watch(5) == Report()
    with ledger.database.look() as tx:
        assert claims.lanes(tx, []) == []
