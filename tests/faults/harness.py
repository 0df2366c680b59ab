"""Real workers on a real ledger: start them, hurt them, wait for what must follow.

Nothing here sleeps to be safe. A test waits for a condition that it polls, with a deadline that is
far beyond what the condition takes, and fails with what it saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from tests.faults import promises
from tests.faults.apps import LOG, make_app

from failbetter import ids
from failbetter.ledger import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from failbetter import Job

ROOT = Path(__file__).parents[2]
APP = "tests.faults.served:app"
WORKER = (sys.executable, "-m", "failbetter.worker")
PATIENCE = 30.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Poll until `condition` gives something true, and return that; fail after `patience` (s)."""
    limit = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > limit:
            raise AssertionError(f"waited {patience:g} s in vain for: {what}")
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Entry:
    """One line that a body wrote. `at`: monotonic seconds, the same clock in every process."""

    at: float
    job: str
    attempt: int
    pid: int
    what: str


class BodyLog:
    """What bodies wrote of themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def entries(self, what: str | None = None, job: Job | None = None) -> list[Entry]:
        """All lines in the order of writing; only those that say `what`, only those of `job`."""
        found = []
        for line in self.path.read_text().splitlines():
            at, number, attempt, pid, said = line.split(" ", 4)
            if (what is None or said == what) and (job is None or number == job.id):
                found.append(Entry(int(at) / 1e9, number, int(attempt), int(pid), said))
        return found

    def starts(self, job: Job) -> list[Entry]:
        """The bodies of `job` that began."""
        return self.entries("start", job)

    def wait_for(self, what: str, job: Job, times: int = 1, patience: float = PATIENCE) -> Entry:
        """Wait until bodies of `job` said `what` so many times; the last line that did."""
        return wait_until(
            lambda: len(found := self.entries(what, job)) >= times and found,
            f"{times} times {what!r} from {job.id}",
            patience,
        )[-1]

    def by_job(self) -> dict[str, list[Entry]]:
        """The lines of each job."""
        found = defaultdict(list)
        for entry in self.entries():
            found[entry.job].append(entry)
        return found


@dataclass
class Worker:
    """A real worker process."""

    process: subprocess.Popen[bytes]
    output: Path
    started: float
    """Monotonic seconds."""
    frozen: list[psutil.Process] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        """What it has logged so far."""
        return self.output.read_text(errors="replace")

    def said(self, pattern: str) -> bool:
        """Whether its log matches the pattern."""
        return re.search(pattern, self.text()) is not None

    def wait_said(self, pattern: str, patience: float = PATIENCE) -> None:
        """Wait until its log matches the pattern."""
        wait_until(lambda: self.said(pattern), f"{pattern!r} in {self.output}", patience)

    def children(self) -> list[psutil.Process]:
        """Its living child processes."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid).children()
            return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]
        return []

    def send(self, number: int) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the supervisor, and see it gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def freeze(self, *, children: bool = False) -> None:
        """SIGSTOP to the supervisor, and to its children when asked."""
        self.frozen = self.children() if children else []
        for process in [psutil.Process(self.pid), *self.frozen]:
            process.suspend()

    def thaw(self) -> None:
        """SIGCONT to all that `freeze` stopped."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.frozen.append(psutil.Process(self.pid))
        for process in self.frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.frozen = []

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; its exit code (negative: minus the signal)."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the worker did not end in {patience:g} s; it said:\n{self.text()[-4000:]}"
            ) from None


class Site:
    """A ledger with its tasks, its workers and the record of what bodies did."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.app = make_app(url)
        self.log = BodyLog(folder / "bodies.log")
        self.workers: list[Worker] = []
        self.accepted: list[str] = []
        self.seed = int(os.environ.get("FAILBETTER_TEST_SEED") or time.time_ns() % 1_000_000)
        print(f"FAILBETTER_TEST_SEED={self.seed}")
        self._helpers: list[subprocess.Popen[bytes]] = []

    # -- jobs

    def enqueue(self, name: str, *args: Any, using: dict[str, Any] | None = None) -> Job:
        """Enqueue a job of the task of that name."""
        job = self.app.tasks[name].using(**(using or {})).enqueue(*args)
        self.accepted.append(job.id)
        return job

    def enqueue_many(
        self, name: str, calls: Iterable[tuple[Any, ...]], using: dict[str, Any] | None = None
    ) -> list[Job]:
        """Enqueue a job for each tuple of arguments."""
        made = self.app.tasks[name].using(**(using or {})).enqueue_many(calls)
        self.accepted += [job.id for job in made]
        return made

    def hold(self, count: int) -> tuple[list[Job], Path]:
        """So many jobs, each with a body that runs until the returned file is made."""
        gate = self.folder / f"gate-{len(self.accepted)}"
        return self.enqueue_many("hold", [(str(gate),)] * count), gate

    def wait_over(self, jobs: Iterable[Job], patience: float = PATIENCE) -> None:
        """Wait until all these jobs have come to their ends."""
        left = list(jobs)

        def none_left() -> bool:
            left[:] = [job for job in left if not job.refresh().over]
            return not left

        try:
            wait_until(none_left, "jobs to end", patience)
        except AssertionError as error:
            seen = [(job.id, job.task, job.state, job.waiting_for()) for job in left[:5]]
            text = f"{error}; {len(left)} are left, such as {seen}\n{self._tails()}"
            raise AssertionError(text) from None

    def wait_all_over(self, patience: float = PATIENCE) -> None:
        """Wait until no job is live."""
        live = [self.app.jobs.where(state=state) for state in ("pending", "running")]
        try:
            wait_until(lambda: not any(one.count() for one in live), "the ledger's jobs", patience)
        except AssertionError as error:
            seen = [(job.id, job.task, job.state, job.waiting_for()) for job in live[0].limit(5)]
            seen += [(job.id, job.task, job.state, job.waiting_for()) for job in live[1].limit(5)]
            raise AssertionError(f"{error}; left: {seen}\n{self._tails()}") from None

    def _tails(self) -> str:
        """The last that the last workers said."""
        return "\n".join(worker.text()[-1500:] for worker in self.workers[-2:])

    def check(self, *, retried: Iterable[Job] = (), lost_claims: bool = False) -> None:
        """Hold the ledger against the promises and against what bodies did."""
        promises.check(
            self.app,
            self.log,
            accepted=self.accepted,
            retried={job.id for job in retried},
            lost_claims=lost_claims,
        )

    # -- workers

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process of this site."""
        found = dict(os.environ)
        found.update(
            FAILBETTER_URL=self.url,
            PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            PYTHONUNBUFFERED="1",
            **{LOG: str(self.log.path)},
        )
        found.update(more)
        return found

    def worker(
        self,
        *,
        fault: str | None = None,
        lease: float | None = None,
        env: dict[str, str] | None = None,
        ready: bool = True,
        command: Sequence[str] = WORKER,
        **settings: Any,
    ) -> Worker:
        """Start a worker; return when it may claim, or at once without `ready`.

        `settings`: as `failbetter.worker.settings.Settings` has them. `fault`: `point:N`.
        `command`: what takes these settings and becomes the worker, for one in another place.
        """
        more = dict(env or {})
        if fault is not None:
            more["FAILBETTER_FAULT"] = fault
        if lease is not None:
            more["FAILBETTER_LEASE"] = str(lease)
        output = self.folder / f"worker-{len(self.workers)}.log"
        with output.open("wb") as sink:
            started = time.monotonic()
            process = subprocess.Popen(
                [*command, json.dumps({"app": APP, **settings})],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=self.environment(**more),
                cwd=self.folder,
                start_new_session=True,
            )
        worker = Worker(process, output, started)
        self.workers.append(worker)
        if ready:
            wait_until(
                lambda: not worker.alive or worker.pid in self.registered(), "a worker to register"
            )
        return worker

    def registered(self) -> set[int]:
        """The process ids of the workers that the ledger knows."""
        with self.app.database.look() as tx:
            return {worker.pid for worker in registry.all_workers(tx)}

    def drain(self, patience: float = 60.0, **settings: Any) -> Worker:
        """Run a worker until nothing is left to do."""
        worker = self.worker(drain=True, ready=False, **settings)
        code = worker.wait(patience)
        assert code == 0, f"the worker ended with {code}:\n{worker.text()[-4000:]}"
        return worker

    def python(self, script: str, *args: object, **more: str) -> subprocess.Popen[bytes]:
        """Start a Python script on this site; `app` and `record_accepted(job)` are there."""
        process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + script, *map(str, args)],
            env=self.environment(**more),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._helpers.append(process)
        return process

    def output_of(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Wait for a script's end, which must be a good one; the lines it printed."""
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        return out.decode().splitlines()

    # -- the end

    def leftovers(self) -> list[psutil.Process]:
        """Living processes that belong to this site, of whatever parent."""
        mine = str(self.log.path)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(LOG) == mine:
                    found.append(process)
        return found

    def close(self) -> None:
        """Kill all that is left, whatever state it is in."""
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for started in [*(worker.process for worker in self.workers), *self._helpers]:
            started.wait(PATIENCE)
            for pipe in (started.stdout, started.stderr):
                if pipe is not None:
                    pipe.close()
        self.app.close()


_PRELUDE = """
import os, sys, time
from tests.faults.served import app
def record_accepted(job, path=os.environ["FAILBETTER_TEST_BODIES"] + ".accepted"):
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{job.id}\\n".encode())
    os.close(handle)
"""


def accepted_by_others(site: Site) -> list[str]:
    """The ids that `record_accepted` wrote in other processes."""
    path = Path(f"{site.log.path}.accepted")
    return path.read_text().split() if path.exists() else []


@contextlib.contextmanager
def open_site(url: str, folder: Path) -> Iterator[Site]:
    """A site that leaves no process behind."""
    site = Site(url, folder)
    try:
        yield site
    finally:
        site.close()


def number_of(job: Job) -> int:
    """The job's id as the ledger has it."""
    return ids.from_text(job.id)
