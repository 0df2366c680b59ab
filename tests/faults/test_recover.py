"""Recovery under faults: killed itself, two at once, against the living, on a ledger in trouble.

Promises 2, 3, 4, 6 and 7; rows B1 to B6 of what is compared with. Real processes throughout: the
command `failbetter recover`, and `failbetter maintain`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sqlalchemy import func, select
from tests.faults.harness import PATIENCE, ROOT, Site, open_site, wait_until
from tests.faults.test_hosts import SKEW
from tests.faults.test_store import fill_up, lock_out, small_disk

from failbetter import ids
from failbetter.errors import LedgerUnavailable
from failbetter.ledger import claims, registry
from failbetter.ledger.schema import attempts, jobs

if TYPE_CHECKING:
    from pathlib import Path

    from failbetter import Job

__all__ = ["small_disk"]

LEASE = 2.0
MANY = 5_000


# -- what is interrupted, and who recovers it


def ghost(site: Site, count: int, task: str = "work", *, fleet: str | None = None) -> list[Job]:
    """So many jobs, whose bodies had begun on a worker of this host that is dead now.

    `fleet`: it was on another host, and nothing is known but that its lease ran out.
    """
    made = site.enqueue_many(task, [(n,) for n in range(count)])
    database = site.app.database
    worker = registry.Worker(
        id=ids.take(), name="ghost", host="away", pid=1, fleet=fleet or database.fleet.id,
        lease=round(LEASE * 1e6), beats=0, renewed_at=database.now() - 60_000_000,
        started_at=database.now() - 90_000_000, stopping=0, code=None, queues="[]", tasks="[]",
        processes=1, concurrency=1,
    )  # fmt: skip
    lock = None if fleet else database.fleet.hold(worker.id)
    with database.write() as tx:
        registry.register(tx, worker)
    claimed = 0
    while claimed < count:
        with database.write() as tx:
            some, _ = claims.claim(tx, worker.id, [], 10_000, tx.now())
            claims.mark_begun(tx, [(tx.now(), job.id, job.fence, worker.id) for job in some])
        claimed += len(some)
    assert claimed >= count  # what else waited as well
    if lock is not None:
        lock.close()
    return made


@dataclass
class Recover:
    """`failbetter recover`, at work."""

    process: subprocess.Popen[bytes]
    folder: Path

    def wait(self, patience: float = 60.0) -> int:
        """Its exit code (negative: minus the signal)."""
        return self.process.wait(patience)

    @property
    def report(self) -> dict[str, Any]:
        """What it printed."""
        found: dict[str, Any] = json.loads((self.folder / "out").read_text())
        return found

    @property
    def said(self) -> str:
        """What it said on stderr."""
        return (self.folder / "err").read_text()


def recover(site: Site, *words: str, fault: str | None = None, **environment: str) -> Recover:
    """Start a recovery."""
    if fault is not None:
        environment["FAILBETTER_FAULT"] = fault
    folder = site.folder / f"recover-{time.monotonic_ns()}"
    folder.mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "failbetter", "--url", site.url, "recover", "--json", *words],
            env=site.environment(**environment),
            cwd=site.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    site._helpers.append(process)
    return Recover(process, folder)


def handed_back(site: Site) -> int:
    """How many jobs wait."""
    statement = select(func.count()).where(jobs.c.state == "pending", jobs.c.claimed.is_(None))
    return int(site.app.database.query(statement)[0][0])


def each_lost_once(site: Site, made: list[Job]) -> None:
    """No job was lost twice, or not handed back; and all still run and end."""
    numbers = [ids.from_text(job.id) for job in made]
    kept = site.app.database.query(select(attempts.c.job_id, attempts.c.cause))
    assert sorted(row.job_id for row in kept) == sorted(numbers)
    assert {row.cause for row in kept} == {"lost"}
    assert handed_back(site) == len(made)
    site.drain(processes=2)
    site.check()


# -- killed itself


@pytest.mark.parametrize(
    "fault",
    ["after_recover_lock", "after_removal", "in_commit:2", "in_recovery:2", "before_recorded"],
)
def test_killed_at(site: Site, fault: str) -> None:
    """The next one waits for no lock, and takes up what is left: promises 3 and 4."""
    made = ghost(site, 2_500)
    assert recover(site, fault=fault).wait() == -9
    again = recover(site, "--timeout", "8")
    assert again.wait() == 0, again.said
    assert again.report["ok"]
    assert again.report["seconds"] < 8
    each_lost_once(site, made)


def test_killed_at_random(site: Site) -> None:
    """Time and again in the middle of it, until one gets through."""
    rng = random.Random(site.seed)
    made = ghost(site, MANY)
    killed = 0
    while True:
        before = handed_back(site)
        one = recover(site)
        wait_until(
            lambda one=one, before=before: (
                one.process.poll() is not None or handed_back(site) > before
            ),
            "the recovery to do something",
        )
        if killed < 8:
            time.sleep(rng.uniform(0, 0.03))
            one.process.kill()
        if one.wait() == 0:
            break
        killed += 1
    assert killed > 0
    each_lost_once(site, made)


# -- two at once


def test_two_at_once(site: Site) -> None:
    """From two processes: one does it all, the other waits and finds nothing."""
    made = ghost(site, MANY)
    both = [recover(site), recover(site, "--force")]
    assert [one.wait() for one in both] == [0, 0]
    outcomes = sorted((one.report["outcome"], one.report["handed_back"]) for one in both)
    assert outcomes == [("nothing", 0), ("recovered", MANY)]
    each_lost_once(site, made)


def test_one_that_hangs_is_not_overtaken_on_its_host(site: Site) -> None:
    """75 for who has waited for all of its time; and what was frozen ends well."""
    made = ghost(site, MANY)
    first = recover(site)
    wait_until(lambda: handed_back(site) > 0 or first.process.poll() is not None, "it to begin")
    freeze_between_batches(site, first)
    if first.process.poll() is None and handed_back(site) < MANY:
        status = site.app.recovery_status()
        assert status.in_progress
        second = recover(site, "--force", "--timeout", "1")
        assert second.wait() == 75, second.said
        assert second.report["outcome"] == "locked"
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 0, first.said
    each_lost_once(site, made)


def freeze_between_batches(site: Site, one: Recover) -> None:
    """Stop it where it holds recovery's lock and is in no transaction.

    Frozen inside one of SQLite's it would keep the next one from writing at all: that ends with
    69, as for any ledger that cannot be written, and not with 75.
    """
    while True:
        one.process.send_signal(signal.SIGSTOP)
        try:
            with site.app.database.write(timeout=0.5):
                return
        except LedgerUnavailable:
            before = handed_back(site)
            one.process.send_signal(signal.SIGCONT)
            wait_until(
                lambda before=before: handed_back(site) > before or one.process.poll() is not None,
                "its transaction to end",
            )


# -- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal(site: Site, number: int, code: int) -> None:
    """It stops between two batches: nothing is half done, and the next takes it up at once."""
    made = ghost(site, 3 * MANY)
    one = recover(site)
    wait_until(lambda: handed_back(site) > 0, "it to begin")
    one.process.send_signal(number)
    assert one.wait() == code, one.said
    done = handed_back(site)
    assert 0 < done < 3 * MANY
    assert done % 1_000 == 0
    assert "stopped by SIG" in one.said
    again = recover(site)
    assert again.wait() == 0
    assert again.report["handed_back"] == 3 * MANY - done
    kept = site.app.database.query(select(func.count()).select_from(attempts))
    assert kept[0][0] == len(made)


# -- the living


def test_a_slow_worker_is_watched_for_its_lease(site: Site) -> None:
    """Frozen and thawed in time it is left alone; frozen for longer it is lost, and a zombie."""
    worker = site.worker(lease=LEASE)
    job = site.enqueue("work", 1, 0.5)
    site.log.wait_for("start", job)
    worker.freeze(children=True)
    early = recover(site, "--timeout", "1")  # less than a lease
    assert early.wait() == 0
    assert early.report["leased"] + len(early.report["watched"]) == 1
    wait_until(lambda: lease_is_over(site), "its lease to run out")
    watching = recover(site, "--timeout", "20")
    wait_until(lambda: "waiting for another one" in watching.said, "it to be watched")
    worker.thaw()
    assert watching.wait() == 0
    assert (watching.report["outcome"], watching.report["gone"]) == ("nothing", [])
    site.wait_over([job])
    assert (job.state, job.row.starts) == ("succeeded", 1)

    job = site.enqueue("work", 2, 0.5)
    site.log.wait_for("start", job)
    worker.freeze(children=True)
    wait_until(lambda: lease_is_over(site), "its lease to run out")
    began = time.monotonic()
    last = recover(site, "--timeout", "20")
    assert last.wait() == 0
    assert time.monotonic() - began > LEASE, "nobody's clock but its own is believed"
    assert last.report["handed_back"] == 1
    worker.thaw()
    worker.wait_said("declared lost")
    site.wait_over([job])
    assert [one.cause for one in job.attempts] == ["lost", "returned"]
    worker.kill()
    site.check()


def lease_is_over(site: Site) -> bool:
    with site.app.database.look() as tx:
        now = tx.now()
        return any(worker.lease_expired(now) for worker in registry.all_workers(tx))


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_jumped_declares_nobody_lost(site: Site, seconds: int) -> None:
    """The recovery's own clock is off by an hour: the healthy worker's job is left alone."""
    site.worker(lease=LEASE)
    job = site.enqueue("work", 1, 3.0)
    site.log.wait_for("start", job)
    folder = site.folder / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SKEW.format(seconds))
    path = f"{folder}{os.pathsep}{site.environment()['PYTHONPATH']}"
    one = recover(site, "--timeout", "10", PYTHONPATH=path)
    assert one.wait() == 0, one.said
    assert (one.report["outcome"], one.report["gone"]) == ("nothing", [])
    assert one.report["leased"] == 1
    site.wait_over([job])
    assert (job.state, job.row.starts, job.row.losses) == ("succeeded", 1, 0)
    for worker in site.workers:
        worker.kill()
    site.check()


# -- what is left of the dead


def test_a_host_that_came_back(site: Site) -> None:
    """The same name, and the numbers of its processes given anew: no stranger is killed."""
    worker = site.worker()
    job = site.enqueue("work", 1, 60.0)
    site.log.wait_for("start", job)
    children = worker.children()
    worker.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                                start_new_session=True)  # fmt: skip
    fleet = site.app.database.fleet
    (path,) = fleet.folder.glob("[0-9]*.lock")
    notes = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**n, "session": stranger.pid}) + "\n" for n in notes))
    one = recover(site)
    assert one.wait() == 0
    assert one.report["handed_back"] == 1
    assert stranger.poll() is None
    stranger.communicate(b"\n", timeout=PATIENCE)
    site.app.job(job.id).cancel()
    site.check()


def test_what_still_runs_of_the_dead_is_killed(site: Site) -> None:
    """A body that outlived its supervisor must not go on beside the next attempt."""
    worker = site.worker()
    job = site.enqueue("work", 1, 60.0)
    body = site.log.wait_for("start", job).pid
    process = psutil.Process(body)
    process.suspend()  # so that it does not notice that its supervisor is gone
    worker.kill()
    one = recover(site)
    assert one.wait() == 0
    assert one.report["handed_back"] == 1
    process.wait(PATIENCE)
    site.app.job(job.id).cancel()
    site.check()


def test_a_task_that_exists_no_more(site: Site) -> None:
    """It is handed back like any other; the worker that claims it says what is wrong."""
    made = ghost(site, 3, "plain")
    one = recover(site)
    assert one.wait() == 0
    assert one.report["handed_back"] == 3
    site.drain(env={"FAILBETTER_TEST_GONE": "plain"})
    assert {(job.refresh().state, job.reason) for job in made} == {("failed", "unloadable")}
    site.check()


# -- a ledger in trouble


def test_a_locked_file(tmp_path: Path) -> None:
    """69, and not "nothing to recover"; with time, it waits."""
    with open_site(f"sqlite:///{tmp_path / 'jobs.db'}", tmp_path) as site:
        made = ghost(site, 10)
        site.app.close()
        locker = lock_out(site, 60.0)
        one = recover(site, "--timeout", "2", "--retry-delay", "0.2")
        assert one.wait() == 69
        assert "locked" in one.said
        patient = recover(site, "--timeout", "30", "--retry-delay", "0.2")
        wait_until(lambda: "trying again" in patient.said, "it to try again")
        locker.kill()
        locker.wait()
        assert patient.wait() == 0, patient.said
        each_lost_once(site, made)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """74; and once there is room, all is as if nothing had been."""
    with open_site(f"sqlite:///{small_disk / 'jobs.db'}", tmp_path) as site:
        made = ghost(site, 2_500)
        filler = fill_up(small_disk)
        one = recover(site)
        code = one.wait()
        filler.unlink()
        # What was in the file's log already may just have been enough.
        assert code in (0, 69, 74), one.said
        if code:
            assert "full" in one.said
            assert recover(site).wait() == 0
        each_lost_once(site, made)


def test_a_read_only_disk(small_disk: Path, tmp_path: Path) -> None:
    """69: a recovery that can write nothing does not say that there is nothing to do."""
    with open_site(f"sqlite:///{small_disk / 'jobs.db'}", tmp_path) as site:
        made = ghost(site, 10)
        site.app.close()
        remount = ["mount", "-o", "remount,{}", str(small_disk)]
        subprocess.run([word.format("ro") for word in remount], check=True, timeout=10)
        one = recover(site, "--timeout", "2", "--retry-delay", "0.2")
        code = one.wait()
        subprocess.run([word.format("rw") for word in remount], check=True, timeout=10)
        assert code == 69, one.said
        assert recover(site).wait() == 0
        each_lost_once(site, made)


# -- maintain


def maintain(site: Site) -> tuple[subprocess.Popen[bytes], Path]:
    """Start `failbetter maintain`; what it logs is in the file."""
    log = site.folder / "maintain.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "failbetter", "-A", "tests.faults.served:app", "maintain"],
            env=site.environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    site._helpers.append(process)
    wait_until(lambda: "maintaining as" in log.read_text(), "it to begin")
    return process, log


def test_maintain(site: Site) -> None:
    """It hands back what a dead worker of this host held, and what one elsewhere did; runs none."""
    process, log = maintain(site)
    worker = site.worker(lease=LEASE)
    job = site.enqueue("work", 1, 60.0)
    site.log.wait_for("start", job)
    worker.kill()
    killed = time.monotonic()
    wait_until(lambda: job.refresh().row.claimed is None, "it to be handed back", 5)
    assert time.monotonic() - killed < 2 + 1
    ghost(site, 1, fleet="far away")  # takes up the first as well
    began = time.monotonic()
    wait_until(lambda: handed_back(site) == 2, "the lost worker's jobs", LEASE + 5)
    assert time.monotonic() - began > LEASE - 1
    assert len(site.log.entries("start")) == 1
    status = site.app.recovery_status()
    assert status.swept.handed_back == 3
    assert status.swept_at is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_maintain_in_an_outage(tmp_path: Path) -> None:
    """It says so, goes on, and declares nobody lost for what it could not see."""
    with open_site(f"sqlite:///{tmp_path / 'jobs.db'}", tmp_path) as site:
        process, log = maintain(site)
        worker = site.worker(lease=LEASE)
        job = site.enqueue("work", 1, 6.0)
        site.log.wait_for("start", job)
        locker = lock_out(site, 60.0)
        wait_until(lambda: "could not be done" in log.read_text(), "it to complain")
        time.sleep(LEASE + 1)  # for which nothing can be seen to happen
        locker.kill()
        locker.wait()
        wait_until(lambda: "is back" in log.read_text(), "it to go on")
        site.wait_over([job])
        assert (job.state, job.row.starts, job.row.losses) == ("succeeded", 1, 0)
        assert "is gone" not in log.read_text()
        worker.kill()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        site.check()
