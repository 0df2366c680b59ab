"""The ledger's server stopped, killed, replaced: everyone waits and goes on, by themselves.

The row "store down 10 s while 500 are enqueued" of the comparison with today's systems; promise 1;
promise 2: an outage of the store declares nobody dead.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
from tests.faults.conftest import migrated
from tests.faults.harness import Site, accepted_by_others, open_site, wait_until
from tests.faults.test_store import mounted
from tests.servers.home import give_away
from tests.servers.postgres import PostgresServer

import failbetter
from failbetter import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from tests.faults.conftest import SideBySide
    from tests.faults.harness import Worker

    class Startable(Protocol):
        """A server that is down."""

        def start_again(self) -> None: ...

    class Fillable(Protocol):
        """A disk."""

        def fill(self) -> None: ...

        def free(self) -> None: ...


OUTAGE = 10.0
LEASE = 2.0
PRODUCE = """
for n in range(int(sys.argv[1])):
    record_accepted(app.tasks["plain"].enqueue(n))
    time.sleep(0.02)  # so that they take a while, with the outage in the middle
"""


@pytest.fixture
def servers() -> Iterator[dict[str, PostgresServer]]:
    """Those that the scenarios of a test have of their own, by the scenario's name."""
    started: dict[str, PostgresServer] = {}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture
def new_ledger(servers: dict[str, PostgresServer]) -> Callable[[Path], str]:
    """On a server that may be hurt. It lives as long as the scenario's thread."""

    def start(folder: Path) -> str:
        server = servers[folder.name] = PostgresServer.start(fsync=False)
        url = server.new_database("ledger")
        migrated(url)
        return url

    return start


