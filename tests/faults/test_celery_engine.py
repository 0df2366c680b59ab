"""Jobs on Celery: ordinary workers, real brokers, and what befalls them. C2, C6, C8, D1.

The rows of the comparison with today's systems: the job's process is killed; the worker and all
its children; a body that hangs in C; a poison job; the broker killed and emptied; a healthy job
that outlasts the broker's patience. And Celery's traps: early acknowledgement loses what runs, late
acknowledgement repeats it, a group-wide SIGTERM kills it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.faults.celery_site import CelerySite, Process, open_site
from tests.faults.conftest import on_postgresql, on_sqlite
from tests.faults.harness import number_of

from failbetter import fleet
from failbetter.engine import Keeper, Ticket
from failbetter.engines import celery as engine_module
from failbetter.ledger import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from failbetter.job import Job


NEW_LEDGER = {"sqlite": on_sqlite, "postgresql": on_postgresql}


@pytest.fixture(params=["redis-sqlite", "rabbitmq-postgresql"])
def on_each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CelerySite]:
    """A site on each broker, and on each ledger."""
    broker, ledger = request.param.split("-")
    with open_site(tmp_path, broker, NEW_LEDGER[ledger](tmp_path)) as site:
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[CelerySite]:
    """A site on Redis, whose messages are the easier to lose."""
    with open_site(tmp_path, "redis", on_sqlite(tmp_path)) as opened:
        yield opened


def ends(*jobs: Job) -> list[str]:
    return [f"{job.state}/{job.reason}" for job in jobs]


def causes(job: Job) -> list[str]:
    return [attempt.cause for attempt in job.attempts]


def test_jobs_run_and_fail_and_are_tried_again(on_each: CelerySite) -> None:
    """Sent on acceptance, run once each; a failure waits for its backoff and comes again. A3."""
    site = on_each
    site.maintain()
    site.worker()
    jobs = site.enqueue_many("add", [(n, 1) for n in range(20)])
    failing = site.enqueue("fail")
    site.wait_over(*jobs, failing)
    assert [job.result() for job in jobs] == [n + 1 for n in range(20)]
    assert all(len(site.said("start", job)) == 1 for job in jobs)
    assert ends(failing) == ["failed/error"]
    assert causes(failing) == ["raised", "raised"]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools(site: CelerySite, pool: str) -> None:
    """In a threads pool several bodies run at once in one process; in a solo one, one."""
    site.worker(pool, 3)
    gate = site.folder / "gate"
    jobs = site.enqueue_many("hold", [(str(gate),)] * 3)
    together = 3 if pool == "threads" else 1
    site.wait(
        lambda: sum(len(site.said("start", job)) for job in jobs) == together, "bodies at once"
    )
    assert len({pid for job in jobs for pid in site.said("start", job)}) == 1
    gate.touch()
    site.wait_over(*jobs)
    assert ends(*jobs) == ["succeeded/None"] * 3


def test_a_killed_child_is_told_at_once_with_its_signal(on_each: CelerySite) -> None:
    """The truth by the worker that outlives it, at once; run again within its budget. C2."""
    site = on_each
    site.worker(concurrency=1)
    gate = site.folder / "gate"
    job, neighbour = site.enqueue("hold", str(gate)), site.enqueue("add", 1, 2)
    pid = site.wait_said("start", job)
    os.kill(pid, signal.SIGKILL)
    site.wait(lambda: job.refresh().attempts, "its worker to tell, with nobody else there")
    site.maintain()
    site.wait_said("start", job, 2)
    gate.touch()
    site.wait_over(job, neighbour)
    assert ends(job, neighbour) == ["succeeded/None"] * 2
    first = job.attempts[0]
    assert (first.cause, first.error_type) == ("crashed", "failbetter.ProcessDied")
    assert "killed by signal 9 (SIGKILL)" in (first.error_message or "")
    assert (first.evidence or {})["signal"] == 9
    assert (job.row.crashes, neighbour.row.crashes) == (1, 0)


def test_a_poison_job_ends_and_its_neighbours_succeed(site: CelerySite) -> None:
    """Celery's `worker_lost` loops for ever where messages are acknowledged late. Promise 4."""
    site.maintain()
    site.worker()
    poison, others = site.enqueue("die"), site.enqueue_many("add", [(n, 1) for n in range(5)])
    site.wait_over(poison, *others)
    assert ends(poison, *others) == ["failed/crashed"] + ["succeeded/None"] * 5
    assert len(site.said("start", poison)) == 2
    assert all(job.row.crashes == 0 for job in others)


def test_what_a_killed_body_has_started_is_gone_before_the_next_attempt(site: CelerySite) -> None:
    """Else two of them might work on the same thing."""
    site.maintain()
    site.worker()
    job = site.enqueue("leave_behind", str(site.folder / "note"))
    site.wait_over(job)
    assert causes(job) == ["crashed", "returned"]
    assert job.result() is False


