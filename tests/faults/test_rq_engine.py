"""Jobs in RQ's workers, over a real Redis: nothing is lost, and the ledger tells the truth.

The rows of the comparison with today's systems, on RQ: C1 to C3, C6, D1, D6; promises 1, 2, 4, 5.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from rq import Worker
from tests.faults.harness import wait_until
from tests.faults.rq_ground import OUR_SIMPLE, OURS, SIMPLE, RQSite, open_rq_site, ticket_of
from tests.servers.redis import RedisServer, shared_server

from failbetter.engines.rq import rq_id

if TYPE_CHECKING:
    from tests.faults.conftest import NewLedger

PLAIN = None
EVERY = [PLAIN, OURS, SIMPLE, OUR_SIMPLE]
FORKING = [PLAIN, OURS]


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    server.flush()
    return server


@pytest.fixture
def rq_site(new_ledger: NewLedger, tmp_path: Path, server: RedisServer) -> Iterator[RQSite]:
    with open_rq_site(new_ledger(tmp_path), tmp_path, server) as opened:
        yield opened


@pytest.mark.parametrize("worker_class", EVERY)
def test_jobs_run_and_succeed(rq_site: RQSite, worker_class: str | None) -> None:
    """D1: ordinary workers run them; RQ keeps nothing of what has ended."""
    rq_site.rq(worker_class)
    first = rq_site.enqueue("plain", 1)
    more = rq_site.enqueue_many("plain", [(n,) for n in range(2, 5)])
    slow = rq_site.enqueue("awork", 1, 0.2)
    rq_site.wait_over([first, *more, slow])
    assert [job.result() for job in (first, *more)] == list(range(2, 6))
    rq_site.check()
    wait_until(lambda: not keys_of_jobs(rq_site.server), "RQ to forget what is done")


def keys_of_jobs(server: RedisServer) -> list[bytes]:
    with server.connect() as client:
        return client.keys("rq:job:*")


@pytest.mark.parametrize("worker_class", [PLAIN, OURS, SIMPLE])
def test_what_raises_is_retried_with_its_backoff(rq_site: RQSite, worker_class) -> None:
    """`failbetter maintain` sends each retry when it is due, under a name of its own."""
    rq_site.maintain()
    rq_site.rq(worker_class)
    flaky = rq_site.enqueue("flaky", 1, 2)
    hopeless = rq_site.enqueue("hopeless", 2)
    later = rq_site.enqueue("plain", 3, using={"run_after": 0.5})
    rq_site.wait_over([flaky, hopeless, later])
    assert (flaky.state, [one.cause for one in flaky.attempts]) == (
        "succeeded", ["raised", "raised", "returned"],
    )  # fmt: skip
    assert (hopeless.state, hopeless.reason, len(hopeless.attempts)) == ("failed", "error", 3)
    assert later.state == "succeeded"
    rq_site.check()


@pytest.mark.parametrize("worker_class", FORKING)
def test_a_killed_work_horse_is_told_of_within_two_seconds(rq_site: RQSite, worker_class) -> None:
    """D6: a plain `rq worker` keeps the signal to itself; with ours it is on record."""
    rq_site.maintain()
    worker = rq_site.rq(worker_class)
    job = rq_site.enqueue("plain", 1, 60)
    horse = rq_site.horse_of(job)
    assert horse.pid != worker.pid
    rq_site.wait_state(job, "running")
    horse.kill()
    (attempt, *_) = rq_site.wait_attempts(job, 1, patience=10)
    assert attempt.cause == "crashed"
    assert attempt.error_type == "failbetter.ProcessDied"
    if worker_class == OURS:
        assert "killed by signal 9" in (attempt.error_message or "")
    # And it runs again, in another horse of the same worker.
    rq_site.log.wait_for("start", job, 2)
    job.cancel()
    rq_site.wait_over([job])
    assert worker.alive
    rq_site.check()


def test_our_worker_needs_nobody_else_to_tell_of_a_death(rq_site: RQSite) -> None:
    """D6: who outlives the horse writes what it died of, at once."""
    rq_site.rq(OURS)
    for name, words in (("segfault", "signal 11"), ("leave", "exited with code 7")):
        job = rq_site.enqueue(name, *([7] if name == "leave" else []))
        (attempt,) = rq_site.wait_attempts(job, 1, patience=20)
        assert (attempt.cause, job.refresh().state) == ("crashed", "pending")
        assert words in (attempt.error_message or "")
    job = rq_site.enqueue("leave", 0)  # RQ takes that for success
    (attempt,) = rq_site.wait_attempts(job, 1, patience=20)
    assert "exited with code 0" in (attempt.error_message or "")


@pytest.mark.parametrize("with_its_worker", [False, True])
def test_elsewhere_rq_tells_that_a_horse_is_gone(rq_site: RQSite, with_its_worker: bool) -> None:
    """Promise 2: whoever maintains on another host sees no lock file, but what RQ has on record."""
    maintaining = rq_site.maintain(FAILBETTER_FLEET_FOLDER=str(rq_site.folder / "elsewhere"))
    worker = rq_site.rq(PLAIN)
    job = rq_site.enqueue("plain", 1, 60)
    horse = rq_site.horse_of(job)
    rq_site.wait_state(job, "running")
    why = "no work horse for it any more"
    if with_its_worker:
        worker.kill()
        why = "sends no heartbeat any more"
        with rq_site.server.connect() as client:
            (key,) = Worker.all_keys(connection=client)
            client.expire(key, 40)  # as it would be in 50 s
    horse.kill()
    (attempt, *_) = rq_site.wait_attempts(job, 1)
    assert attempt.cause == "lost"
    assert maintaining.said(why)


def test_elsewhere_a_silent_lease_alone_is_no_death(rq_site: RQSite) -> None:
    """D6: a body that holds the interpreter for three leases, and RQ says that its horse runs."""
    rq_site.maintain(FAILBETTER_FLEET_FOLDER=str(rq_site.folder / "elsewhere"))
    rq_site.rq(OURS)
    job = rq_site.enqueue("hold_the_interpreter", 6.0)
    rq_site.wait_over([job])
    assert (job.state, len(job.attempts)) == ("succeeded", 1)
    assert len(rq_site.log.starts(job)) == 1
    rq_site.check()


@pytest.mark.parametrize("worker_class", [SIMPLE, OUR_SIMPLE])
def test_a_simple_worker_may_run_a_job_for_ever(rq_site: RQSite, worker_class: str) -> None:
    """RQ writes its key but once for each job; that it ran out must not look like a death."""
    rq_site.rq(worker_class)
    gate = rq_site.folder / "gate"
    job = rq_site.enqueue("hold_for_ever", str(gate))
    rq_site.log.wait_for("start", job)
    with rq_site.server.connect() as client:
        (key,) = Worker.all_keys(connection=client)
        assert client.ttl(key) > 86_400
        gate.touch()
        rq_site.wait_over([job])
        wait_until(lambda: client.ttl(key) < 3_600, "the worker to write its key again")


@pytest.mark.parametrize("worker_class", FORKING)
def test_a_poison_job_stops_and_harms_no_neighbour(rq_site: RQSite, worker_class) -> None:
    """Promise 4: at most `max_crashes` runs, the reason on record, neighbours uncharged."""
    rq_site.maintain()
    rq_site.rq(worker_class)
    poison = rq_site.enqueue("poison")
    healthy = rq_site.enqueue_many("plain", [(n,) for n in range(5)])
    rq_site.wait_over([poison, *healthy])
    assert (poison.state, poison.reason) == ("failed", "crashed")
    assert len(rq_site.log.starts(poison)) == 3
    assert all(job.state == "succeeded" and len(job.attempts) == 1 for job in healthy)
    rq_site.check()


@pytest.mark.parametrize("worker_class", FORKING)
def test_worker_and_horse_killed_together_charge_no_crash(rq_site: RQSite, worker_class) -> None:
    """Promise 2 and 4: who killed both is not the body; it runs again at once."""
    rq_site.maintain()
    worker = rq_site.rq(worker_class)
    job = rq_site.enqueue("plain", 1, 60)
    horse = rq_site.horse_of(job)
    rq_site.wait_state(job, "running")
    worker.kill()
    horse.kill()
    (attempt, *_) = rq_site.wait_attempts(job, 1, patience=10)
    assert attempt.cause == "lost"
    rq_site.rq(worker_class)
    rq_site.log.wait_for("start", job, 2)
    job.cancel()
    rq_site.wait_over([job])
    rq_site.check()


@pytest.mark.parametrize("worker_class", FORKING)
def test_a_horse_outlives_its_worker(rq_site: RQSite, worker_class) -> None:
    """A worker that dies alone takes nothing along: the body comes to its end, once."""
    rq_site.maintain()
    worker = rq_site.rq(worker_class)
    (job,), gate = rq_site.hold(1)
    rq_site.horse_of(job)
    worker.kill()
    rq_site.rq(worker_class)
    later = rq_site.enqueue("plain", 1)
    rq_site.wait_over([later])
    assert job.refresh().state == "running"
    gate.touch()
    rq_site.wait_over([job])
    assert len(rq_site.log.starts(job)) == 1
    rq_site.check()


@pytest.mark.parametrize("worker_class", FORKING)
def test_sigterm_to_the_control_group_lets_a_body_finish(rq_site: RQSite, worker_class) -> None:
    """C8: as systemd stops a unit; RQ's worker waits for its horse, which dies of it elsewhere."""
    rq_site.maintain()
    worker = rq_site.rq(worker_class)
    (job,), gate = rq_site.hold(1)
    horse = rq_site.horse_of(job)
    for process in (psutil.Process(worker.pid), horse):
        process.terminate()
    worker.wait_said("warm shut down requested")
    gate.touch()
    assert worker.wait() == 0
    assert job.refresh().state == "succeeded"
    assert len(job.attempts) == 1
    rq_site.check()


