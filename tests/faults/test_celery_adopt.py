"""Celery's own tasks in the ledger, by real workers on a real broker (D2)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import psutil
import pytest
from tests.faults.harness import wait_until
from tests.servers.redis import RedisServer

from failbetter import App, Job
from failbetter.celery import watch

MODULE = """
import os, signal, time
from pathlib import Path
import celery
import failbetter
from failbetter.celery import watch

celery_app = celery.Celery("jobs", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
celery_app.conf.update(broker_connection_retry_on_startup=True)
app = failbetter.App(os.environ["LEDGER"])
watch(app, celery_app)
LOG = Path(os.environ["CHORES_LOG"])


def say(text):
    with LOG.open("a") as log:
        log.write(text + "\\n")


@celery_app.task
def fail_once(name):
    say("try")
    if LOG.read_text().count("try") == 1:
        raise ConnectionError(f"no route for {name}")
    return name


@celery_app.task(bind=True, max_retries=2)
def retried(self):
    say("retried")
    try:
        raise KeyError("ann")
    except KeyError as error:
        raise self.retry(exc=error, countdown=0)


@celery_app.task
def killed():
    say("dies")
    os.kill(os.getpid(), 9)


@celery_app.task(acks_late=True, reject_on_worker_lost=True)
def killed_late():
    say("dies late")
    if LOG.read_text().count("dies late") < 3:
        os.kill(os.getpid(), 9)


@celery_app.task(time_limit=1)
def endless():
    say("endless")
    time.sleep(60)


@celery_app.task
def fine():
    say("fine")
"""


class CeleryGround:
    """A user's Celery app, a worker of it, and a ledger that follows."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.log = folder / "said"
        self.log.touch()
        self.ledger = f"sqlite:///{folder / 'jobs.db'}"
        (folder / "jobs.py").write_text(MODULE)
        self.environment = {
            **os.environ,
            "BROKER": url,
            "LEDGER": self.ledger,
            "CHORES_LOG": str(self.log),
            "PYTHONPATH": str(folder),
        }
        self.client = celery.Celery("jobs", broker=url, backend=url)
        self.app = App(self.ledger)
        self.app.database.ensure_schema()
        watch(self.app, self.client)
        self._processes: list[subprocess.Popen[bytes]] = []

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker with one child."""
        command = [sys.executable, "-m", "celery", "-A", "jobs:celery_app", "worker"]
        command += ["--concurrency", "1", "--loglevel", "WARNING", "--without-mingle"]
        with (self.folder / "worker.log").open("ab") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        self._processes.append(process)
        return process

    def send(self, name: str, *args: object) -> Any:
        return self.client.send_task(f"jobs.{name}", args=args)

    def said(self, what: str) -> int:
        return self.log.read_text().split("\n").count(what)

    def wait_for(self, state: str, attempts: int = 1) -> Job:
        """Wait until the only job is in that state, after so many attempts."""

        def look() -> Job | None:
            found = list(self.app.jobs)
            if len(found) == 1 and (found[0].state, len(found[0].attempts)) == (state, attempts):
                return found[0]
            return None

        found = wait_until(look, f"it is {state}")
        assert found is not None
        return found

    def follow(self) -> None:
        for one in self.app.followers:
            one.follow(self.app.database)

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        self.client.close()
        self.app.close()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[CeleryGround]:
    with RedisServer.start() as server:
        opened = CeleryGround(tmp_path, server.url)
        try:
            yield opened
        finally:
            opened.close()


def test_a_failure_is_a_row_and_a_retry_publishes_the_same_message(ground: CeleryGround) -> None:
    sent = ground.send("fail_once", "ann")
    ground.worker()
    job = ground.wait_for("failed")
    assert (job.reason, job.origin, job.task) == ("error", "celery", "jobs.fail_once")
    assert (job.error_type, job.error_message) == ("ConnectionError", "no route for ann")
    assert "raise ConnectionError" in (job.attempts[0].traceback or "")
    job.retry()
    assert job.waiting_for() == "`failbetter maintain` to put it back into celery"
    ground.follow()
    job = ground.wait_for("succeeded", attempts=2)
    assert ground.said("try") == 2
    assert ground.client.AsyncResult(sent.id).get(timeout=20) == "ann"


def test_retries_are_attempts_by_their_real_cause(ground: CeleryGround) -> None:
    ground.send("retried")
    ground.worker()
    job = ground.wait_for("failed", attempts=3)
    assert [one.state for one in job.attempts] == ["pending", "pending", "failed"]
    assert {one.error_type for one in job.attempts} == {"KeyError"}


def test_early_acknowledgement_loses_what_kills_its_child_and_the_ledger_has_it(
    ground: CeleryGround,
) -> None:
    """Celery's default: nobody runs it again."""
    ground.send("killed")
    ground.worker()
    job = ground.wait_for("failed")
    assert (job.reason, job.attempts[0].evidence["signal"]) == ("crashed", 9)
    assert ground.said("dies") == 1


def test_late_acknowledgement_repeats_what_kills_its_child(ground: CeleryGround) -> None:
    """It would go on for ever; each death is an attempt of one job."""
    ground.send("killed_late")
    ground.worker()
    job = ground.wait_for("succeeded", attempts=3)
    assert [one.cause for one in job.attempts] == ["crashed", "crashed", "returned"]
    assert ground.said("dies late") == 3


def test_a_hard_time_limit_is_told_once(ground: CeleryGround) -> None:
    ground.send("endless")
    ground.worker()
    job = ground.wait_for("failed")
    assert job.reason == "timeout"
    ground.send("fine")
    wait_until(lambda: ground.said("fine"), "another has run")
    assert len(list(ground.app.jobs)) == 1
