"""A site whose jobs run in RQ's workers: real `rq` commands over a real Redis."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
from rq import Queue
from tests.faults.apps import hold, make_app
from tests.faults.harness import Site, Worker, wait_until

import failbetter
from failbetter.engine import Ticket
from failbetter.engines.rq import rq_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tests.servers.redis import RedisServer

    from failbetter import Job

RQ_APP = "tests.faults.served_rq:app"
REDIS = "FAILBETTER_TEST_REDIS"
"""Names the variable that says where the engine's Redis is."""
OURS = "failbetter.rq.Worker"
SIMPLE = "rq.worker.SimpleWorker"
OUR_SIMPLE = "failbetter.rq.SimpleWorker"


class RQSite(Site):
    """As `Site`; `rq` starts RQ's workers, `maintain` what sweeps and dispatches."""

    def __init__(self, url: str, folder: Path, server: RedisServer) -> None:
        super().__init__(url, folder)
        self.app.close()
        self.server = server
        self.engine = failbetter.RQ(server.url)
        self.app = make_app(url, self.engine)
        self.app.task(name="hold_for_ever", timeout=None)(hold)

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(
            **{"FAILBETTER_APP": RQ_APP, REDIS: self.server.url, "FAILBETTER_LEASE": "2", **more}
        )

    def rq(
        self,
        worker_class: str | None = None,
        *,
        options: Sequence[str] = (),
        command: str = "worker",
        queues: Sequence[str] = ("default",),
        ready: bool = True,
        **more: str,
    ) -> Worker:
        """Start `rq worker`, or another of its commands; return when it waits for jobs."""
        named = () if worker_class is None else ("-w", worker_class)
        line = [sys.executable, "-m", "rq.cli", command, "-u", self.server.url, *named]
        worker = self._start([*line, *options, *queues], f"rq-{len(self.workers)}", **more)
        if ready:
            worker.wait_said("Listening on|Starting worker pool")
        return worker

    def maintain(self, **more: str) -> Worker:
        """Start `failbetter maintain`; return when it sweeps."""
        line = [sys.executable, "-m", "failbetter.worker.maintain", json.dumps({"app": RQ_APP})]
        worker = self._start(line, f"maintain-{len(self.workers)}", **more)
        worker.wait_said("maintaining as")
        return worker

    def _start(self, command: Sequence[str], name: str, **more: str) -> Worker:
        output = self.folder / f"{name}.log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                env=self.environment(**more), cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        worker = Worker(process, output, time.monotonic())
        self.workers.append(worker)
        return worker

    def wait_over(self, jobs: Iterable[Job], patience: float = 90.0) -> None:
        """As it says; a plain horse loads all of the app for each job, which takes its time."""
        super().wait_over(jobs, patience)

    def horse_of(self, job: Job, attempt: int = 1) -> psutil.Process:
        """The process in which the job's body runs, once it has begun."""
        return psutil.Process(self.log.wait_for("start", job, attempt).pid)

    def wait_state(self, job: Job, state: str, patience: float = 30.0) -> Job:
        """Wait until the ledger says so of the job."""
        wait_until(lambda: job.refresh().state == state, f"{job.id} to be {state}", patience)
        return job

    def wait_attempts(
        self, job: Job, count: int, patience: float = 30.0
    ) -> list[failbetter.Attempt]:
        """Wait until so many of its attempts have ended."""
        wait_until(lambda: len(job.attempts) >= count, f"{count} attempts of {job.id}", patience)
        return job.attempts

    def waiting(self, queue: str = "default") -> list[str]:
        """The ids of RQ's jobs in that queue."""
        with self.server.connect() as client:
            return Queue(queue, connection=client).job_ids

    def close(self) -> None:
        super().close()
        self.engine.close()


def ticket_of(job: Job, fence: int = 0) -> Ticket:
    """What was sent of a job."""
    return Ticket(failbetter.ids.from_text(job.id), fence, job.task, job.queue, 0, None)


__all__ = ["RQSite", "rq_id", "ticket_of"]


@contextlib.contextmanager
def open_rq_site(url: str, folder: Path, server: RedisServer) -> Iterator[RQSite]:
    """A site that leaves no process behind."""
    site = RQSite(url, folder, server)
    try:
        yield site
    finally:
        site.close()