def test_a_cold_shutdown_is_an_interruption(rq_site: RQSite) -> None:
    """A second SIGTERM takes the horse down with our worker: no crash is charged."""
    worker = rq_site.rq(OURS)
    job = rq_site.enqueue("plain", 1, 60)
    rq_site.horse_of(job)
    worker.send(signal.SIGTERM)
    worker.wait_said("warm shut down requested")
    time.sleep(1.1)  # RQ takes a second one within a second for the same
    worker.send(signal.SIGTERM)
    worker.wait()
    assert job.refresh().state == "pending"
    (attempt,) = job.attempts
    assert attempt.cause == "interrupted"


@pytest.mark.parametrize("worker_class", EVERY)
def test_a_body_that_holds_the_interpreter_is_timed_out(rq_site: RQSite, worker_class) -> None:
    """RQ's own timeout never reaches it. Its process ends, and the stacks are on record."""
    rq_site.maintain()
    rq_site.rq(worker_class)
    job = rq_site.enqueue("hang_in_c")
    deaf = rq_site.enqueue("hang_swallowing_exceptions")
    rq_site.wait_over([job])
    assert (job.state, job.reason) == ("failed", "timeout")
    (attempt,) = job.attempts
    assert attempt.cause == "timed_out"
    assert "hang_in_c" in (attempt.traceback or "")
    if worker_class in (SIMPLE, OUR_SIMPLE):
        rq_site.rq(worker_class)  # as systemd does
    rq_site.wait_over([deaf])
    assert (deaf.state, deaf.reason) == ("failed", "timeout")
    rq_site.check()


