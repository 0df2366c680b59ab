"""What people stumble over in RQ, and what the ledger says of it (C1, C2, D2).

With real workers of RQ's, as people start them.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rq import Callback, Retry
from rq.job import Job as RQJob
from rq.results import Result
from tests.faults.adopted_ground import RQGround, open_ground
from tests.faults.harness import wait_until

from failbetter.rq import adopting

if TYPE_CHECKING:
    from tests.faults.conftest import NewLedger

PLAIN = "rq.Worker"
WATCHING = "WatchingWorker"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[RQGround]:
    """With a ledger in a file: `tests/conformance/test_adopted.py` has what differs by database."""
    with open_ground(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}") as opened:
        yield opened


@pytest.fixture
def any_ground(new_ledger: NewLedger, tmp_path: Path) -> Iterator[RQGround]:
    """With its ledger in each kind of database."""
    with open_ground(tmp_path, new_ledger(tmp_path)) as opened:
        yield opened


def test_an_attribute_on_failure_is_never_read(ground: RQGround) -> None:
    """`fail.on_failure = told`, as in the original (C1): RQ does not look at it."""
    ground.queue.enqueue("chores.fail")
    ground.drain(WATCHING)
    assert ground.said() == ["fail"]
    job = ground.job()
    assert (job.state, job.reason, job.task) == ("failed", "error", "chores.fail")
    assert job.error_type == "ConnectionError"
    (attempt,) = job.attempts
    assert "raise ConnectionError(text)" in (attempt.traceback or "")
    # `failbetter maintain` sees the same failure: that is no second one.
    before = job.row
    ground.follow()
    assert ground.job().row == before


def test_rqs_callback_runs_on_every_attempt_and_the_job_fails_once(ground: RQGround) -> None:
    ground.queue.enqueue("chores.fail", retry=Retry(max=2), on_failure=Callback("chores.told"))
    ground.drain(WATCHING)
    assert ground.said() == ["fail", "told"] * 3
    job = ground.job()
    assert job.state == "failed"
    assert [one.state for one in job.attempts] == ["pending", "pending", "failed"]
    assert {one.cause for one in job.attempts} == {"raised"}


@pytest.mark.parametrize("kind", [WATCHING, PLAIN])
def test_a_killed_horse_calls_no_callback(any_ground: RQGround, kind: str) -> None:
    """The ledger says that it crashed, and how: at once, or once RQ's registry was looked at."""
    ground = any_ground
    ground.queue.enqueue("chores.kill_horse", on_failure=Callback("chores.told"))
    ground.drain(kind)
    ground.follow()
    assert ground.said() == ["dies"]
    job = ground.job()
    assert (job.state, job.reason) == ("failed", "crashed")
    (attempt,) = job.attempts
    assert (attempt.cause, attempt.evidence["signal"]) == ("crashed", 9)
    assert ("max_resident_bytes" in attempt.evidence) is (kind == WATCHING)


@pytest.mark.parametrize("kind", [WATCHING, PLAIN])
def test_a_module_that_cannot_be_imported_calls_no_callback(ground: RQGround, kind: str) -> None:
    """C2: the callback, which is in it, cannot be imported either."""
    ground.queue.enqueue("broken.work", on_failure=Callback("broken.told"))
    ground.drain(kind)
    ground.follow()
    job = ground.job()
    assert (job.state, job.reason, job.task) == ("failed", "unloadable", "broken.work")
    # RQ says of it that there is no such name: the callback's error has taken the place of it.
    assert job.error_type == "ValueError"


@pytest.mark.parametrize("kind", [WATCHING, PLAIN])
def test_a_signal_for_the_whole_control_group_is_seen(ground: RQGround, kind: str) -> None:
    """As `systemctl stop` sends it: RQ's worker stops softly, and its horse is dead already."""
    ground.queue.enqueue("chores.wait_for", str(ground.folder / "never"))
    worker = ground.worker(kind)
    ground.wait_said("waits")
    worker.send_all(signal.SIGTERM)
    worker.wait()
    ground.follow()
    job = ground.job()
    assert (job.state, job.reason) == ("failed", "crashed")
    assert job.attempts[0].evidence["signal"] == signal.SIGTERM


def test_when_all_is_killed_nobody_reports_and_it_is_seen_at_once(any_ground: RQGround) -> None:
    """Worker and horse: RQ would believe for 90 s that the job runs. Then it runs again."""
    ground = any_ground
    gate = ground.folder / "gate"
    ground.queue.enqueue("chores.wait_for", str(gate))
    worker = ground.worker(WATCHING)
    ground.wait_said("waits")
    ground.follow()
    assert list(ground.app.jobs) == []
    worker.kill_all()
    worker.wait()
    ground.follow()
    job = ground.job()
    assert (job.state, job.reason) == ("failed", "lost")
    assert job.attempts[0].evidence["pid"] == str(worker.process.pid)
    before = job.row
    ground.follow()
    assert job.refresh().row == before
    gate.touch()
    job.retry()
    ground.follow()
    ground.drain(WATCHING)
    ground.follow()
    assert job.refresh().state == "succeeded"
    assert ground.said() == ["waits", "waits"]


