"""The ledger on MariaDB, whose server is stopped, killed, full, or ends connections and undoes.

C1, promise 1; promise 2: an outage of the store declares nobody dead. What differs from the other
databases: how a broken connection, a lost commit and a full disk are told.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.conftest import migrated
from tests.faults.harness import Site, accepted_by_others, number_of, open_site, wait_until
from tests.faults.test_connections import table_locked
from tests.faults.test_server import (
    check_that_all_ran_once,
    disk_full_for_producers,
    disk_full_for_workers,
    outage,
)
from tests.servers.mariadb import MariaDBServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.conftest import SideBySide

LEASE = 2.0
PRODUCE = """
for n in range(40):
    record_accepted(app.tasks["plain"].enqueue(n))
    record_accepted(app.tasks["only"].enqueue(f"{sys.argv[1]} {n}"))
    for job in app.tasks["plain"].enqueue_many([(m,) for m in range(5)]):
        record_accepted(job)
"""


@pytest.fixture
def servers() -> Iterator[dict[str, MariaDBServer]]:
    """Those that the scenarios of a test have of their own, by the scenario's name."""
    started: dict[str, MariaDBServer] = {}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture
def new_ledger(servers: dict[str, MariaDBServer]) -> Callable[[Path], str]:
    """On a server that may be hurt. It lives as long as the scenario's thread."""

    def start(folder: Path) -> str:
        server = servers[folder.name] = MariaDBServer.start(fsync=False)
        url = server.new_database("ledger")
        migrated(url)
        return url

    return start


@pytest.mark.timeout(240)
def test_outages(side_by_side: SideBySide, servers: dict[str, MariaDBServer]) -> None:
    """10 s without a server, five leases, while 500 jobs are enqueued and run."""
    side_by_side(
        stopped=lambda site: outage(site, servers["stopped"], servers["stopped"].stop),
        killed=lambda site: outage(site, servers["killed"], servers["killed"].kill),
    )


def test_connections_that_are_ended(
    side_by_side: SideBySide, servers: dict[str, MariaDBServer]
) -> None:
    """An administrator ends all connections, over and over, while jobs are enqueued and run."""
    side_by_side(cut=lambda site: cut_again_and_again(site, servers["cut"]))


def cut_again_and_again(site: Site, server: MariaDBServer) -> None:
    """Nothing is lost, nothing doubled, and each body runs once."""
    for _ in range(2):
        site.worker(lease=LEASE)
    producers = [site.python(PRODUCE, n) for n in range(2)]
    cuts = seen = 0
    while any(producer.poll() is None for producer in producers):
        seen = len(accepted_by_others(site)) + 20
        wait_until(
            lambda seen=seen: (
                len(accepted_by_others(site)) >= seen
                or all(producer.poll() is not None for producer in producers)
            ),
            "more jobs to be accepted",
        )
        cuts += bool(server.cut_connections("ledger"))
    assert cuts > 5
    for producer in producers:
        site.output_of(producer)
    site.accepted += accepted_by_others(site)
    assert len(site.accepted) == 560
    site.wait_all_over(60)
    check_that_all_ran_once(site)


# -- transactions undone, tables locked


def test_undone(side_by_side: SideBySide, servers: dict[str, MariaDBServer]) -> None:
    """Transactions that the server undoes for another's sake, and programs that lock much."""

    def locked(site: Site, server: MariaDBServer, table: str) -> None:
        table_locked(site, table_lock(server, table))

    side_by_side(
        worker=lambda site: deadlock_of_a_worker(site, servers["worker"]),
        producer=lambda site: deadlock_of_a_producer(site, servers["producer"]),
        jobs=lambda site: locked(site, servers["jobs"], "jobs"),
        workers=lambda site: locked(site, servers["workers"], "workers"),
    )


@contextlib.contextmanager
def table_lock(server: MariaDBServer, table: str) -> Iterator[None]:
    """Another program keeps a table for itself."""
    with contextlib.closing(server.connect("ledger")) as other:
        other.cursor().execute(f"LOCK TABLES failbetter_{table} WRITE")
        yield