def test_what_an_emptied_redis_has_lost_is_sent_again(rq_site: RQSite) -> None:
    """C6: Redis flushed with 50 jobs waiting."""
    jobs = rq_site.enqueue_many("plain", [(n,) for n in range(50)])
    assert len(rq_site.waiting()) == 50
    rq_site.server.flush()
    assert rq_site.waiting() == []
    rq_site.maintain()
    rq_site.rq(OURS)
    rq_site.wait_over(jobs)
    assert all(job.state == "succeeded" and len(job.attempts) == 1 for job in jobs)
    rq_site.check()


def test_with_redis_down_jobs_are_accepted_and_run_later(
    new_ledger: NewLedger, tmp_path: Path
) -> None:
    """C6, promise 1: nobody who enqueues fails or waits for it, and nothing is left behind."""
    with (
        RedisServer.start() as server,
        open_rq_site(new_ledger(tmp_path), tmp_path, server) as site,
    ):
        before = site.enqueue("plain", 0)
        server.kill()
        jobs = [site.enqueue("plain", n) for n in range(1, 6)]
        jobs += site.enqueue_many("plain", [(n,) for n in range(6, 10)])
        assert all(job.refresh().state == "pending" for job in jobs)
        maintaining = site.maintain()
        maintaining.wait_said("Redis at .* did not take part")
        server.start_again()
        site.rq(OURS)
        site.wait_over([before, *jobs])
        assert all(job.state == "succeeded" and len(job.attempts) == 1 for job in jobs)
        site.check()