def test_a_body_that_holds_the_interpreter_is_ended_with_its_stacks(site: CelerySite) -> None:
    """No thread of its process can do anything; the neighbours' processes are unharmed. D6."""
    site.maintain()
    site.worker()
    job, other = site.enqueue("holds_the_interpreter"), site.enqueue("add", 1, 2)
    site.wait_over(job, other)
    assert ends(job, other) == ["failed/timeout", "succeeded/None"]
    (attempt,) = job.attempts
    assert attempt.cause == "timed_out"
    assert "holds_the_interpreter" in (attempt.traceback or "")


def test_a_worker_and_its_children_are_killed(on_each: CelerySite) -> None:
    """Early acknowledgement has lost what ran, and what was fetched ahead lies with the broker."""
    site = on_each
    site.maintain(impatient=True)
    worker = site.worker()
    gate = site.folder / "gate"
    jobs = site.enqueue_many("hold", [(str(gate),)] * 8)
    site.wait(lambda: sum(len(site.said("start", job)) for job in jobs) == 2, "two bodies at once")
    begun = [job for job in jobs if site.said("start", job)]
    worker.kill_all()
    gate.touch()
    site.worker()
    site.wait_over(*jobs)
    assert ends(*jobs) == ["succeeded/None"] * 8
    for job in jobs:
        assert causes(job) == (["lost", "returned"] if job in begun else ["returned"])
        assert job.row.crashes == 0


def test_the_broker_is_killed_and_emptied(on_each: CelerySite) -> None:
    """What waits is sent again, all of it, and runs once. C6."""
    site = on_each
    jobs = site.enqueue_many("add", [(n, 1) for n in range(50)])
    site.broker.lose_all()
    maintainer = site.maintain(impatient=True)
    site.worker()
    site.wait_over(*jobs)
    assert ends(*jobs) == ["succeeded/None"] * 50
    assert all(len(site.said("start", job)) == 1 for job in jobs)
    assert "were lost on their way" in maintainer.text()


def test_the_broker_is_down_at_enqueue(site: CelerySite, caplog: pytest.LogCaptureFixture) -> None:
    """Accepted and not waited for, told in one line without the password; run later. C6."""
    site.broker.server.kill()
    job = site.enqueue("add", 1, 2)  # it does not try for ever
    assert job.refresh().state == "pending"
    (record,) = [one for one in caplog.records if "accepted" in one.getMessage()]
    assert "did not take part" in record.getMessage()
    assert "s3cret" not in caplog.text
    site.maintain()
    site.broker.server.start_again()
    site.worker()
    site.wait_over(job)
    assert ends(job) == ["succeeded/None"]


def test_the_broker_stands_still_at_enqueue(site: CelerySite) -> None:
    site.broker.server.freeze()
    try:
        job = site.enqueue("add", 1, 2)
    finally:
        site.broker.server.thaw()
    assert job.refresh().state == "pending"


def test_the_broker_is_restarted_between_two_sendings(on_each: CelerySite) -> None:
    """The connection that was left open is noticed to be dead: nothing waits to be missed."""
    site = on_each
    site.enqueue("add", 1, 2)
    site.broker.lose_all()
    site.enqueue("add", 2, 2)
    with site.engine._reached() as sender:
        assert sender.depth("default") == 1


def test_a_body_outlasts_the_broker_s_patience(site: CelerySite) -> None:
    """Late acknowledgement would have it run again and again; the ledger has it run once."""
    site.maintain()
    site.worker(VISIBILITY="1")
    job = site.enqueue("sleep", 4)
    fetched = site.enqueue_many("sleep", [(0.1,)] * 4)
    site.wait_over(job, *fetched)
    assert all(len(site.said("start", one)) == 1 for one in [job, *fetched])
    assert ends(job, *fetched) == ["succeeded/None"] * 5


def test_an_id_that_comes_several_times_runs_once(site: CelerySite) -> None:
    job = site.enqueue("sleep", 0.5)
    ticket = Ticket(number_of(job), 0, "sleep", "default", 0, None)
    site.engine.send([ticket] * 5)
    worker = site.worker()
    site.wait_over(job)
    last = site.enqueue("add", 1, 2)
    site.wait_over(last)
    assert worker.end() == 0
    assert len(site.said("start", job)) == 1
    assert causes(job) == ["returned"]


def test_a_warm_shutdown_finishes_what_runs(site: CelerySite) -> None:
    """SIGTERM: what runs ends, what was fetched ahead waits for the next; no worker's row stays."""
    worker = site.worker(concurrency=1)
    gate = site.folder / "gate"
    running, *waiting = site.enqueue_many("hold", [(str(gate),)] * 4)
    site.wait_said("start", running)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_said("Warm shutdown")
    gate.touch()
    assert worker.process.wait(90) == 0
    assert running.refresh().state == "succeeded"
    with site.app.database.look() as tx:
        assert registry.all_workers(tx) == []
    site.maintain(impatient=True)
    site.worker()
    site.wait_over(*waiting)
    assert all(causes(job) == ["returned"] for job in [running, *waiting])


