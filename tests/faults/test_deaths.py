"""Bodies that end in ways no body should: each leaves a cause and a reason, the worker goes on.

The rows "the job's process is killed", "worker and all its children are killed" and "exception
whose `str()` raises …" of the comparison with today's systems; promises 2, 4 and 5; C2, D6.
"""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults import promises
from tests.faults.harness import Site, wait_until

import failbetter
from failbetter.ledger import registry

if TYPE_CHECKING:
    from failbetter import Job

# Task, arguments, the end (or ends) that it must come to, and what its error must say.
ODD_ENDS: list[tuple[str, tuple[Any, ...], set[str], str]] = [
    ("system_exit", (0,), {"failed/error"}, "SystemExit"),
    ("system_exit", (3,), {"failed/error"}, "SystemExit"),
    ("async_system_exit", (3,), {"failed/error"}, "SystemExit"),
    ("keyboard_interrupt", (), {"failed/error"}, "KeyboardInterrupt"),
    ("async_cancelled", (), {"failed/error"}, "CancelledError"),
    ("unspeakable", (), {"failed/error"}, "Unspeakable.*cannot be shown"),
    ("vicious", (), {"failed/error"}, "Vicious.*cannot be shown"),
    ("unpicklable", (), {"failed/error"}, "Unpicklable.*a fine message"),
    ("endless_recursion", (), {"failed/error"}, "RecursionError"),
    ("huge_message", (), {"failed/error"}, "ValueError"),
    ("out_of_memory", (), {"failed/error"}, "MemoryError"),
    ("unstorable", (), {"succeeded/None"}, "result missing"),
    ("endless_result", (), {"succeeded/None"}, "result missing"),
    ("too_large", (), {"succeeded/None"}, "result missing"),
    ("fork_without_exit", (), {"succeeded/None"}, ""),
    ("fork_and_raise", (), {"succeeded/None"}, ""),
    ("fork_and_exit", (), {"succeeded/None"}, ""),
    ("fork_and_leave_behind", (), {"succeeded/None"}, ""),
]
DEATHS: list[tuple[str, tuple[Any, ...], set[str], str]] = [
    ("segfault", (), {"failed/crashed"}, "killed by signal 11"),
    ("leave", (0,), {"failed/crashed"}, "exited with code 0"),
    ("leave", (7,), {"failed/crashed"}, "exited with code 7"),
    ("close_everything", (), {"failed/crashed"}, "ProcessDied"),
    ("out_of_memory_for_good", (), {"failed/crashed", "failed/error"}, "MemoryError|ProcessDied"),
    ("die_at_first", (signal.SIGKILL, 2), {"succeeded/None"}, "killed by signal 9"),
    ("die_at_first", (signal.SIGABRT, 1), {"succeeded/None"}, "killed by signal 6"),
    ("fork_then_die", (True,), {"succeeded/None"}, "killed by signal 9"),
]


def enqueue_all(
    site: Site, table: list[tuple[str, tuple[Any, ...], set[str], str]]
) -> tuple[list[Job], list[Job]]:
    """A job for each line, and healthy ones in between."""
    jobs, healthy = [], []
    for name, args, _, _ in table:
        jobs.append(site.enqueue(name, *args))
        healthy += site.enqueue_many("plain", [(1, 0.02), (2,)])
    return jobs, healthy


def told_of(job: Job) -> str:
    """All that the ledger tells of a job's troubles, on one line."""
    said = [job.note, job.error_type, job.error_message]
    for attempt in job.attempts:
        said += [attempt.cause, attempt.error_type, attempt.error_message]
    return " ".join(str(one) for one in said if one).replace("\n", " ")