def health(site: Site) -> tuple[int, str]:
    """The exit code of `failbetter health`, and the status in its document."""
    asked = subprocess.run(
        [sys.executable, "-m", "failbetter", "health", "--json"],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return asked.returncode, json.loads(asked.stdout)["status"]


def check_that_all_ran_once(site: Site, *, lost_claims: bool = False) -> None:
    """Every job succeeded at its first attempt, and no worker was thought dead or has ended.

    `lost_claims`: as of `promises.check`.
    """
    for job in site.app.jobs:
        row = job.row
        assert (row.state, row.starts, row.losses) == ("succeeded", 1, 0), job.attempts
    assert site.app.jobs.count() == len(site.accepted)
    for worker in site.workers:
        assert worker.alive, worker.text()[-4000:]
        assert not worker.said("declared lost|is gone")
        assert not worker.said("Traceback")
    site.check(lost_claims=lost_claims)


# -- an outage


def test_outages(side_by_side: SideBySide, servers: dict[str, PostgresServer]) -> None:
    """10 s without a server, five leases, while 500 jobs are enqueued and run."""
    side_by_side(
        stopped=lambda site: outage(site, servers["stopped"], servers["stopped"].stop),
        killed=lambda site: outage(
            site, servers["killed"], servers["killed"].kill, lost_claims=True
        ),
    )


def test_lost_claims(side_by_side: SideBySide, servers: dict[str, PostgresServer]) -> None:
    """The server is killed when bodies run whose claims were not on its disk yet."""
    side_by_side(
        claimed_again=lambda site: claimed_again(site, servers["claimed_again"]),
        claimed_by_another=lambda site: claimed_by_another(site, servers["claimed_by_another"]),
        claim_that_must_last=lambda site: claim_that_must_last(
            site, servers["claim_that_must_last"]
        ),
    )


def outage(
    site: Site, server: Startable, end: Callable[[], None], *, lost_claims: bool = False
) -> None:
    """500 of 500 accepted and done, each once, but for claims that a crash loses.

    Both workers live on; health says how it is.
    """
    for _ in range(2):
        site.worker(lease=LEASE, processes=2)
    (outlasts, later), (ends, gate) = site.hold(1), site.hold(1)
    for job in (*outlasts, *ends):
        site.log.wait_for("start", job)
    assert health(site) == (0, "pass")
    producers = [site.python(PRODUCE, 250) for _ in range(2)]
    wait_until(lambda: len(accepted_by_others(site)) > 20, "the first jobs to be accepted")
    end()
    began = time.monotonic()
    during = len(accepted_by_others(site))
    assert during < 450, "nearly all were accepted before the outage: this shows nothing"
    assert health(site) == (1, "fail")
    gate.touch()
    site.log.wait_for("end", ends[0])
    time.sleep(max(OUTAGE - (time.monotonic() - began), 0))
    server.start_again()
    later.touch()
    for producer in producers:
        site.output_of(producer)
    site.accepted += accepted_by_others(site)
    assert len(site.accepted) == 502
    site.wait_all_over(60)
    assert health(site) == (0, "pass")
    check_that_all_ran_once(site, lost_claims=lost_claims)


def write_late(server: PostgresServer) -> None:
    """From now on, nothing is on disk that nobody has asked for."""
    server.configure({"wal_writer_delay": "10s"})
    time.sleep(0.5)  # its writer first ends the pause that it makes now, of 0.2 s


def kill_and_restart(site: Site, server: PostgresServer) -> None:
    server.kill()
    server.start_again()
    site.app.close()  # its connection broke


def lose_claims(
    site: Site, server: PostgresServer, worker: Worker, count: int
) -> tuple[list[Job], Path]:
    """So many bodies run whose claims the server has lost; their worker is frozen.

    Whatever else is committed in that moment (a renewed lease) takes the claims to the disk with
    it: then they are not lost, and it is tried again with others.
    """
    for _ in range(10):
        held, gate = site.hold(count)
        for job in held:
            site.log.wait_for("start", job)
        worker.freeze()
        kill_and_restart(site, server)
        if all((job.refresh().row.fence, job.row.claimed) == (0, None) for job in held):
            return held, gate
        worker.thaw()
        gate.touch()
        site.wait_over(held)
    raise AssertionError("every claim was on the disk in time: this shows nothing")


def claimed_again(site: Site, server: PostgresServer) -> None:
    """Its worker claims the job again before anybody else does: the attempt goes on."""
    write_late(server)
    worker = site.worker(processes=2)
    held, gate = lose_claims(site, server, worker, 2)
    worker.thaw()
    worker.wait_said("the server had lost .* of our claims")
    wait_until(lambda: all(job.refresh().state == "running" for job in held), "it to be told again")
    gate.touch()
    site.wait_all_over()
    check_that_all_ran_once(site)


def claimed_by_another(site: Site, server: PostgresServer) -> None:
    """Another is quicker and has the same fence: what the first one does changes nothing."""
    write_late(server)
    first = site.worker()
    (held,), gate = lose_claims(site, server, first, 1)
    second = site.worker()
    site.log.wait_for("start", held, times=2)
    wait_until(lambda: held.refresh().state == "running", "the second attempt to be marked")
    second.freeze()
    gate.touch()
    site.log.wait_for("end", held, times=2)
    first.thaw()
    first.wait_said("late result of attempt 1 changed nothing")
    row = held.refresh().row
    assert (row.fence, row.state, held.attempts) == (1, "running", [])
    second.thaw()
    site.wait_over([held])
    assert [one.worker.split(":")[1] for one in held.attempts] == [str(second.pid)]
    assert (held.row.fence, held.row.starts, held.row.losses) == (2, 1, 0)


def claim_that_must_last(site: Site, server: PostgresServer) -> None:
    """A job that may not run twice does not, although its worker is gone with the server."""
    write_late(server)
    first = site.worker()
    gate = site.folder / "gate"
    job = site.enqueue("hold_once", str(gate))
    site.log.wait_for("start", job)
    first.freeze()
    kill_and_restart(site, server)
    assert (job.refresh().row.fence, job.row.claimed) == (1, 1)
    first.kill()
    second = site.worker()
    site.wait_over([job])
    assert (job.state, job.reason) == ("failed", "lost")
    assert len(site.log.starts(job)) == 1
    assert second.alive
    site.check()


# -- another server takes over


def test_failover(tmp_path: Path) -> None:
    """The primary is killed and its synchronous standby promoted: all go on there by themselves."""
    with PostgresServer.start(fsync=False) as primary:
        migrated(primary.new_database("ledger"))
        with primary.standby() as standby:
            hosts = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
            with open_site(f"postgresql+psycopg://postgres@/ledger?{hosts}", tmp_path) as site:
                failover(site, primary, standby)


def failover(site: Site, primary: PostgresServer, standby: PostgresServer) -> None:
    for _ in range(2):
        site.worker(lease=LEASE)
    held, gate = site.hold(2)
    for job in held:
        site.log.wait_for("start", job)
    producers = [site.python(PRODUCE, 150) for _ in range(2)]
    wait_until(lambda: len(accepted_by_others(site)) > 20, "the first jobs to be accepted")
    primary.kill()
    during = len(accepted_by_others(site))
    assert during < 250, "nearly all were accepted before it: this shows nothing"
    standby.promote()
    for producer in producers:
        site.output_of(producer)
    gate.touch()
    site.accepted += accepted_by_others(site)
    assert len(site.accepted) == 302
    site.wait_all_over(60)
    assert health(site) == (0, "pass")
    check_that_all_ran_once(site)


# -- the disk


class Disk:
    """A small file system of a ledger's own, apart from the server's log of what it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def ledger(self, server: PostgresServer) -> str:
        """A database on it."""
        place = self.folder / "tables"
        place.mkdir()
        give_away(place)
        with psycopg.connect(server.dsn, autocommit=True) as link:
            link.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            link.execute("CREATE DATABASE ledger TABLESPACE small")
        return server.url_of("ledger")

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def free(self) -> None:
        self._filler.unlink()


SAY_FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON failbetter_jobs EXECUTE FUNCTION full_disk();
"""


class SaidDisk:
    """Where nothing can be mounted: the server says that a disk is full."""

    def ledger(self, server: PostgresServer) -> str:
        self._url = server.new_database("ledger")
        return self._url

    def fill(self) -> None:
        self._run(SAY_FULL)

    def free(self) -> None:
        self._run("DROP FUNCTION full_disk CASCADE")

    def _run(self, statements: LiteralString) -> None:
        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as link:
            link.execute(statements)


@pytest.fixture
def disk() -> Iterator[Disk | SaidDisk]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user goes through it
        mount = mounted(folder / "disk", 32 << 20)
        try:
            mount.__enter__()
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(f"no small disk can be mounted here: {error}")
            yield SaidDisk()
            return
        try:
            yield Disk(folder / "disk")
        finally:
            mount.__exit__(None, None, None)


def test_disk_full(disk: Disk | SaidDisk, tmp_path: Path) -> None:
    """Producers are told, nothing is half-written, and workers wait until there is space."""
    with PostgresServer.start(fsync=False) as server:
        url = disk.ledger(server)
        migrated(url)
        with open_site(url, tmp_path) as site:
            disk_full_for_producers(site, disk)
            site.drain()
            disk_full_for_workers(site, disk)


def disk_full_for_producers(site: Site, disk: Fillable) -> None:
    site.enqueue_many("plain", [(n,) for n in range(10)])
    disk.fill()
    refused = 0
    for n in range(2_000):
        try:
            site.enqueue("plain", n)
        except failbetter.LedgerFull:
            refused += 1
            if refused == 20:
                break
    assert refused == 20
    assert site.app.jobs.count() == len(site.accepted)
    with pytest.raises(failbetter.LedgerFull, match="no room left"):
        site.enqueue_many("plain", [(n,) for n in range(5_000)])
    with pytest.raises(failbetter.LedgerFull):
        site.enqueue_many("only", [(f"key {n}",) for n in range(5_000)])
    assert site.app.jobs.count() == len(site.accepted)
    disk.free()
    site.enqueue("plain", 1)


def disk_full_for_workers(site: Site, disk: Fillable) -> None:
    workers = [site.worker(lease=LEASE) for _ in range(2)]
    held, gate = site.hold(2)
    for job in held:
        site.log.wait_for("start", job)
    others = site.enqueue_many("plain", [(n,) for n in range(3_000)])
    mortal = site.enqueue("die_at_first", 9, 1)
    disk.fill()
    gate.touch()
    wait_until(lambda: any(worker.said("no room left") for worker in workers), "it to be noticed")
    # Longer than the lease: nobody may be declared lost for it, nobody may exit.
    time.sleep(1.5 * LEASE)
    assert all(worker.alive for worker in workers)
    disk.free()
    site.wait_over([*held, *others, mortal])
    assert {job.row.starts for job in (*held, *others)} == {1}
    for worker in workers:
        assert worker.alive
        assert not worker.said("declared lost|is gone|Traceback")
        worker.kill()
    site.check()
