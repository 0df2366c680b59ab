"""What is on record of a death, when it was a real one: promise 5, row D6."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.faults.conftest import on_sqlite
from tests.faults.harness import WORKER, Site, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
_LIMIT = 200 << 20


@pytest.fixture
def new_ledger() -> Callable[[Path], str]:
    """Of what kind the ledger is makes no difference to how a process dies."""
    return on_sqlite


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A cgroup with little memory, which a process may join."""
    v2 = (_V2 / "cgroup.controllers").is_file()
    group = (_V2 if v2 else _V1) / f"failbetter-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(_LIMIT))
        with contextlib.suppress(OSError):  # without swap there is no such file
            swap = group / ("memory.swap.max" if v2 else "memory.memsw.limit_in_bytes")
            swap.write_text("0" if v2 else str(_LIMIT))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup to be empty")
    group.rmdir()


def test_killed_for_memory_by_the_kernel(site: Site, small_memory: Path) -> None:
    """Who says so is on record; and how much it had."""
    join = f'echo $$ > {small_memory}/cgroup.procs && exec "$@"'
    site.worker(command=("sh", "-c", join, "sh", *WORKER))
    job = site.enqueue("devour")
    site.wait_over([job])
    assert (job.state, job.reason) == ("failed", "crashed")
    (attempt,) = job.attempts
    found = attempt.evidence
    assert found["out_of_memory"] is True
    assert found["known_by"] in (
        "the kernel's log names the process",
        "the counter of kills of its cgroup rose",
    )
    assert found["signal_name"] == "SIGKILL"
    assert _LIMIT / 2 < found["peak_memory"] < 2 * _LIMIT
    for worker in site.workers:
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    site.check()


def test_killed_by_somebody(site: Site) -> None:
    """That memory ran out is said of nobody else; and how far the job had come is."""
    worker = site.worker()
    job = site.enqueue("counted", 3, 10)
    body = site.log.wait_for("counted", job).pid
    wait_until(lambda: job.progress is not None and job.progress.done == 3, "its progress")
    psutil.Process(body).kill()
    site.wait_over([job])
    found = job.attempts[0].evidence
    assert "out_of_memory" not in found
    assert found["signal_name"] == "SIGKILL"
    assert found["checkpoint"] == {"done": 3, "failed": 0, "total": 10}
    assert found["peak_memory"] > 5 << 20
    worker.kill()
    site.check()


def test_interrupted_by_a_deploy(site: Site) -> None:
    """A body that does not end in time goes on in the next worker, and that is no failure."""
    worker = site.worker(shutdown_timeout=0)
    job = site.enqueue("counted", 4, 10)
    site.log.wait_for("counted", job)
    wait_until(lambda: job.progress is not None and job.progress.done == 4, "its progress")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    job.refresh()
    (attempt,) = job.attempts
    assert (attempt.cause, attempt.state) == ("interrupted", "pending")
    assert attempt.evidence["checkpoint"] == {"done": 4, "failed": 0, "total": 10}
    assert job.row.crashes == job.row.losses == 0
    site.drain()
    site.check()
