"""Stopping: what runs may finish, the rest goes back uncharged, the exit code tells.

Promise 4, B10.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.faults.harness import Site, wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import SideBySide


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_graceful(site: Site, number: int) -> None:
    """Running bodies finish, what only was claimed waits again with nothing charged, exit 0."""
    site.enqueue_many("plain", [(n,) for n in range(100)])
    worker = site.worker(processes=2)
    site.wait_all_over()
    running, gate = site.hold(2)
    for job in running:
        site.log.wait_for("start", job)
    waiting = site.enqueue_many("plain", [(n,) for n in range(100)])
    worker.send(number)
    worker.wait_said("stopping")
    assert worker.alive
    gate.touch()
    assert worker.wait() == 0
    for job in running:
        assert (job.refresh().state, job.row.starts) == ("succeeded", 1)
    for job in waiting:
        row = job.refresh().row
        assert (row.state, row.claimed, row.worker, row.starts) == ("pending", None, None, 0)
        assert row.hand_backs == row.losses == row.crashes == row.attempts == 0
    assert not site.registered()
    site.drain()
    assert {job.refresh().row.starts for job in waiting} == {1}
    site.check()


def test_stops_that_take_a_while(side_by_side: SideBySide) -> None:
    side_by_side(
        timeout_1=functools.partial(shutdown_timeout, concurrency=1),
        timeout_4=functools.partial(shutdown_timeout, concurrency=4),
        abort=second_signal_aborts,
    )


def shutdown_timeout(site: Site, concurrency: int) -> None:
    """Bodies that do not finish in time are interrupted and handed back, charged with nothing.

    Those that are deaf to it, too. With `on_lost="fail"` that is the end instead.
    """
    worker = site.worker(processes=6 // concurrency, concurrency=concurrency, shutdown_timeout=0.5)
    jobs = [site.enqueue("plain", 1, 20.0), site.enqueue("awork", 2, 20.0)]
    jobs.append(site.enqueue("deaf_for", 20.0))
    final = site.enqueue("not_twice", 1, 20.0)
    for job in [*jobs, final]:
        site.log.wait_for("start", job)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - began < 5
    for job in jobs:
        row = job.refresh().row
        assert (row.state, row.attempts, row.crashes, row.losses) == ("pending", 0, 0, 0)
        assert [attempt.cause for attempt in job.attempts] == ["interrupted"]
    assert (final.refresh().state, final.reason) == ("failed", "lost")
    assert not site.leftovers()
    for job in jobs:
        job.cancel()
    site.check()


def second_signal_aborts(site: Site) -> None:
    """The exit code is 128 + n; what ran is handed back uncharged and runs again."""
    worker = site.worker(processes=2)
    jobs, gate = site.hold(2)
    for job in jobs:
        site.log.wait_for("start", job)
    worker.send(signal.SIGTERM)
    worker.wait_said("stopping")
    began = time.monotonic()
    worker.send(signal.SIGINT)
    assert worker.wait() == 128 + signal.SIGINT
    assert time.monotonic() - began < 2
    for job in jobs:
        row = job.refresh().row
        assert (row.state, row.attempts, row.crashes, row.losses) == ("pending", 0, 0, 0)
    gate.touch()
    site.drain()
    assert {job.refresh().state for job in jobs} == {"succeeded"}
    site.check()


def test_signal_to_everybody(site: Site) -> None:
    """A SIGTERM to the whole control group, and to children alone, ends no body."""
    worker = site.worker(processes=2)
    jobs = site.enqueue_many("plain", [(n, 0.5) for n in range(2)])
    for job in jobs:
        site.log.wait_for("start", job)
    for child in worker.children():
        child.terminate()
        child.send_signal(signal.SIGINT)
    quick = site.enqueue("plain", 5)
    site.wait_over([*jobs, quick])
    held, gate = site.hold(2)
    for job in held:
        site.log.wait_for("start", job)
    for process in [*worker.children(), psutil.Process(worker.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    worker.wait_said("stopping")
    gate.touch()
    assert worker.wait() == 0
    for job in [*jobs, quick, *held]:
        assert (job.refresh().state, job.row.starts) == ("succeeded", 1)
    site.check()


def test_programs_that_bodies_start_hear_signals(site: Site) -> None:
    """What protects a child from SIGTERM is not inherited by the programs that its body starts."""
    job = site.enqueue("run_program", ["sh", "-c", "kill -TERM $$; sleep 5"])
    site.drain()
    assert job.result(0) == -signal.SIGTERM


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_stopped_while_starting(site: Site, pause: float) -> None:
    """A signal at any moment of the start: exit 0 (or by the signal, before Python hears it)."""
    job = site.enqueue("plain", 1)
    worker = site.worker(ready=False, processes=2)
    time.sleep(pause)  # the moment is what is tested
    worker.send(signal.SIGTERM)
    assert worker.wait(10) in (0, -signal.SIGTERM)
    wait_until(lambda: not site.leftovers(), "the children to be gone", 3.0)
    site.drain()
    assert (job.refresh().state, job.row.starts) == ("succeeded", 1)
    site.check()
