"""A user's RQ as it stands: tasks of their own, ordinary workers, and a ledger that follows."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from rq import Queue
from tests.faults.harness import PATIENCE, wait_until
from tests.servers.redis import RedisServer

from failbetter import App, Job
from failbetter.rq import watch
from failbetter.rq.adopting import Adopter
from failbetter.rq.watching import adopter_of

CHORES = """
import os, signal, time
from pathlib import Path

LOG = Path(os.environ["CHORES_LOG"])


def say(text):
    with LOG.open("a") as log:
        log.write(text + "\\n")


def fail(text="no route"):
    say("fail")
    raise ConnectionError(text)


def told(*args):
    say("told")


fail.on_failure = told


def fine(value=1):
    say("fine")
    return value


def once_then_fine():
    say("try")
    if LOG.read_text().count("try") == 1:
        raise ConnectionError("the first time")
    return "done"


def kill_horse(number=9):
    say("dies")
    os.kill(os.getpid(), number)
    time.sleep(60)


def wait_for(path):
    say("waits")
    while not Path(path).exists():
        time.sleep(0.02)
    return "waited"


def succeeded(job, connection, result, *args):
    say(f"succeeded {result}")


def handler(job, *exc_info):
    say("handled")
"""
APP = """
import os
import failbetter
from failbetter.rq import watch

app = failbetter.App(os.environ["LEDGER"])
watch(app, os.environ["REDIS"])
"""


class RQWorker:
    """A worker of RQ's, and what it forked."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def horse(self) -> psutil.Process:
        """The process that runs a job for it now."""

        def look() -> list[psutil.Process]:
            return psutil.Process(self.process.pid).children()

        return wait_until(look, "the worker has a horse")[0]

    def kill_all(self) -> None:
        """`kill -9` of the worker and its horse, at one go; returns once both are dead."""
        horse = self.send_all(signal.SIGKILL)
        self.wait()
        wait_until(lambda: _is_dead(horse), "the horse is dead")

    def send_all(self, number: int) -> psutil.Process:
        """The signal for all of its control group; the horse."""
        horse = self.horse
        for process in (psutil.Process(self.process.pid), horse):
            process.send_signal(number)
        return horse

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)


def _is_dead(process: psutil.Process) -> bool:
    """Also when nobody has heard of its end yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class RQGround:
    """A folder with a user's modules, their Redis, and a ledger that watches it."""

    def __init__(self, folder: Path, redis: RedisServer, url: str) -> None:
        self.folder = folder
        self.redis = redis.connect()
        self.queue = Queue("mail", connection=self.redis)
        self.said_in = folder / "said"
        self.said_in.touch()
        self._environment = {
            **os.environ,
            "LEDGER": url,
            "REDIS": redis.url,
            "CHORES_LOG": str(self.said_in),
            "PYTHONPATH": str(folder),
            "FAILBETTER_APP": "ledger_app:app",
        }
        (folder / "chores.py").write_text(CHORES)
        (folder / "ledger_app.py").write_text(APP)
        (folder / "broken.py").write_text("import no_such_module\ndef work(): ...\n")
        self.app = App(url)
        self.app.database.ensure_schema()
        watch(self.app, redis.url)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def adopter(self) -> Adopter:
        """What follows, in this process."""
        found = adopter_of(self.app)
        assert found is not None
        return found

    def follow(self) -> None:
        """Look once, as `failbetter maintain` does."""
        self.adopter._next_full = 0.0
        self.adopter.follow(self.app.database)

    def said(self) -> list[str]:
        """What the user's code has said."""
        return self.said_in.read_text().split("\n")[:-1]

    def wait_said(self, what: str, times: int = 1) -> None:
        """Wait until the user's code has said it so often."""
        wait_until(lambda: self.said().count(what) >= times, f"{what} is said")

    def worker(self, kind: str | None, *options: str, burst: bool = False) -> RQWorker:
        """Start `rq worker`; `kind`: a class of failbetter's, or RQ's own by its path."""
        command = [str(Path(sys.executable).parent / "rq"), "worker", "mail"]
        command += ["--url", self._environment["REDIS"], "--quiet", *options]
        if kind is not None:
            command += ["-w", kind if "." in kind else f"failbetter.rq.{kind}"]
        if burst:
            command.append("--burst")
        log = self.folder / f"worker-{len(self._processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=out, stderr=out
            )
        self._processes.append(process)
        return RQWorker(process, log)

    def drain(self, kind: str | None, *options: str) -> None:
        """Have a worker do what there is to do."""
        worker = self.worker(kind, *options, burst=True)
        assert worker.wait() == 0, worker.log.read_text()

    def maintain(self) -> subprocess.Popen[bytes]:
        """Start `failbetter maintain`."""
        command = [sys.executable, "-m", "failbetter", "-A", "ledger_app:app", "maintain"]
        log = self.folder / "maintain.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=out, stderr=out
            )
        self._processes.append(process)
        return process

    def job(self) -> Job:
        """The only job of RQ's that is in the ledger."""
        (found,) = [job for job in self.app.jobs if job.origin == "rq"]
        return found

    def wait_for(self, condition: Callable[[Job], Any], what: str) -> Job:
        """Wait until the only job is so."""

        def look() -> Job | None:
            found = [job for job in self.app.jobs if job.origin == "rq"]
            return found[0] if found and condition(found[0]) else None

        found = wait_until(look, what)
        assert found is not None
        return found

    def close(self) -> None:
        """End all that runs."""
        for process in self._processes:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            if process.poll() is None:
                process.kill()
            process.wait()
        self.adopter.close()
        self.redis.close()
        self.app.close()


@contextlib.contextmanager
def open_ground(folder: Path, url: str) -> Iterator[RQGround]:
    """A ground on a Redis of its own."""
    with RedisServer.start() as server:
        ground = RQGround(folder, server, url)
        try:
            yield ground
        finally:
            ground.close()
