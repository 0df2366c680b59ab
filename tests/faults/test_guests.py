"""Processes of an engine's that run a job as a guest, killed at every boundary. C2, C6, D1.

The engine is a file with a line for each id: what matters here is what our part does, whatever
carries the ids. A process is started for each job, as RQ does, and this one is its keeper.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.faults.harness import wait_until

from failbetter import App, fleet, ids
from failbetter.engine import Capabilities, Keeper, Ticket
from failbetter.job import Job
from failbetter.ledger import sending
from failbetter.recovery.sweeper import Sweeper
from failbetter.worker.dispatch import Dispatcher

PATIENCE = 60.0

MODULE = """
import os, re, sys, time
import failbetter
from tests.faults.test_guests import Spool

app = failbetter.App(os.environ["LEDGER"], engine=Spool(os.environ["SPOOL"]), lease=2)

@app.task(max_crashes=3, backoff=failbetter.fixed(0))
def work(n, seconds=0):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{n}\\n")
    time.sleep(seconds)
    return n

@app.task(timeout=1)
def quick():
    with open(os.environ["SEEN"], "a") as seen:
        seen.write("quick\\n")
    time.sleep(0.5)

@app.task(timeout=0.5, max_attempts=1)
def holds_the_interpreter():
    re.match("(a+)+$", "a" * 40 + "b")

@app.task(timeout=0.5, max_attempts=1)
def heeds_nothing():
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass
"""

HORSE = """
import msgspec, os, sys
import jobs
from failbetter.engine import Keeper
from failbetter.worker.guest import Guest

keeper = msgspec.json.decode(os.environ["KEEPER"], type=Keeper)
Guest(jobs.app, "spool", keeper, for_one=True).run(int(sys.argv[1]))
"""


class Spool:
    """An engine that is a file."""

    name = "spool"
    capabilities = Capabilities()

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def send(self, tickets: Sequence[Ticket]) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{ticket.id}\n" for ticket in tickets)

    def missing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        there = set(self.ids())
        return [ticket for ticket in tickets if ticket.id not in there]

    def is_gone(self, keeper: Keeper) -> str | None:
        return None

    def close(self) -> None:
        pass

    def ids(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


class Place:
    """A folder with an app's module, a ledger and the spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "LEDGER": f"sqlite:///{folder / 'jobs.db'}",
            "SPOOL": str(folder / "spool"),
            "SEEN": str(folder / "seen"),
            "PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}",
        }
        (folder / "jobs.py").write_text(MODULE)
        self.spool = Spool(str(folder / "spool"))
        self.app = App(self.environment["LEDGER"], engine=self.spool, lease=2)
        self.app.database.ensure_schema()

    def run(self, code: str, *arguments: str, fault: str = "") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**self.environment, "FAILBETTER_FAULT": fault},
            cwd=self.folder,
        )

    def enqueue(self, call: str, fault: str = "") -> Job | None:
        """Have another process enqueue; None: it died of the fault."""
        code = f"import jobs; print(jobs.{call}.id)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**self.environment, "FAILBETTER_FAULT": fault},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            timeout=PATIENCE,
        )
        if fault:
            assert done.returncode == -signal.SIGKILL
            return None
        return self.app.job(done.stdout.decode().strip())

    def horse(
        self, job: Job, *, fault: str = "", keeper: Keeper | None = None
    ) -> subprocess.Popen[bytes]:
        own = keeper or Keeper("keeper", os.getpid(), fleet.born(os.getpid()), fleet.pid_space())
        self.environment["KEEPER"] = msgspec.json.encode(own).decode()
        return self.run(HORSE, str(ids.from_text(job.id)), fault=fault)

    def sweep(self) -> None:
        Sweeper(self.app.database).tick(time.monotonic())

    def seen(self) -> list[str]:
        path = Path(self.environment["SEEN"])
        return path.read_text().split() if path.exists() else []

    def wait_until_running(self, job: Job) -> None:
        limit = time.monotonic() + PATIENCE
        while job.refresh().state != "running":
            assert time.monotonic() < limit, job.state
            time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.app.close()


@pytest.mark.parametrize(
    ("point", "crashes"),
    [
        ("after_claim", None),  # in the claim's transaction: it never was
        ("before_body", 0),
        ("in_body", 1),
        ("after_body", 1),
        ("in_commit", 1),
    ],
)
def test_a_process_killed_there_is_handed_back(
    place: Place, point: str, crashes: int | None
) -> None:
    """Promises 2 and 4: at once, by whoever maintains; charged only if the body had begun."""
    job = place.enqueue("work.enqueue(1)")
    assert job is not None
    assert place.horse(job, fault=f"{point}:1").wait(PATIENCE) == -signal.SIGKILL
    place.sweep()
    assert job.refresh().state == "pending"
    attempts = job.attempts
    if crashes:
        (attempt,) = attempts
        assert attempt.cause == "crashed"
        assert attempt.error_type == "failbetter.ProcessDied"
    else:
        assert attempts == []
    assert Dispatcher(place.app.database, place.spool).tick(1000.0).sent == (
        0 if crashes is None else 1
    )
    assert place.horse(job).wait(PATIENCE) == 0
    assert job.refresh().state == "succeeded"