def test_workers_outlive_a_redis_that_restarts(new_ledger: NewLedger, tmp_path: Path) -> None:
    """A body that runs meanwhile comes to its end, once, whatever becomes of RQ's worker."""
    with (
        RedisServer.start(keeps=True) as server,
        open_rq_site(new_ledger(tmp_path), tmp_path, server) as site,
    ):
        site.maintain()
        site.rq(OURS)
        (job,), gate = site.hold(1)
        site.horse_of(job)
        server.kill()
        server.start_again()
        gate.touch()
        site.wait_over([job])
        later = site.enqueue("plain", 1)
        site.rq(OURS)
        site.wait_over([later])
        assert len(site.log.starts(job)) == 1
        site.check()


@pytest.mark.parametrize("worker_class", [OURS, SIMPLE])
def test_what_is_sent_twice_runs_once(rq_site: RQSite, worker_class: str) -> None:
    """Promise 6: only a claim starts a job, whatever the engine delivers, and how often."""
    (job,), gate = rq_site.hold(1)
    for _ in range(3):
        rq_site.engine.send([ticket_of(job)])
    rq_site.engine.send([ticket_of(job, 7)])
    rq_site.rq(worker_class)
    rq_site.rq(worker_class)
    rq_site.log.wait_for("start", job)
    wait_until(lambda: not rq_site.waiting(), "all of them to be taken")
    gate.touch()
    rq_site.wait_over([job])
    after = rq_site.enqueue("plain", 1)
    rq_site.wait_over([after])
    assert len(rq_site.log.starts(job)) == 1
    rq_site.check()


def test_an_app_that_cannot_be_imported_loses_nothing(rq_site: RQSite) -> None:
    """C2: a plain worker fails RQ's job, and its id is sent again; the job waits."""
    rq_site.maintain()
    job = rq_site.enqueue("plain", 1)
    broken = rq_site.rq(FAILBETTER_TEST_BROKEN="1")
    broken.wait_said("RuntimeError: a module that cannot be imported")
    assert job.refresh().state == "pending"
    assert job.attempts == []
    broken.send(signal.SIGTERM)
    broken.wait()
    rq_site.rq()
    rq_site.wait_over([job])
    assert (job.state, len(job.attempts)) == ("succeeded", 1)
    rq_site.check()


@pytest.mark.parametrize("worker_class", [OURS, OUR_SIMPLE])
def test_our_workers_take_no_job_that_they_cannot_run(rq_site: RQSite, worker_class: str) -> None:
    """C2: one line, a code of its own, and all that waits is left to others."""
    job = rq_site.enqueue("plain", 1)
    broken = rq_site.rq(worker_class, ready=False, FAILBETTER_TEST_BROKEN="1")
    assert broken.wait() == 78
    assert broken.said(r"FAILBETTER_APP cannot be loaded.*RuntimeError: a module that cannot")
    assert not broken.said("Traceback")
    assert rq_site.waiting() == [rq_id(ticket_of(job))]
    unset = rq_site.rq(worker_class, ready=False, FAILBETTER_APP="")
    assert unset.wait() == 78
    assert unset.said("set it to module:app")


