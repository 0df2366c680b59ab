"""The ledger on MariaDB, whose server is stopped, killed, full, or ends connections.

C1, promise 1; promise 2: an outage of the store declares nobody dead. What differs from the other
databases: how a broken connection, a lost commit and a full disk are told.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from tests.faults.conftest import migrated
from tests.faults.harness import Site, accepted_by_others, open_site, wait_until
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

# As the conformance suite's backend of this kind.
pytestmark = pytest.mark.skipif(
    not os.environ.get("FAILBETTER_TEST_MARIADB"), reason="only with $FAILBETTER_TEST_MARIADB"
)

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
