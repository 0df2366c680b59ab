"""The store locked, and the disk full: clear errors, nothing half-written, everyone waits.

The row "store down 10 s while 500 are enqueued" of the comparison with today's systems; promise 1;
promise 2: an outage of the store declares nobody dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.harness import ROOT, Site, accepted_by_others, open_site, wait_until

import failbetter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.conftest import SideBySide

OUTAGE = 10.0


@pytest.fixture
def new_ledger() -> Callable[[Path], str]:
    """These are a SQLite file's troubles; a server's are another suite's."""
    return lambda folder: f"sqlite:///{folder / 'jobs.db'}"


LOCK = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
PRODUCE = """
for n in range(int(sys.argv[1])):
    record_accepted(app.tasks["plain"].enqueue(n))
    time.sleep(0.02)  # so that they take a while, with the outage in the middle
"""


def database_file(site: Site) -> Path:
    return Path(site.app.database.url.database or "")


def lock_out(site: Site, seconds: float) -> subprocess.Popen[bytes]:
    """Another program that keeps the ledger's write lock to itself for so long."""
    process = site.python(LOCK, database_file(site), seconds)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    return process


def test_locked(side_by_side: SideBySide) -> None:
    """What takes outages of some seconds to show."""
    side_by_side(
        locked_while_enqueued=locked_while_enqueued,
        locked_for_longer_than_a_producer_waits=locked_for_longer_than_a_producer_waits,
        stopped_while_locked=stopped_while_locked,
    )


def locked_while_enqueued(site: Site) -> None:
    """10 s of it, five leases: 500 of 500 accepted and done, each once; both workers live on."""
    workers = [site.worker(lease=2, processes=1) for _ in range(2)]
    long = site.enqueue_many("plain", [(1, 12.0), (2, 1.0)])
    for job in long:
        site.log.wait_for("start", job)
    producers = [site.python(PRODUCE, 250) for _ in range(2)]
    wait_until(lambda: len(accepted_by_others(site)) > 20, "the first jobs to be accepted")
    locker = lock_out(site, OUTAGE)
    during = len(accepted_by_others(site))
    assert locker.wait(OUTAGE + 20) == 0
    for producer in producers:
        site.output_of(producer)
    site.accepted += accepted_by_others(site)
    assert len(site.accepted) == 502
    assert during < 490, "all were accepted before the lock: this shows nothing"
    site.wait_all_over(60)
    for job in site.app.jobs:
        row = job.row
        assert (row.state, row.starts, row.losses) == ("succeeded", 1, 0)
    for worker in workers:
        assert worker.alive
        assert not worker.said("declared lost")
        worker.kill()
    site.check()


def locked_for_longer_than_a_producer_waits(site: Site) -> None:
    """The producer gets a LedgerUnavailable that says so; nothing is half-written."""
    from failbetter.ledger import database

    site.enqueue("plain", 1)
    locker = lock_out(site, 60.0)
    patience = database.WRITE_TIMEOUT
    assert patience >= 10
    began = time.monotonic()
    with (
        pytest.raises(failbetter.LedgerUnavailable, match=r"locked|writing"),
        site.app.database.write(timeout=1.0),
    ):
        pass
    assert 0.9 < time.monotonic() - began < 5
    locker.kill()
    locker.wait()
    assert site.app.jobs.count() == 1
    site.drain()
    site.check()


def stopped_while_locked(site: Site) -> None:
    """SIGTERM to a worker that cannot write: it ends in time, and what it had is found again."""
    worker = site.worker(shutdown_timeout=1)
    job = site.enqueue("plain", 1, 0.5)
    site.log.wait_for("start", job)
    locker = lock_out(site, 60.0)
    site.log.wait_for("end", job)
    worker.send(signal.SIGTERM)
    worker.wait(20)
    locker.kill()
    locker.wait()
    site.drain()
    assert job.refresh().state == "succeeded"
    site.check()