def test_a_horse_that_outlives_its_worker_is_not_called_lost(ground: RQGround) -> None:
    gate = ground.folder / "gate"
    sent = ground.queue.enqueue("chores.wait_for", str(gate))
    worker = ground.worker(WATCHING)
    ground.wait_said("waits")
    horse = worker.horse
    worker.process.kill()
    worker.wait()
    ground.follow()
    assert list(ground.app.jobs) == []
    gate.touch()
    horse.wait(20)
    assert sent.get_status() == "finished"
    ground.follow()
    assert list(ground.app.jobs) == []


def test_the_silence_of_a_worker_elsewhere_is_believed_in_time(
    ground: RQGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of RQ's own worker nothing is seen but its heartbeats: every 30 s."""
    ground.queue.enqueue("chores.wait_for", str(ground.folder / "never"))
    worker = ground.worker(PLAIN)
    ground.wait_said("waits")
    ground.follow()
    worker.kill_all()
    worker.wait()
    now = adopting.time.monotonic()
    monkeypatch.setattr(adopting.time, "monotonic", lambda: now + 45)
    ground.follow()
    assert list(ground.app.jobs) == []
    monkeypatch.setattr(adopting.time, "monotonic", lambda: now + 55)
    ground.follow()
    assert (ground.job().state, ground.job().reason) == ("failed", "lost")


def test_a_requeue_leaves_no_retries(ground: RQGround) -> None:
    """RQ's: a job that is put back has used them up. The ledger counts on."""
    ground.queue.enqueue("chores.fail", retry=Retry(max=1))
    ground.drain(WATCHING)
    job = ground.job()
    assert (job.state, job.attempt) == ("failed", 2)
    job.retry()
    ground.follow()
    ground.drain(WATCHING)
    assert ground.said() == ["fail"] * 3
    assert (job.refresh().state, job.attempt) == ("failed", 3)


@pytest.mark.parametrize("kind", [WATCHING, "WatchingSimpleWorker", "WatchingSpawnWorker"])
def test_what_a_user_has_set_up_goes_on_working(ground: RQGround, kind: str) -> None:
    """Callbacks, exception handlers, retries and results; and the job itself, put back."""
    sent = ground.queue.enqueue(
        "chores.once_then_fine",
        on_success=Callback("chores.succeeded"),
        on_failure=Callback("chores.told"),
        meta={"customer": 7},
        description="chores.once_then_fine() of a customer",
    )
    ground.drain(kind, "--exception-handler", "chores.handler")
    assert ground.said() == ["try", "told", "handled"]
    job = ground.job()
    assert job.state == "failed"
    job.retry()
    assert job.waiting_for() == "`failbetter maintain` to put it back into rq"
    ground.follow()
    assert (job.refresh().state, job.waiting_for()) == ("pending", "rq, where it waits")
    ground.drain(kind, "--exception-handler", "chores.handler")
    assert ground.said()[3:] == ["try", "succeeded done"]
    again = RQJob.fetch(sent.id, connection=ground.redis)
    assert (again.return_value(), again.meta) == ("done", {"customer": 7})
    ground.follow()
    assert job.refresh().state == "succeeded"


@pytest.mark.parametrize("kind", [WATCHING, PLAIN])
def test_maintain_follows_and_puts_back_within_the_bound(any_ground: RQGround, kind: str) -> None:
    ground = any_ground
    maintain = ground.maintain()
    ground.queue.enqueue("chores.once_then_fine")
    worker = ground.worker(kind)
    job = ground.wait_for(lambda job: job.state == "failed", "it has failed")
    job.retry()
    ground.wait_for(lambda job: job.state == "succeeded", "it has succeeded")
    assert maintain.poll() is None
    finding = {one.name: one for one in ground.app.health().findings}["following_rq"]
    assert finding.status == "pass"
    worker.process.terminate()


def test_what_had_failed_before_is_taken_in_at_once(ground: RQGround) -> None:
    """The registry of failures as it stands, in groups by cause."""
    for number in range(300):
        ground.queue.enqueue("chores.fail", f"no route to host {number % 7}")
    ground.drain("rq.SimpleWorker")
    ground.follow()
    assert ground.app.failed.count() == 300
    assert [group.count for group in ground.app.failed.groups()] == [300]
    operation = ground.app.failed.where(task="chores.fail").retry()
    ground.follow()
    assert ground.queue.count == 300
    assert operation.report().waiting == 300


def test_redis_emptied_what_had_failed_can_still_be_put_back(ground: RQGround) -> None:
    sent = ground.queue.enqueue("chores.once_then_fine", meta={"customer": 7})
    ground.drain(WATCHING)
    ground.redis.flushall()
    ground.follow()
    job = ground.job()
    assert job.state == "failed"
    job.retry()
    ground.follow()
    ground.drain(WATCHING)
    ground.follow()
    assert job.refresh().state == "succeeded"
    assert RQJob.fetch(sent.id, connection=ground.redis).meta == {"customer": 7}


def test_redis_emptied_what_was_live_there_is_lost_and_said_so(ground: RQGround) -> None:
    ground.queue.enqueue("chores.once_then_fine", retry=Retry(max=1, interval=3600))
    ground.drain(WATCHING)
    assert ground.job().state == "pending"
    ground.redis.flushall()
    ground.follow()
    job = ground.job()
    assert (job.state, job.reason) == ("failed", "lost")
    assert "Redis was emptied" in (job.error_message or "")
    job.retry()
    ground.follow()
    ground.drain(WATCHING)
    ground.follow()
    assert job.refresh().state == "succeeded"


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_a_payload_is_never_unpickled(ground: RQGround) -> None:
    """Neither the call nor `meta` nor a result: all of them run code here if they are."""
    sprung = ground.folder / "sprung"
    sent = ground.queue.enqueue("chores.fail")
    ground.drain("rq.Worker")
    trap = pickle.dumps(Trap(sprung))
    ground.redis.hset(sent.key, mapping={"data": trap, "meta": trap, "result": trap})
    ground.follow()
    job = ground.job()
    job.retry()
    ground.follow()
    assert ground.queue.job_ids == [sent.id]
    assert not sprung.exists()
    kept = ground.redis.hmget(sent.key, "meta", "result")
    assert kept == [trap, trap]
    ground.redis.flushall()
    ground.follow()
    job.retry()
    ground.follow()
    assert ground.queue.job_ids == [sent.id]
    assert not sprung.exists()


def test_what_was_taken_and_never_begun_is_seen(
    ground: RQGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed between RQ's queue and the job's start: RQ looks for it after 10
    minutes."""
    sent = ground.queue.enqueue("chores.fine")
    ground.redis.lmove(ground.queue.key, f"{ground.queue.key}:intermediate")
    ground.follow()
    assert list(ground.app.jobs) == []
    now = adopting.time.monotonic()
    monkeypatch.setattr(adopting.time, "monotonic", lambda: now + 31)
    ground.follow()
    job = ground.job()
    assert (job.state, job.reason) == ("failed", "lost")
    ground.follow()
    job.retry()
    ground.follow()
    assert ground.queue.job_ids == [sent.id]
    ground.drain(PLAIN)
    ground.follow()
    assert job.refresh().state == "succeeded"


def test_a_job_that_is_stopped_there_is_cancelled_here(ground: RQGround) -> None:
    from rq.command import send_stop_job_command

    sent = ground.queue.enqueue("chores.wait_for", str(ground.folder / "never"))
    worker = ground.worker(WATCHING)
    ground.wait_said("waits")
    send_stop_job_command(ground.redis, sent.id)
    job = ground.wait_for(lambda job: job.over, "it is over")
    assert (job.state, job.reason) == ("discarded", "cancelled")
    worker.process.terminate()


def test_a_ledger_out_of_reach_changes_nothing_for_the_job(
    ground: RQGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on, and what it could not tell is found later."""
    monkeypatch.setitem(
        ground._environment, "LEDGER", "postgresql+psycopg://nobody@127.0.0.1:1/none"
    )
    ground.queue.enqueue("chores.fail", on_failure=Callback("chores.told"))
    ground.drain(WATCHING)
    assert ground.said() == ["fail", "told"]
    ground.follow()
    assert ground.job().state == "failed"


def test_a_worker_that_could_tell_nobody_does_not_start(
    ground: RQGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ground._environment, "FAILBETTER_APP")
    worker = ground.worker(WATCHING, burst=True)
    assert worker.wait() == 1
    assert "Set FAILBETTER_APP to module:app" in worker.log.read_text()


def test_rqs_own_result_of_a_failure_is_as_ever(ground: RQGround) -> None:
    sent = ground.queue.enqueue("chores.fail")
    ground.drain(WATCHING)
    result = sent.latest_result()
    assert result is not None
    assert result.type == Result.Type.FAILED
    assert wait_until(lambda: sent.id in ground.queue.failed_job_registry, "it is in the registry")
