"""Work paused and resumed under real workers. A16, D5."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.faults.harness import Site, wait_until

if TYPE_CHECKING:
    from failbetter import Job


def failbetter(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on the site's ledger."""
    return subprocess.run(
        [sys.executable, "-m", "failbetter", *arguments],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pause_and_resume(site: Site) -> None:
    """What runs goes on, what waits does not begin, and nothing is lost or charged."""
    site.worker(concurrency=2)
    held, gate = site.hold(6)
    wait_until(lambda: len(site.log.entries("start")) == 2, "two bodies to run")
    paused = failbetter(site, "pause", "--task", "hold", "--reason", "it is late", "--actor", "ana")
    assert (paused.returncode, paused.stderr) == (0, "")
    others = site.enqueue_many("plain", [(n,) for n in range(50)])
    gate.touch()
    site.wait_over(others)
    began = site.log.entries("start")
    assert len([entry for entry in began if entry.job in {job.id for job in held}]) == 2
    site.wait_over([job for job in held if job.refresh().attempt])
    kept = [job for job in held if not job.over]
    assert len(kept) == 4
    for job in kept:
        assert (job.state, job.row.starts, job.row.hand_backs) == ("pending", 0, 0)
        assert job.waiting_for() == "task hold to be resumed (paused by ana: it is late)"
    resumed = failbetter(site, "resume", "--task", "hold")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    site.wait_all_over()
    assert all(job.refresh().state == "succeeded" for job in held)
    site.check()


def test_drain_does_not_wait_for_what_is_paused(site: Site) -> None:
    held = site.enqueue_many("flaky", [(n, 0) for n in range(5)])
    site.enqueue_many("plain", [(n,) for n in range(5)])
    site.app.pause(task="flaky")
    site.drain()
    assert {job.refresh().state for job in held} == {"pending"}
    site.app.resume(task="flaky")
    site.drain()
    assert {job.refresh().state for job in held} == {"succeeded"}
    site.check()


def test_the_resuming_process_is_killed(site: Site) -> None:
    """Whatever it had let go of by then, the others follow."""
    held = site.enqueue_many("plain", [(n,) for n in range(3000)])
    site.app.pause(task="plain")
    site.drain()
    assert parked_of(site) == 3000
    site.worker()
    resuming = site.python("app.resume(task='plain')")
    wait_until(lambda: parked_of(site) < 3000, "some to be let go of")
    resuming.send_signal(signal.SIGKILL)
    resuming.wait()
    site.wait_over(held, 60)
    wait_until(lambda: site.app.holds() == [], "the hold to be over")
    site.check()


def test_maintain_lets_go_at_a_pace(site: Site) -> None:
    held = site.enqueue_many("plain", [(n,) for n in range(20)])
    site.app.pause(task="plain")
    site.drain()
    site.app.resume(task="plain", rate=1000)
    done = failbetter(site, "maintain", "--once")
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: failbetter(site, "maintain", "--once").returncode == 0 and not site.app.holds(),
        "the hold to be over",
    )
    site.drain()
    assert {job.refresh().state for job in held} == {"succeeded"}
    site.check()


def parked_of(site: Site) -> int:
    """How many jobs are parked, by all holds."""
    return sum(hold.jobs or 0 for hold in site.app.holds())


def test_the_list_for_people(site: Site) -> None:
    jobs: list[Job] = site.enqueue_many("plain", [(1,)])
    assert failbetter(site, "holds").stdout == "nothing is held\n"
    for what in (["slow"], ["--task", "plain"]):
        assert failbetter(site, "pause", *what, "--reason", "no\nreason").returncode == 0
    site.drain()
    shown = failbetter(site, "holds").stdout
    assert [line.split()[:3] for line in shown.splitlines()] == [
        ["JOBS", "WHAT", "NAME"],
        ["?", "queue", "slow"],
        ["1", "task", "plain"],
    ]
    assert jobs[0].refresh().state == "pending"
    for wrong, code in [
        (["pause"], 2),
        (["pause", "a", "--task", "b"], 2),
        (["resume", "a"], 1),
        (["resume", "slow", "--rate", "2"], 2),
        (["resume", "--task", "plain", "--rate", "x"], 2),
    ]:
        answer = failbetter(site, *wrong)
        assert (answer.returncode, answer.stdout) == (code, ""), answer
        assert len(answer.stderr.splitlines()) == 1