def test_a_task_that_is_gone_ends_unloadable(rq_site: RQSite) -> None:
    """The row "function gone": in the list of failures, retryable once the code is back."""
    rq_site.maintain()
    worker = rq_site.rq(OURS, FAILBETTER_TEST_GONE="plain")
    job = rq_site.enqueue("plain", 1)
    rq_site.wait_over([job])
    assert (job.state, job.reason) == ("failed", "unloadable")
    worker.kill()
    rq_site.rq(OURS)
    job.retry()
    rq_site.wait_state(job, "succeeded")
    rq_site.check(retried=[job])


def test_a_pool_of_workers_runs_them(rq_site: RQSite) -> None:
    """`rq worker-pool`, with a killed horse in between."""
    rq_site.maintain()
    rq_site.rq(OURS, command="worker-pool", options=("-n", "2"))
    jobs = rq_site.enqueue_many("plain", [(n, 0.05) for n in range(10)])
    dying = rq_site.enqueue("die_at_first", int(signal.SIGKILL), 1)
    rq_site.wait_over([*jobs, dying])
    assert all(job.state == "succeeded" for job in (*jobs, dying))
    assert [one.cause for one in dying.attempts] == ["crashed", "returned"]
    rq_site.check()


@pytest.mark.parametrize("worker_class", [SIMPLE, OUR_SIMPLE])
def test_a_simple_worker_that_dies_is_a_loss(rq_site: RQSite, worker_class: str) -> None:
    """Nobody outlives it: it counts as a loss, and the next one goes on."""
    rq_site.maintain()
    worker = rq_site.rq(worker_class)
    job = rq_site.enqueue("plain", 1, 60)
    assert rq_site.horse_of(job).pid == worker.pid
    rq_site.wait_state(job, "running")
    worker.kill()
    (attempt, *_) = rq_site.wait_attempts(job, 1, patience=10)
    assert attempt.cause == "lost"
    rq_site.rq(worker_class)
    rq_site.log.wait_for("start", job, 2)
    job.cancel()
    rq_site.wait_over([job])
    rq_site.check()


def test_a_cancelled_body_stops(rq_site: RQSite) -> None:
    rq_site.rq(OURS)
    job = rq_site.enqueue("plain", 1, 60)
    rq_site.horse_of(job)
    rq_site.wait_state(job, "running")
    job.cancel()
    rq_site.wait_over([job])
    assert (job.state, job.reason) == ("discarded", "cancelled")


def test_a_job_that_rq_is_told_to_stop_is_cancelled(rq_site: RQSite) -> None:
    """`send_stop_job_command`: a person's wish, which is no crash."""
    from rq.command import send_stop_job_command

    rq_site.rq(OURS)
    job = rq_site.enqueue("plain", 1, 60)
    rq_site.horse_of(job)
    rq_site.wait_state(job, "running")
    with rq_site.server.connect() as client:
        send_stop_job_command(client, rq_id(ticket_of(job)))
    rq_site.wait_over([job])
    assert (job.state, job.reason) == ("discarded", "cancelled")


def test_what_a_dead_horse_has_started_is_killed(rq_site: RQSite) -> None:
    """D6: it must not go on beside the next attempt."""
    rq_site.rq(OURS)
    job = rq_site.enqueue("run_program", ["sleep", "300"])
    horse = rq_site.horse_of(job)
    (program,) = wait_until(horse.children, "the program to run")
    horse.kill()
    rq_site.wait_attempts(job, 1)
    wait_until(
        lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE,
        "the program to be gone",
    )


def test_urgent_jobs_overtake(rq_site: RQSite) -> None:
    jobs = rq_site.enqueue_many("plain", [(n,) for n in range(3)])
    urgent = rq_site.enqueue("plain", 9, using={"priority": 5})
    rq_site.rq(options=("--burst",), ready=False).wait()
    starts = [entry.job for entry in rq_site.log.entries("start")]
    assert starts == [urgent.id, *(job.id for job in jobs)]


def test_nothing_of_a_users_is_in_redis(rq_site: RQSite) -> None:
    """Promise 11: only our own id travels; what comes back is never read."""
    rq_site.enqueue("only", "a secret of somebody's")
    with rq_site.server.connect() as client:
        for key in client.keys("*"):
            if client.type(key) == b"hash":
                assert not any(b"secret" in value for value in client.hvals(key))