# -- the disk


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        check=True,
        timeout=10,
        capture_output=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, timeout=10)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real, small file system. Who may not mount one runs the test in a namespace of its own."""
    folder = tmp_path / "disk"
    try:
        mount = mounted(folder, 16 << 20)
        mount.__enter__()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        if os.environ.get("FAILBETTER_TEST_NAMESPACE"):
            pytest.fail(f"no small disk can be mounted here, not even in a namespace: {error}")
        again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        outcome = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *again, request.node.nodeid],
            env={**os.environ, "FAILBETTER_TEST_NAMESPACE": "1"},
            cwd=ROOT,
            timeout=100,
            capture_output=True,
            text=True,
            check=False,
        )
        if outcome.returncode == 0:
            pytest.skip("passed in a user namespace of its own")
        pytest.fail(f"{outcome.stdout[-3000:]}\n{outcome.stderr[-1000:]}")
    try:
        yield folder
    finally:
        mount.__exit__(None, None, None)


def fill_up(folder: Path) -> Path:
    """Leave no byte free in the file system of `folder`; the file that takes the space."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


def test_disk_full_for_a_producer(small_disk: Path, tmp_path: Path) -> None:
    """LedgerFull, nothing half-written, all accepted jobs are there, and it goes on with space."""
    with open_site(f"sqlite:///{small_disk / 'jobs.db'}", tmp_path) as site:
        site.enqueue_many("plain", [(n,) for n in range(10)])
        filler = fill_up(small_disk)
        refused = 0
        for n in range(2_000):
            try:
                site.enqueue("plain", n)
            except failbetter.LedgerFull:
                refused += 1
                if refused == 20:
                    break
        assert refused == 20
        before = site.app.jobs.count()
        assert before == len(site.accepted)
        with pytest.raises(failbetter.LedgerFull, match="full"):
            site.enqueue_many("plain", [(n,) for n in range(5_000)])
        assert site.app.jobs.count() == before
        filler.unlink()
        site.enqueue("plain", 1)
        check_integrity(site)
        site.drain()
        site.check()


def test_disk_full_for_a_worker(small_disk: Path, tmp_path: Path) -> None:
    """It waits with its endings, its children live and die as ever, and it goes on with space."""
    with open_site(f"sqlite:///{small_disk / 'jobs.db'}", tmp_path) as site:
        worker = site.worker(processes=2, lease=2)
        held, gate = site.hold(2)
        others = site.enqueue_many("plain", [(n, 0.01) for n in range(300)])
        mortal = site.enqueue("die_at_first", 9, 1)
        for job in held:
            site.log.wait_for("start", job)
        filler = fill_up(small_disk)
        gate.touch()
        worker.wait_said("full")
        # Longer than the lease: nobody may be declared lost for it, nobody may exit.
        time.sleep(3)
        assert worker.alive
        filler.unlink()
        site.wait_over([*held, *others, mortal])
        assert worker.alive
        assert {job.row.starts for job in held} == {1}
        check_integrity(site)
        more = site.enqueue_many("plain", [(n,) for n in range(10)])
        site.wait_over(more)
        worker.kill()
        site.check()


def test_worker_started_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It ends with a clear line and exit code 69, or waits; it does not die of a signal."""
    with open_site(f"sqlite:///{small_disk / 'jobs.db'}", tmp_path) as site:
        site.enqueue("plain", 1)
        site.app.close()
        filler = fill_up(small_disk)
        worker = site.worker(ready=False)
        with contextlib.suppress(AssertionError):
            worker.wait(3)
        assert worker.process.returncode in (None, 69)
        assert worker.said("(?i)full|no space")
        assert not worker.said("Traceback")
        filler.unlink()
        if worker.alive:
            site.wait_all_over()
            worker.kill()
        site.drain()
        site.check()


def test_file_size_limit(site: Site) -> None:
    """A producer whose files may not grow (RLIMIT_FSIZE): a LedgerError, nothing half-written.

    The same fault where no file system can be mounted, and another error of the disk's.
    """
    site.enqueue_many("plain", [(n,) for n in range(10)])
    site.app.close()
    limit = database_file(site).stat().st_size + 200_000
    script = """
import failbetter, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
refused = 0
for n in range(20_000):
    try:
        record_accepted(app.tasks["plain"].enqueue(n))
    except failbetter.LedgerError as error:
        refused += 1
        if refused == 20:
            print(error)
            break
print(refused)
"""
    assert site.output_of(site.python(script, limit))[-1] == "20"
    site.accepted += accepted_by_others(site)
    assert site.app.jobs.count() == len(site.accepted)
    check_integrity(site)
    site.drain()
    site.check()


def check_integrity(site: Site) -> None:
    """SQLite's own look at the file."""
    connection = sqlite3.connect(database_file(site))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
