"""Real Celery workers on a real broker, a ledger, and a maintainer beside them.

What bodies did they write into a file that no failbetter code touches.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
import psutil
from tests.faults.harness import wait_until
from tests.servers import rabbitmq
from tests.servers.redis import RedisServer

import failbetter
from failbetter.engines.celery import Celery as CeleryEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from failbetter.job import Job

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

MODULE = """
import os, re, subprocess, time
import celery, psutil
import failbetter

celery_app = celery.Celery("jobs", broker=os.environ["BROKER"])
# What an application may well have set for its own tasks, and what ours must not take over.
celery_app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=2,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": int(os.environ.get("VISIBILITY", "3600"))}
    if os.environ["BROKER"].startswith("redis") else {},
)
app = failbetter.App(os.environ["LEDGER"], engine=failbetter.Celery(celery_app), lease=2)


def say(what):
    job = failbetter.current_job()
    line = f"{job.id} {job.attempt} {os.getpid()} {what}\\n"
    handle = os.open(os.environ["CELERY_SITE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, line.encode())
    os.close(handle)


@app.task
def add(a, b):
    say("start")
    return a + b

@app.task(max_attempts=2, backoff=failbetter.fixed(0.1))
def fail():
    say("start")
    raise ValueError("no")

@app.task(max_crashes=2)
def die():
    say("start")
    os.kill(os.getpid(), 9)

@app.task(max_crashes=2)
def hold(gate):
    say("start")
    while not os.path.exists(gate):
        time.sleep(0.02)
    say("end")

@app.task(max_crashes=2)
def leave_behind(note):
    say("start")
    if failbetter.current_job().attempt == 1:
        copy = subprocess.Popen(["sleep", "1000"])
        with open(note, "w") as file:
            file.write(str(copy.pid))
        os.kill(os.getpid(), 9)
    try:
        return psutil.Process(int(open(note).read())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

@app.task(timeout=1, max_attempts=1)
def holds_the_interpreter():
    say("start")
    re.match("(a+)+$", "a" * 40 + "b")

@app.task
def sleep(seconds):
    say("start")
    time.sleep(seconds)
    say("end")
"""

# As `failbetter maintain`, but it gives up sooner on what may be lost.
IMPATIENT = """
import sys
from failbetter.engines import lost
from failbetter.worker import dispatch, maintain
lost.GRACE, dispatch.LOST_AFTER, dispatch._LOOK_FOR_LOST = 1.0, 1.0, 0.5
sys.exit(maintain.main(maintain.Settings(app="jobs:app")))
"""


class Broker:
    """What carries Celery's messages: Redis or RabbitMQ, private."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server: Any
        if kind == "redis":
            self.server = RedisServer.start(password="s3cret")
            self.url = self.server.url
        else:
            self.server = rabbitmq.shared_server()
            self.url = self.server.new_url()

    def lose_all(self) -> None:
        """Kill it and have it come back with nothing."""
        if self.kind == "redis":
            self.server.kill()
            self.server.start_again()
        else:
            self.server.wipe()

    def close(self) -> None:
        if self.kind == "redis":
            self.server.close()
        elif not self.server.running:
            self.server.start_again()


class Process:
    """A worker, or what maintains."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self.output = process, output

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_said(self, words: str) -> None:
        wait_until(lambda: words in self.text() or self.process.poll() is not None, words, PATIENCE)
        assert words in self.text(), self.text()[-3000:]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill_all(self) -> None:
        """SIGKILL to it and to its children, as when a machine's memory runs out."""
        for process in [psutil.Process(self.process.pid), *self.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class CelerySite:
    """A folder with an app's module, a ledger, a broker, workers."""

    def __init__(self, folder: Path, broker: Broker, url: str) -> None:
        self.folder, self.broker = folder, broker
        self.log = folder / "bodies"
        self.environment = {
            **os.environ,
            "BROKER": broker.url,
            "LEDGER": url,
            "CELERY_SITE": str(self.log),
            "FAILBETTER_APP": "jobs:app",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
        }
        (folder / "jobs.py").write_text(MODULE)
        self.celery_app = celery.Celery("jobs", broker=broker.url, set_as_current=False)
        self.engine = CeleryEngine(self.celery_app)
        self.app = failbetter.App(url, engine=self.engine, lease=2)
        self.app.database.ensure_schema()
        self.processes: list[Process] = []
        self._declare()

    def _declare(self) -> None:
        """The same tasks, with what of their policy is written when they are enqueued."""
        app = self.app

        @app.task
        def add(a: int, b: int) -> int: ...

        @app.task(max_attempts=2, backoff=failbetter.fixed(0.1))
        def fail() -> None: ...

        @app.task(max_crashes=2)
        def die() -> None: ...

        @app.task(max_crashes=2)
        def hold(gate: str) -> None: ...

        @app.task(max_crashes=2)
        def leave_behind(note: str) -> bool: ...

        @app.task(timeout=1, max_attempts=1)
        def holds_the_interpreter() -> None: ...

        @app.task
        def sleep(seconds: float) -> None: ...

    def enqueue(self, task: str, *args: Any) -> Job:
        return self.app.tasks[task].enqueue(*args)

    def enqueue_many(self, task: str, calls: Iterable[tuple[Any, ...]]) -> list[Job]:
        return self.app.tasks[task].enqueue_many(calls)

    # -- processes

    def _start(self, command: list[str], **more: str) -> Process:
        output = self.folder / f"process-{len(self.processes)}.log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**self.environment, **more},
                cwd=self.folder,
                start_new_session=True,
            )
        self.processes.append(Process(process, output))
        return self.processes[-1]

    def worker(
        self,
        pool: str = "prefork",
        concurrency: int = 2,
        *,
        ready: bool = True,
        celery_app: str = "jobs:celery_app",
        options: Sequence[str] = (),
        **more: str,
    ) -> Process:
        """An ordinary Celery worker of the queue `default`."""
        found = self._start(
            ["-m", "celery", "-A", celery_app, "worker", "--pool", pool,
             "--concurrency", str(concurrency), "--queues", "default", "--loglevel", "INFO",
             "--hostname", f"w{len(self.processes)}@test", "--without-gossip",
             "--without-mingle", *options],
            **more,
        )  # fmt: skip
        if ready:
            found.wait_said(" ready.")
        return found

    def maintain(self, *, impatient: bool = False) -> Process:
        """What runs beside workers that are not failbetter's own."""
        command = ["-c", IMPATIENT] if impatient else ["-m", "failbetter", "maintain"]
        found = self._start(command)
        found.wait_said("maintaining as")
        return found

    # -- what happened

    def said(self, what: str, job: Job) -> list[int]:
        """The processes of the bodies of `job` that said it."""
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text().splitlines():
            number, _, pid, word = line.split(" ")
            if (number, word) == (job.id, what):
                found.append(int(pid))
        return found

    def wait_said(self, what: str, job: Job, times: int = 1) -> int:
        """Wait until bodies of `job` said it so many times; the last one's process."""
        self.wait(lambda: len(self.said(what, job)) >= times, f"{what} of {job.id}")
        return self.said(what, job)[-1]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; if in vain, show what the processes have said."""
        try:
            wait_until(condition, what, PATIENCE)
        except AssertionError as error:
            said = "\n".join(f"{one.output.name}:\n{one.text()[-2500:]}" for one in self.processes)
            raise AssertionError(f"{error}\n{said}") from None

    def wait_over(self, *jobs: Job) -> None:
        """Wait until these have come to their ends."""
        self.wait(lambda: all(job.refresh().over for job in jobs), f"{len(jobs)} jobs to end")

    def close(self) -> None:
        """Kill all that is left, whatever state it is in."""
        mine = str(self.log)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("CELERY_SITE") == mine:
                    process.kill()
        for one in self.processes:
            one.process.wait(PATIENCE)
        self.app.close()
        self.engine.close()


@contextlib.contextmanager
def open_site(folder: Path, kind: str, url: str) -> Iterator[CelerySite]:
    """A site on a broker of that kind and that ledger, which leaves no process behind."""
    broker = Broker(kind)
    try:
        site = CelerySite(folder, broker, url)
        try:
            yield site
        finally:
            site.close()
    finally:
        broker.close()
