"""One system on an empty store, with its producer and its workers, for one measurement."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.marks import FILE, STRIDE, Mark
from bench.marks import read as read_marks
from bench.processes import Worker, clean_environment
from bench.systems.base import System

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 5


class Session:
    """What measures use; every system behaves alike behind it."""

    def __init__(self, system: System, folder: Path, stride: int) -> None:
        self.system = system
        self.folder = folder
        self._marks = folder / "marks"
        self._env = clean_environment(
            {
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                FILE: str(self._marks),
                STRIDE: str(stride),
                **system.environment(folder),
            }
        )
        self.workers: list[Worker] = []
        self._driver = self._start_driver()
        self._answer()

    def _start_driver(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.system.python), "-m", "bench.driver", self.system.tasks],
            env=self._env, cwd=ROOT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(self.folder / "driver.log").open("w"),
        )  # fmt: skip

    def renew_producer(self) -> None:
        """Go on with a new process, which has done nothing yet."""
        self._stop_driver()
        self._driver = self._start_driver()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            log = (self.folder / "driver.log").read_text().strip().splitlines()
            raise RuntimeError(f"the producer died: {' | '.join(log[-3:])}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._driver.stdin is not None
        print(json.dumps({"do": do, **arguments}), file=self._driver.stdin, flush=True)
        return self._answer()

    def warm_up(self, body: str = "noop") -> None:
        """A few jobs first, so that connections and tables are made before a clock runs."""
        self._ask("enqueue_one", body=body, count=WARM_UP, first=-WARM_UP)

    def enqueue_one(self, body: str, count: int) -> float:
        """Enqueue `count` jobs one by one; seconds."""
        return float(self._ask("enqueue_one", body=body, count=count)["seconds"])

    def enqueue_bulk(self, body: str, count: int, chunk: int) -> float:
        """Enqueue `count` jobs, `chunk` a call; seconds."""
        return float(self._ask("enqueue_bulk", body=body, count=count, chunk=chunk)["seconds"])

    def enqueue_paced(
        self, body: str, count: int, pause: tuple[float, float], seed: int
    ) -> tuple[list[int], list[int]]:
        """Enqueue jobs after random pauses in seconds; when calls began and returned, in ns."""
        answer = self._ask("enqueue_paced", body=body, count=count, pause=pause, seed=seed)
        return answer["called"], answer["returned"]

    def retry_all(self) -> tuple[float, int]:
        """Retry what has failed; seconds and how many jobs."""
        answer = self._ask("retry_all")
        return answer["seconds"], answer["count"]

    def fail_all(self) -> bool:
        """Make all waiting jobs failed; False where only a worker can."""
        return bool(self._ask("fail_all")["done"])

    def timed(self, what: str) -> float:
        """`group` or `preview` what has failed; seconds."""
        return float(self._ask("timed", what=what)["seconds"])

    def peak(self) -> float:
        """The most memory that the producer ever took, in MiB."""
        return float(self._ask("peak")["mib"])

    def start_workers(self, workers: int = 1, processes: int = 1) -> None:
        """Start workers as a user would: `workers` commands of `processes` processes each."""
        for _ in range(workers):
            log = self.folder / f"worker-{len(self.workers)}.log"
            command = self.system.worker_command(processes)
            self.workers.append(Worker(command, self._env, log))

    def stop_workers(self) -> None:
        """Stop every worker."""
        while self.workers:
            self.workers.pop().stop()

    def wait_ended(self, timeout: float = 300.0, every: float = 0.005) -> int:
        """Wait until all jobs have ended; when that was seen, in ns, to within `every` seconds."""
        deadline = time.monotonic() + timeout
        while (answer := self._ask("wait_ended", timeout=1.0, every=every))["ns"] is None:
            for worker in self.workers:
                worker.check()
            if time.monotonic() > deadline:
                logs = "; ".join(worker.tail() for worker in self.workers)
                raise RuntimeError(f"{answer['total']} jobs had not ended in {timeout:g} s; {logs}")
        return int(answer["ns"])

    def marks(self) -> list[Mark]:
        """What the bodies noted."""
        return read_marks(self._marks)

    def wait_marks(self, count: int, timeout: float = 60.0) -> list[Mark]:
        """Wait for at least `count` marks."""
        deadline = time.monotonic() + timeout
        while len(found := self.marks()) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(found)} of {count} bodies ran in {timeout:.0f} s")
            for worker in self.workers:
                worker.check()
            time.sleep(0.01)
        return found

    def close(self) -> None:
        """Stop everything that was started."""
        self.stop_workers()
        self._stop_driver()

    def _stop_driver(self) -> None:
        assert self._driver.stdin is not None
        self._driver.stdin.close()
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()


@contextmanager
def open_session(system: System, work: Path, stride: int = 0) -> Iterator[Session]:
    """A session on a store made new in a folder of its own under `work`, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{system.key}-", dir=work))
    try:
        system.prepare(folder)
        session = Session(system, folder, stride)
        try:
            yield session
        finally:
            session.close()
    finally:
        system.forget(folder)
        shutil.rmtree(folder, ignore_errors=True)