def test_the_whole_control_group_is_told_to_stop(site: CelerySite) -> None:
    """SIGTERM to every process, as systemd does: no body is charged with a crash for that. C8."""
    site.maintain()
    worker = site.worker(concurrency=1)
    gate = site.folder / "gate"
    job = site.enqueue("hold", str(gate))
    site.wait_said("start", job)
    for process in [psutil.Process(worker.process.pid), *worker.children()]:
        process.send_signal(signal.SIGTERM)
    check_that_it_runs_elsewhere(site, worker, job, gate)


def test_a_cold_shutdown_hands_back_what_runs(site: CelerySite) -> None:
    """SIGQUIT: the worker waits for nothing, and ends its children."""
    site.maintain()
    worker = site.worker(concurrency=1)
    gate = site.folder / "gate"
    job = site.enqueue("hold", str(gate))
    site.wait_said("start", job)
    worker.process.send_signal(signal.SIGQUIT)
    check_that_it_runs_elsewhere(site, worker, job, gate)


def check_that_it_runs_elsewhere(site: CelerySite, worker: Process, job: Job, gate: Path) -> None:
    """The worker ends; its job is handed back uncharged, and comes to its end on the next one."""
    worker.process.wait(90)
    gate.touch()
    site.worker()
    site.wait_over(job)
    assert ends(job) == ["succeeded/None"]
    assert (causes(job), job.row.crashes) == (["interrupted", "returned"], 0)


def test_children_that_are_replaced_leave_no_worker_behind(site: CelerySite) -> None:
    """`--max-tasks-per-child`: each signs off, so that nobody takes its end for a death."""
    worker = site.worker(concurrency=1, options=["--max-tasks-per-child", "2"])
    jobs = site.enqueue_many("add", [(n, 1) for n in range(7)])
    site.wait_over(*jobs)
    assert len({pid for job in jobs for pid in site.said("start", job)}) == 4
    with site.app.database.look() as tx:
        assert len(registry.all_workers(tx)) <= 1
    assert worker.end() == 0
    assert "is gone" not in worker.text()


def test_an_app_in_another_module_than_the_celery_app_s(site: CelerySite) -> None:
    """The worker is told what to load besides, and the App by a path where Celery's is."""
    (site.folder / "shop_celery.py").write_text(
        "import celery, os\n"
        "celery_app = celery.Celery('shop', broker=os.environ['BROKER'],"
        " include=['failbetter.celery.work'])\n"
    )
    (site.folder / "shop.py").write_text(
        "import failbetter, os\n"
        "engine = failbetter.Celery('shop_celery:celery_app')\n"
        "app = failbetter.App(os.environ['LEDGER'], engine=engine)\n"
        "@app.task\n"
        "def add(a, b):\n"
        "    if a:\n"
        "        add.enqueue(a - 1, b)\n"
    )
    site.worker(celery_app="shop_celery:celery_app", FAILBETTER_APP="shop:app")
    site.enqueue("add", 2, 0)
    done = site.app.jobs.where(state="succeeded")
    site.wait(lambda: done.count() == 3, "jobs that were enqueued by a body, too")


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("", "set $FAILBETTER_APP to module:app"),
        ("nowhere:app", "nowhere:app cannot be loaded: ModuleNotFoundError"),
        ("jobs:celery_app", "is a Celery, not a failbetter.App"),
    ],
)
def test_a_worker_that_does_not_find_the_app_does_not_start(
    site: CelerySite, app: str, words: str
) -> None:
    """One line, and no id is taken by a worker that could do nothing with it."""
    worker = site.worker(ready=False, FAILBETTER_APP=app)
    assert worker.process.wait(90) == 78
    assert words in worker.text()


def test_who_is_gone_is_known_from_the_workers_own_answers(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another host: silence of a lease says nothing, an answer does, long silence does."""
    monkeypatch.setattr(engine_module, "_ASK_EVERY", 0.1)
    monkeypatch.setattr(engine_module, "_SILENT", 1.0)
    worker = site.worker()
    pid = worker.process.pid
    keeper = Keeper("w0@test", pid, fleet.born(pid), fleet.pid_space(), tells=True)
    assert site.engine.is_gone(keeper) is None
    former = Keeper("w0@test", pid, 1, fleet.pid_space(), tells=True)
    assert "started anew" in (site.engine.is_gone(former) or "")
    unheard = Keeper("w9@test", 1, 1, "elsewhere", tells=True)
    assert site.engine.is_gone(unheard) is None
    site.wait(lambda: site.engine.is_gone(unheard), "a silent worker to be given up")
    assert site.engine.is_gone(keeper) is None