def test_killed_after_the_end_was_written_it_stays_written(place: Place) -> None:
    job = place.enqueue("work.enqueue(1)")
    assert job is not None
    # The claim of a job passes no such point: the first is the ending's.
    assert place.horse(job, fault="after_commit:1").wait(PATIENCE) == -signal.SIGKILL
    place.sweep()
    assert job.refresh().state == "succeeded"
    assert place.seen() == ["1"]


def test_a_process_killed_from_outside_is_a_crash(place: Place) -> None:
    job = place.enqueue("work.enqueue(1, 60)")
    assert job is not None
    for _ in range(3):
        horse = place.horse(job)
        place.wait_until_running(job)
        horse.kill()
        horse.wait(PATIENCE)
        place.sweep()
        job.refresh()
    assert (job.state, job.reason) == ("failed", "crashed")
    assert [attempt.cause for attempt in job.attempts] == ["crashed"] * 3


def test_with_its_keeper_it_is_a_loss(place: Place) -> None:
    """Promise 4: losing what watched over it charges no crash."""
    job = place.enqueue("work.enqueue(1, 60)")
    assert job is not None
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    keeper = Keeper("keeper", dead.pid, fleet.born(dead.pid), fleet.pid_space())
    horse = place.horse(job, keeper=keeper)
    place.wait_until_running(job)
    dead.kill()
    dead.communicate()
    horse.kill()
    horse.wait(PATIENCE)
    place.sweep()
    assert job.refresh().state == "pending"
    assert [attempt.cause for attempt in job.attempts] == ["lost"]


def test_one_that_dies_while_its_engine_is_asked_is_no_loss(place: Place) -> None:
    """D6: what is seen here of a death says more than that the engine knows of one."""
    job = place.enqueue("work.enqueue(1, 60)")
    assert job is not None
    horse = place.horse(job)
    place.wait_until_running(job)
    horse.send_signal(signal.SIGSTOP)
    asked = []

    def vouch(worker: object) -> str:
        asked.append(worker)
        horse.kill()
        horse.wait(PATIENCE)
        return "the engine says so"

    sweeper = Sweeper(place.app.database, vouch=vouch)
    limit = time.monotonic() + PATIENCE
    while not job.attempts:
        assert time.monotonic() < limit
        sweeper.tick(time.monotonic())
        time.sleep(0.1)
    assert len(asked) == 1
    assert [attempt.cause for attempt in job.attempts] == ["crashed"]


@pytest.mark.parametrize("task", ["holds_the_interpreter", "heeds_nothing"])
def test_a_body_that_nothing_stops_ends_with_its_process(place: Place, task: str) -> None:
    """Not even one that never lets go of the interpreter outlives its timeout."""
    job = place.enqueue(f"{task}.enqueue()")
    assert job is not None
    assert place.horse(job).wait(PATIENCE) != 0
    place.sweep()
    job.refresh()
    assert (job.state, job.reason) == ("failed", "timeout")
    (attempt,) = job.attempts
    assert attempt.cause == "timed_out"
    assert "jobs.py" in (attempt.traceback or "")


def test_the_time_that_the_ledger_takes_is_not_the_bodys(place: Place) -> None:
    """A body that was done in time has succeeded, however long that could not be written."""
    job = place.enqueue("quick.enqueue()")
    assert job is not None
    horse = place.horse(job)
    wait_until(place.seen, "the body to begin")
    file = place.environment["LEDGER"].removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(5)  # longer than the timeout, and what comes on top of it
        assert horse.poll() is None
        other.execute("ROLLBACK")
    assert horse.wait(PATIENCE) == 0
    assert job.refresh().state == "succeeded"


def test_a_producer_killed_before_it_sends_loses_nothing(place: Place) -> None:
    """C6: the row is there, and so it is sent."""
    place.enqueue("work.enqueue(1)", fault="before_send:1")
    (job,) = place.app.jobs
    assert place.spool.ids() == []
    ticket = Ticket(ids.from_text(job.id), 0, "work", "default", 0, None)
    with place.app.database.write() as tx:
        sending.mark_sent(tx, [ticket], 1)  # a long time ago
    report = Dispatcher(place.app.database, place.spool).tick(1000.0)
    assert (report.sent, report.again) == (0, 1)
    assert place.horse(job).wait(PATIENCE) == 0
    assert job.refresh().state == "succeeded"


def test_what_is_sent_twice_runs_once(place: Place) -> None:
    job = place.enqueue("work.using(run_after=0.01).enqueue(1)")
    assert job is not None
    code = (
        "import jobs, time; from failbetter.worker.dispatch import Dispatcher;"
        "time.sleep(0.02); Dispatcher(jobs.app.database, jobs.app.engine).tick(1000.0)"
    )
    assert place.run(code, fault="after_send:1").wait(PATIENCE) == -signal.SIGKILL
    assert place.run(code).wait(PATIENCE) == 0
    assert place.spool.ids() == [ids.from_text(job.id)] * 2
    horses = [place.horse(job), place.horse(job)]
    assert [horse.wait(PATIENCE) for horse in horses] == [0, 0]
    assert job.refresh().state == "succeeded"
    assert place.seen() == ["1"]