def verify(jobs: list[Job], table: list[tuple[str, tuple[Any, ...], set[str], str]]) -> None:
    wrong = []
    for job, (name, args, ends, words) in zip(jobs, table, strict=True):
        found = f"{job.refresh().state}/{job.reason}"
        if found not in ends or not re.search(words, told_of(job)):
            wrong.append(f"{name}{args}: {found}: {told_of(job)[:300]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_odd_ends(site: Site, concurrency: int) -> None:
    """Bodies that raise, return or fork what they should not: recorded, and no child dies of it."""
    jobs, healthy = enqueue_all(site, ODD_ENDS)
    worker = site.drain(processes=2, concurrency=concurrency)
    verify(jobs, ODD_ENDS)
    assert all(job.refresh().state == "succeeded" for job in healthy)
    assert not worker.said(r"child \d+ (killed|exited)")
    site.check()
    wait_until(lambda: not site.leftovers(), "what bodies left behind to be gone", 3.0)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_deaths(site: Site, concurrency: int) -> None:
    """Bodies that take their process with them: cause, evidence, end; neighbours succeed."""
    table = DEATHS
    if concurrency > 1:  # then one may die of what another does
        table = [(*line[:3], "ProcessDied|MemoryError") for line in DEATHS]
    jobs, healthy = enqueue_all(site, table)
    site.drain(processes=2, concurrency=concurrency)
    verify(jobs, table)
    assert all(job.refresh().state == "succeeded" for job in healthy)
    assert all(job.row.crashes == 0 for job in healthy)
    if concurrency == 1:
        assert all(job.row.starts == 1 for job in healthy)
    site.check()
    check_no_copy_beside(site, jobs[-1])
    wait_until(lambda: not site.leftovers(), "what bodies left behind to be gone", 3.0)


def check_no_copy_beside(site: Site, job: Job) -> None:
    """The fork of a dead body was gone before the body's next attempt began."""
    copies = [entry.at for entry in site.log.entries("copy lives", job)]
    assert max(copies, default=0) < site.log.starts(job)[1].at


def test_fork_outlives_worker(site: Site) -> None:
    """Promise 4: what a body of a killed worker forked is killed before the job is handed back."""
    first = site.worker()
    job = site.enqueue("fork_then_die", False)
    site.log.wait_for("copy lives", job)
    first.kill()
    assert site.leftovers(), "the copy went with its parents: this shows nothing"
    second = site.worker()
    site.wait_over([job])
    assert (job.state, job.row.losses) == ("succeeded", 1)
    check_no_copy_beside(site, job)
    second.kill()
    wait_until(lambda: not site.leftovers(), "the copy to be gone", 3.0)
    site.check()


def test_killed_from_outside(site: Site) -> None:
    """Promise 2, D6: the cause with its signal is in the ledger within 1 s, and the job runs on."""
    worker = site.worker(processes=2)
    job = site.enqueue("plain", 1, 1.0)
    neighbour = site.enqueue("plain", 2, 1.0)
    first = site.log.wait_for("start", job)
    site.log.wait_for("start", neighbour)
    killed_at = time.time()
    next(child for child in worker.children() if child.pid == first.pid).kill()
    wait_until(lambda: job.attempts, "the attempt's row")
    attempt = job.attempts[0]
    assert attempt.cause == "crashed"
    assert attempt.evidence["signal"] == 9
    assert "killed by signal 9" in (attempt.error_message or "")
    assert attempt.ended_at.timestamp() - killed_at < 1.0
    site.log.wait_for("start", job, times=2)
    site.wait_over([job, neighbour])
    assert (job.refresh().state, job.row.crashes) == ("succeeded", 1)
    assert (neighbour.refresh().state, neighbour.row.starts) == ("succeeded", 1)
    worker.kill()
    site.check()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_worker_and_all_its_children_killed(site: Site, concurrency: int) -> None:
    """Promises 2 and 4: a new worker of another pid has the jobs running again within 2 s.

    The lease is the default of 30 s: it is not what the new worker waits for. A loss is counted
    for what had begun, and nothing at all for what was only claimed.
    """
    site.enqueue_many("plain", [(n,) for n in range(50)])
    first = site.worker(processes=2, concurrency=concurrency)
    site.wait_all_over()
    running, gate = site.hold(2 * concurrency)
    waiting = site.enqueue_many("plain", [(n, 0.01) for n in range(20)])
    for job in running:
        site.log.wait_for("start", job)
    victims = first.children()
    first.process.kill()
    for child in victims:
        child.kill()
    first.wait()
    second = site.worker(processes=2, concurrency=concurrency, ready=False)
    for job in running:
        site.log.wait_for("start", job, times=2)
    gate.touch()
    site.wait_over([*running, *waiting])
    # By the ledger's clock, from its registration on: how soon it is up is the machine's affair.
    with site.app.database.look() as tx:
        (there,) = registry.all_workers(tx)
    ended = max(job.attempts[0].ended_at.timestamp() for job in running)
    assert ended - there.started_at / 1e6 < 2.0
    assert {job.row.losses for job in running} == {1}
    assert {job.attempts[0].cause for job in running} == {"lost"}
    assert {(job.row.starts, job.row.losses) for job in waiting} == {(1, 0)}
    second.kill()
    site.check()
    assert not promises.charged_without_body(site.app, site.log)


def test_children_die_with_their_supervisor(site: Site) -> None:
    """Promise 4: no body goes on whose supervisor is dead."""
    worker = site.worker(processes=2)
    # The second has no Python left to notice with: the kernel must do it.
    for job in (site.enqueue("work", 1, 30.0), site.enqueue("hold_the_interpreter", 30.0)):
        site.log.wait_for("start", job)
    worker.kill()
    wait_until(lambda: not site.leftovers(), "the children to be gone", 2.0)


@pytest.mark.parametrize("task", ["not_twice"])
def test_on_lost_fail_runs_nothing_twice(site: Site, task: str) -> None:
    """Promise 4: `on_lost="fail"`: begun and ended without an outcome is the job's end."""
    worker = site.worker(processes=2)
    crashed, lost = site.enqueue(task, 1, 30.0), site.enqueue(task, 2, 30.0)
    pid = site.log.wait_for("start", crashed).pid
    site.log.wait_for("start", lost)
    next(child for child in worker.children() if child.pid == pid).kill()
    site.wait_over([crashed])
    worker.kill()
    site.drain()
    assert (crashed.refresh().state, crashed.reason) == ("failed", "crashed")
    assert (lost.refresh().state, lost.reason) == ("failed", "lost")
    assert len(site.log.starts(crashed)) == len(site.log.starts(lost)) == 1
    site.check()


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_death_in_the_middle_of_an_effect(site: Site, victim: str) -> None:
    """A10, promise 9: nobody guesses. It ends `failed(uncertain)` at once, and is not run again
    before a person has said whether the effect happened."""
    worker = site.worker()
    job = site.enqueue("pay_slowly", 1, 30.0)
    pid = site.log.wait_for("start", job).pid
    wait_until(lambda: job.effects, "the intention to be on record")
    if victim == "child":
        next(child for child in worker.children() if child.pid == pid).kill()
    else:
        worker.kill()
        worker = site.worker()
    site.wait_over([job])
    assert (job.state, job.reason, len(job.attempts)) == ("failed", "uncertain", 1)
    assert [effect.done_at for effect in job.effects] == [None]
    with pytest.raises(failbetter.Refused, match="in doubt"):
        job.retry()
    assert not site.log.entries("effect charge")
    worker.kill()
    site.check()
