"""Workers on several hosts: cut off and back, sharing the work, sweeping one at a time, woken.

A host is a fleet folder of its own, in a network namespace of its own where that is allowed.
Promises 2, 3 and 6.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Protocol

import psycopg
import pytest
from sqlalchemy import func, select
from tests.faults.conftest import migrated, on_postgresql
from tests.faults.harness import WORKER, Site, accepted_by_others, open_site, wait_until
from tests.servers.postgres import PostgresServer, shared_server
from tests.servers.proxy import CuttingProxy

from failbetter import ids
from failbetter.ledger import claims, registry
from failbetter.ledger.kinds.postgres.connection import channel_of
from failbetter.ledger.schema import attempts, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.conftest import SideBySide

LEASE = 2.0


@pytest.fixture
def new_ledger() -> Callable[[Path], str]:
    """On the shared server, to which nothing happens: only hosts suffer."""
    shared_server()  # from this thread, which lasts
    return on_postgresql


def fleet(site: Site, name: str) -> dict[str, str]:
    """The environment of a process on the host of that name."""
    folder = site.folder / name
    folder.mkdir(exist_ok=True)
    return {"FAILBETTER_FLEET_FOLDER": str(folder)}


# -- cut off


class Host(Protocol):
    """A place to run a worker, whose network can be cut."""

    command: tuple[str, ...]
    url: str

    def cut(self) -> None: ...

    def heal(self) -> None: ...


class ProxiedHost:
    """A host as far as its connections go: all through a proxy, that becomes a black hole."""

    command = WORKER

    def __init__(self, proxy: CuttingProxy, url: str) -> None:
        self.url = proxy.through(url)
        self.cut, self.heal = proxy.cut, proxy.heal


class Namespace:
    """A network of its own, with one cable to the server."""

    url = ""

    def __init__(self) -> None:
        self.name = f"failbetter-{os.getpid()}"
        self._cable, self._far = f"fb{os.getpid()}", f"fc{os.getpid()}"
        net = f"198.18.{os.getpid() & 255}"  # meant for tests of networks
        self.server, self.here = f"{net}.1", f"{net}.2"

    def make(self) -> None:
        """Raises CalledProcessError where that is refused."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", self._far, "netns", self.name)
        _ip("addr", "add", f"{self.server}/30", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        _ip("-n", self.name, "addr", "add", f"{self.here}/30", "dev", self._far)
        _ip("-n", self.name, "link", "set", self._far, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            _ip("netns", "del", self.name)  # and the cable with it

    @property
    def command(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name, *WORKER)

    def cut(self) -> None:
        """Pull the cable: nobody is told of it, and nothing is acknowledged any more."""
        _ip("link", "set", self._cable, "down")

    def heal(self) -> None:
        _ip("link", "set", self._cable, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def namespace() -> Iterator[Namespace | None]:
    """None where it is refused."""
    made = Namespace()
    try:
        made.make()
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"no network namespace here: {error}")
        yield None
    else:
        yield made
    finally:
        made.remove()


def test_cut_off(side_by_side: SideBySide, namespace: Namespace | None, tmp_path: Path) -> None:
    """A host cut off past its workers' leases, and back: by a proxy and, if allowed, for real."""

    def behind_a_proxy(site: Site) -> None:
        with CuttingProxy("127.0.0.1", shared_server().port) as proxy:
            cut_off(site, ProxiedHost(proxy, site.url))

    def off_the_cable(site: Site) -> None:
        if namespace is None:
            return
        with PostgresServer.start(
            {"listen_addresses": f"127.0.0.1,{namespace.server}"}, fsync=False
        ) as server:
            with (server.data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {namespace.here}/32 trust\n")
            server.configure({})
            url = server.new_database("ledger")
            migrated(url)
            namespace.url = url.replace("127.0.0.1", namespace.server)
            folder = tmp_path / "cable"
            folder.mkdir()
            with open_site(url, folder) as real:
                cut_off(real, namespace)

    side_by_side(behind_a_proxy=behind_a_proxy, off_the_cable=off_the_cable)


def cut_off(site: Site, host: Host) -> None:
    """Its jobs are handed on, its late endings change nothing, and it begins anew."""
    far = site.worker(
        lease=LEASE,
        processes=3,
        command=host.command,
        env={"FAILBETTER_URL": host.url, **fleet(site, "far")},
    )
    held, gate = site.hold(2)
    for job in held:
        site.log.wait_for("start", job)
    near = site.worker(lease=LEASE, processes=3, env=fleet(site, "near"), queues=["default"])
    hanging = site.enqueue("hang_asleep", using={"queue": "far"})
    began = site.log.wait_for("start", hanging).at
    host.cut()
    cut = time.monotonic()
    for job in held:
        assert site.log.wait_for("start", job, times=2).at - cut < LEASE + 5
    near.wait_said(r"is gone \(its lease ran out\)")
    site.wait_over(site.enqueue_many("plain", [(n, 0.01) for n in range(50)]))
    gate.touch()
    site.wait_over(held)
    before = [(job.row.fence, job.row.ended_at, job.attempts) for job in held]
    assert [[one.cause for one in job.attempts] for job in held] == [["lost", "returned"]] * 2
    assert [job.row.losses for job in held] == [1, 1]
    for job in held:
        site.log.wait_for("end", job, times=2)
    # Stopped, if late: its supervisor waits for the silent network in between.
    assert site.log.wait_for("raise TimedOut", hanging).at - began < 1 + 12
    host.heal()
    far.wait_said("late result of attempt 1 changed nothing")
    far.wait_said("declared lost")
    site.wait_over([hanging])
    assert [one.cause for one in hanging.attempts] == ["lost", "timed_out"]
    near.send(signal.SIGTERM)
    assert near.wait() == 0
    wait_until(lambda: far.pid in site.registered(), "it to register anew")
    site.wait_over(site.enqueue_many("plain", [(n,) for n in range(20)]))
    after = [(job.refresh().row.fence, job.row.ended_at, job.attempts) for job in held]
    assert after == before
    assert far.alive
    far.kill()
    site.check()


# -- sharing


def test_hosts(side_by_side: SideBySide) -> None:
    """Workers that have nothing but the ledger in common."""
    side_by_side(
        fair_shares=fair_shares,
        one_sweeper=one_sweeper,
        woken=woken,
    )


def fair_shares(site: Site) -> None:
    """Of 2,000 short jobs neither of two hosts gets less than a quarter."""
    workers = [site.worker(env=fleet(site, name)) for name in ("one", "other")]
    jobs = site.enqueue_many("plain", [(n, 0.001) for n in range(2_000)])
    site.wait_over(jobs)
    done = site.app.database.query(select(attempts.c.worker, func.count()).group_by("worker"))
    assert sorted(count for _, count in done)[0] > 500, done
    assert len(done) == 2
    for worker in workers:
        worker.kill()
    site.check()


def one_sweeper(site: Site) -> None:
    """Three find the same lost worker, with 1,000 jobs; one settles them, each once."""
    lost = 1_000
    jobs = site.enqueue_many("work", [(n,) for n in range(lost)])
    database = site.app.database
    ghost = registry.Worker(
        id=ids.take(), name="ghost", host="away", pid=1, fleet="far away", lease=2_000_000,
        beats=0, renewed_at=database.now(), started_at=database.now(), stopping=0, code=None,
        queues="[]", tasks="[]", processes=1, concurrency=1,
    )  # fmt: skip
    with database.write() as tx:
        registry.register(tx, ghost)
        claimed, _ = claims.claim(tx, ghost.id, [], lost, tx.now())
        claims.mark_begun(tx, [(tx.now(), job.id, job.fence, ghost.id) for job in claimed])
    assert len(claimed) == lost
    sweepers = [
        site.worker(lease=LEASE, queues=["nothing"], env=fleet(site, f"host-{n}")) for n in range(3)
    ]
    holders = set()

    def settled() -> bool:
        holders.update(row.worker for row in database.query(select(turns.c.worker)))
        return not any(job.row.claimed for job in site.app.jobs.where(state="running").limit(1))

    wait_until(settled, "the sweep")
    assert len(holders) == 1

    def told() -> list[int]:
        said = "worker ghost is gone (its lease ran out)"
        return sorted(worker.text().count(said) for worker in sweepers)

    wait_until(lambda: any(told()), "it to be told")
    assert told() == [0, 0, 1]
    for worker in sweepers:
        worker.kill()
    site.drain(env=fleet(site, "host-0"))
    for job in jobs:
        assert (job.refresh().row.losses, job.row.starts) == (1, 2)
    site.check()


# -- woken


# Looks for nothing on its own for an hour: what it finds, it was told of.
PATIENT = """
import failbetter.ledger.kinds.postgres.connection as connection
connection._LOOK_EVERY = 3600.0
import failbetter.worker.__main__
"""


def woken(site: Site) -> None:
    """An idle worker is told of work on another host; while all are busy, nobody is."""
    with psycopg.connect(site.url.replace("+psycopg", ""), autocommit=True) as ear:
        ear.execute(f'LISTEN "{channel_of(None)}"')

        def notified() -> int:
            return len(list(ear.notifies(timeout=0.2)))

        worker = site.worker(env=fleet(site, "far"), command=(sys.executable, "-c", PATIENT))
        wait_until(lambda: idle(site), "the worker to be idle")
        for n in range(5):
            site.wait_over([site.enqueue("plain", n)])
            wait_until(lambda: idle(site), "the worker to be idle again")
        assert notified() >= 5
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        worker = site.worker(env=fleet(site, "far"))
        held, gate = site.hold(1)
        site.log.wait_for("start", held[0])
        wait_until(lambda: not idle(site), "the worker to be busy")
        notified()
        waiting = [site.enqueue("plain", n) for n in range(20)]
        assert notified() == 0
        gate.touch()
        site.wait_over([*held, *waiting])
        wait_until(lambda: idle(site), "the worker to be idle once more")
        (long,), gate = site.hold(1)  # its window has grown, and it finds nothing else to do
        site.log.wait_for("start", long)
        wait_until(lambda: not idle(site), "the worker to be busy with a long body")
        gate.touch()
        site.wait_over([long])
        worker.kill()
        site.check()


def idle(site: Site) -> bool:
    with site.app.database.look() as tx:
        return any(worker.idle for worker in registry.all_workers(tx))


# -- clocks


SKEW = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {0}
time.time_ns = lambda: now_ns() + {0} * 10**9
"""


def test_wrong_clocks(site: Site) -> None:
    """Hosts whose clocks are off by an hour, either way: the ledger's time is the server's."""
    environments = {}
    for name, seconds in (("ahead", 3600), ("behind", -3600)):
        folder = site.folder / f"{name}-clock"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SKEW.format(seconds))
        path = f"{folder}{os.pathsep}{site.environment()['PYTHONPATH']}"
        environments[name] = {**fleet(site, name), "PYTHONPATH": path}
        site.worker(lease=LEASE, env=environments[name])
    began = time.time()
    producers = [site.python(PRODUCE, **environment) for environment in environments.values()]
    for producer in producers:
        site.output_of(producer)
    site.accepted += accepted_by_others(site)
    site.wait_all_over(10)
    for job in site.app.jobs:
        for attempt in job.attempts:
            assert began - 1 < attempt.begun_at.timestamp() <= attempt.ended_at.timestamp()
            assert attempt.ended_at.timestamp() < time.time() + 1
        assert began - 1 < job.created_at.timestamp() < time.time() + 1
        if job.task == "plain":
            assert job.attempts[0].begun_at >= job.run_at
    for worker in site.workers:
        assert worker.alive
        assert not worker.said("declared lost|is gone")
        worker.kill()
    site.check()


PRODUCE = """
for n in range(10):
    record_accepted(app.tasks["plain"].enqueue(n))
    record_accepted(app.tasks["plain"].using(run_after=1).enqueue(n))
    record_accepted(app.tasks["flaky"].enqueue(n, 2))
    record_accepted(app.tasks["released_at_first"].enqueue(n, 2))
"""
