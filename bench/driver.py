"""The producer's process: one per session, in the interpreter of the system under test.

    python -m bench.driver MODULE

reads one JSON command a line and answers with one JSON line each. MODULE is a system's tasks
module; its `producer` is a `Producer`. Standard library only, besides what MODULE imports.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Producer(Protocol):
    """How a system enqueues, said once by its tasks module."""

    def one(self, body: str) -> Callable[[int], object]:
        """The system's own call that enqueues a job of `body` with the number given."""
        ...

    def bulk(self, body: str) -> Callable[[range], object]:
        """The system's own call for many jobs at once; AttributeError where there is none."""
        ...

    def ended(self, total: int) -> bool:
        """Whether none of the `total` jobs enqueued so far is waiting or running; cheap."""
        ...

    def retry_all(self) -> int:
        """Retry every failed job; how many. AttributeError where there is no such thing."""
        ...

    def fail_all(self) -> None:
        """Make every waiting job one that has failed; AttributeError where a worker does it."""
        ...

    def group(self) -> object:
        """The groups of what has failed; AttributeError where there are none."""
        ...

    def preview(self) -> object:
        """What a retry would do, for `retry_all` to do; AttributeError where there is no such."""
        ...


class Driver:
    """Runs commands against one producer and takes the times."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._total = 0

    def enqueue_one(self, body: str, count: int, first: int = 0) -> dict[str, Any]:
        """Enqueue jobs `first` to `first + count - 1`, one call each."""
        call = self._producer.one(body)
        self._total += count
        begin = time.perf_counter()
        for number in range(first, first + count):
            call(number)
        return {"seconds": time.perf_counter() - begin}

    def enqueue_bulk(self, body: str, count: int, chunk: int, first: int = 0) -> dict[str, Any]:
        """Enqueue as many in calls of `chunk` jobs; one by one where there is no bulk call."""
        if not hasattr(self._producer, "bulk"):
            return self.enqueue_one(body, count, first)
        call = self._producer.bulk(body)
        self._total += count
        begin = time.perf_counter()
        for start in range(first, first + count, chunk):
            call(range(start, min(start + chunk, first + count)))
        return {"seconds": time.perf_counter() - begin}

    def enqueue_paced(self, body: str, count: int, pause: list[float], seed: int) -> dict[str, Any]:
        """Enqueue one job at a time after a random pause; when each call began and returned."""
        call = self._producer.one(body)
        self._total += count
        chance = random.Random(seed)
        called, returned = [], []
        for number in range(count):
            time.sleep(chance.uniform(*pause))
            called.append(time.monotonic_ns())
            call(number)
            returned.append(time.monotonic_ns())
        return {"called": called, "returned": returned}

    def wait_ended(self, timeout: float, every: float) -> dict[str, Any]:
        """Poll until every job enqueued here has ended; when that was first seen, None if not."""
        deadline = time.monotonic() + timeout
        while not self._producer.ended(self._total):
            if time.monotonic() > deadline:
                return {"ns": None, "total": self._total}
            time.sleep(every)
        return {"ns": time.monotonic_ns()}

    def retry_all(self) -> dict[str, Any]:
        """Retry all failed jobs in the system's own way."""
        begin = time.perf_counter()
        count = self._producer.retry_all()
        return {"seconds": time.perf_counter() - begin, "count": count}

    def fail_all(self) -> dict[str, Any]:
        """Make all waiting jobs failed, where the system's producer knows how to."""
        known = hasattr(self._producer, "fail_all")
        if known:
            self._producer.fail_all()
        return {"done": known}

    def timed(self, what: str) -> dict[str, Any]:
        """`group` or `preview`."""
        act = getattr(self._producer, what)
        begin = time.perf_counter()
        act()
        return {"seconds": time.perf_counter() - begin}

    def peak(self) -> dict[str, Any]:
        """The most memory that this process ever took, in MiB."""
        # Not `getrusage`, which also counts what its parent took when it was started.
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return {"mib": int(line.split()[1]) / 1024}


def main() -> None:
    """Serve commands until standard input ends."""
    # Whatever a system prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    driver = Driver(importlib.import_module(sys.argv[1]).producer)
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(driver, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