@contextlib.contextmanager
def a_deadlock(server: MariaDBServer) -> Iterator[Any]:
    """Another program's open transaction, which the server lets win the deadlock to come."""
    deadlocks = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'"
    server.ask("CREATE TABLE weight (n INT PRIMARY KEY)", database="ledger")
    with contextlib.closing(server.connect("ledger")) as other:
        other.begin()
        # The one that has changed less is undone.
        other.cursor().execute("INSERT INTO weight SELECT seq FROM seq_1_to_1000")
        yield other
        other.commit()
    ((_, counted),) = server.ask(deadlocks)
    assert int(counted) > 0


def wait_for_lock(server: MariaDBServer) -> None:
    """Wait until a transaction waits for a lock."""
    waits = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"

    def one_does() -> bool:
        time.sleep(0.2)  # what was read less than 0.1 s ago is not made anew, but shown again
        return bool(server.ask(waits))

    wait_until(one_does, "failbetter to wait for a lock")


def deadlock_of_a_worker(site: Site, server: MariaDBServer) -> None:
    """The other program has the last row that a commit of endings needs, and wants the first."""
    with a_deadlock(server) as other:
        worker = site.worker(lease=LEASE, processes=2)
        held, gate = site.hold(2)
        first, last = sorted(held, key=lambda job: site.log.wait_for("start", job).pid)
        wait_until(lambda: last.refresh().state == "running", "both to be known to run")
        worker.freeze()  # so that it hears of both ends at once
        gate.touch()
        for job in held:
            site.log.wait_for("end", job)
        time.sleep(0.1)  # between that line and the news of it there is nothing to be seen
        lock = "SELECT 1 FROM failbetter_jobs WHERE id = %s FOR UPDATE"
        other.cursor().execute(lock, (number_of(last),))
        worker.thaw()
        wait_for_lock(server)
        other.cursor().execute(lock, (number_of(first),))
    site.wait_over(held)
    check_that_all_ran_once(site)


def deadlock_of_a_producer(site: Site, server: MariaDBServer) -> None:
    """The other program's transaction enqueues the same unique keys in the opposite order."""
    only = site.app.tasks["only"]
    with ThreadPoolExecutor(1) as pool:
        with a_deadlock(server) as other:
            theirs = [only.using(connection=other).enqueue("b")]
            ours = pool.submit(only.enqueue_many, [("a",), ("b",)])
            wait_for_lock(server)
            theirs.append(only.using(connection=other).enqueue("a"))
        assert [job.created for job in theirs] == [True, True]
        assert [(job, job.created) for job in ours.result()] == [
            (theirs[1], False),
            (theirs[0], False),
        ]
    site.accepted += [job.id for job in theirs]
    site.worker()
    site.wait_over(theirs)
    check_that_all_ran_once(site)


# -- the disk


class SaidDisk:
    """The server says that a disk is full."""

    def __init__(self, server: MariaDBServer) -> None:
        self._server = server

    def fill(self) -> None:
        for event in ("INSERT", "UPDATE"):
            self._ask(
                f"CREATE TRIGGER full_{event} BEFORE {event} ON failbetter_jobs FOR EACH ROW"
                " SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1021, MESSAGE_TEXT = 'Disk full'"
            )

    def free(self) -> None:
        for event in ("INSERT", "UPDATE"):
            self._ask(f"DROP TRIGGER full_{event}")

    def _ask(self, statement: str) -> None:
        self._server.ask(statement, database="ledger")


def test_disk_full(tmp_path: Path) -> None:
    """Producers are told, nothing is half-written, and workers wait until there is space."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(MariaDBServer.start(fsync=False))
        url = server.new_database("ledger")
        migrated(url)
        site = stack.enter_context(open_site(url, tmp_path))
        disk_full_for_producers(site, SaidDisk(server))
        site.drain()
        disk_full_for_workers(site, SaidDisk(server))
