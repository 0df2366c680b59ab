"""Connections cut, at any moment and at the worst one; transactions undone; tables locked.

Promises 1, 3 and 9 where a commit's outcome is not heard: nothing lost, nothing twice, nothing
said to be so.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.faults.apps import make_app
from tests.faults.conftest import on_postgresql
from tests.faults.harness import Site, accepted_by_others, wait_until
from tests.servers.postgres import shared_server
from tests.servers.proxy import CuttingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.conftest import SideBySide

LEASE = 2.0
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"
INSERTED = b"C\x00\x00\x00\x0fINSERT 0 1\x00"
"""How a server says that it has done it."""


@pytest.fixture
def new_ledger() -> Callable[[Path], str]:
    """On the shared server, to which nothing happens: only connections and transactions suffer."""
    shared_server()  # from this thread, which lasts
    return on_postgresql


@contextlib.contextmanager
def proxied(site: Site) -> Iterator[tuple[CuttingProxy, dict[str, str]]]:
    """A proxy before the site's server, and the environment of who goes through it."""
    with CuttingProxy("127.0.0.1", shared_server().port) as proxy:
        yield proxy, {"FAILBETTER_URL": proxy.through(site.url)}


def connect(site: Site) -> psycopg.Connection[tuple[Any, ...]]:
    """Another program in the ledger's database."""
    return psycopg.connect(site.url.replace("+psycopg", ""), autocommit=True)


def check_that_nobody_left(site: Site) -> None:
    """No worker has ended, was thought dead, or believes an ending of its own to be refused."""
    for worker in site.workers:
        assert worker.alive, worker.text()[-4000:]
        assert not worker.said("declared lost|is gone|changed nothing|Traceback"), worker.text()
    site.check()


def check_that_all_ran_once(site: Site) -> None:
    for job in site.app.jobs:
        row = job.row
        assert (row.state, row.starts, row.losses) == ("succeeded", 1, 0), job.attempts
    assert site.app.jobs.count() == len(site.accepted)
    check_that_nobody_left(site)


def test_cut(side_by_side: SideBySide) -> None:
    """Connections that break."""
    side_by_side(
        cut_again_and_again=cut_again_and_again,
        enqueues_in_doubt=enqueues_in_doubt,
        endings_in_doubt=endings_in_doubt,
        effects_in_doubt=effects_in_doubt,
    )


# -- at any moment


PRODUCE = """
for n in range(100):
    record_accepted(app.tasks["plain"].enqueue(n))
    record_accepted(app.tasks["only"].enqueue(f"{sys.argv[1]} {n}"))
    for job in app.tasks["plain"].enqueue_many([(m,) for m in range(5)]):
        record_accepted(job)
"""


def cut_again_and_again(site: Site) -> None:
    """An administrator ends all connections, over and over, while jobs are enqueued and run."""
    chance = random.Random(site.seed)
    for _ in range(2):
        site.worker(lease=LEASE)
    producers = [site.python(PRODUCE, n) for n in range(2)]
    cuts = 0
    while any(producer.poll() is None for producer in producers):
        seen = len(accepted_by_others(site)) + chance.randrange(5, 60)
        wait_until(
            lambda seen=seen: (
                len(accepted_by_others(site)) >= seen
                or all(producer.poll() is not None for producer in producers)
            ),
            "more jobs to be accepted",
        )
        cuts += bool(shared_server().cut_connections(site.app.database.url.database or ""))
    assert cuts > 10
    for producer in producers:
        site.output_of(producer)
    site.accepted += accepted_by_others(site)
    assert len(site.accepted) == 1_400
    site.wait_all_over(60)
    check_that_all_ran_once(site)


# -- at the worst moment


def enqueues_in_doubt(site: Site) -> None:
    """Neither lost nor doubled, whether it was committed or was not."""
    with proxied(site) as (proxy, env):
        app = make_app(env["FAILBETTER_URL"])

        def in_doubt(done: bytes, asked: bytes, enqueue: Callable[[], None]) -> None:
            enqueue()  # so that the connection is there
            for part, by in ((done, "server"), (asked, "client")):
                for _ in range(3):
                    proxy.break_at(part, by=by, times=1)
                    enqueue()
                    assert proxy.broken == 1

        def one() -> None:
            site.accepted.append(app.tasks["plain"].enqueue(1).id)

        def some() -> None:
            jobs = app.tasks["plain"].enqueue_many([(n,) for n in range(20)])
            assert all(job.created for job in jobs)
            site.accepted.extend(job.id for job in jobs)

        def unique() -> None:
            job = app.tasks["only"].enqueue(f"key {len(site.accepted)}")
            assert job.created
            again = app.tasks["only"].enqueue(f"key {len(site.accepted)}")
            assert (again, again.created) == (job, False)
            site.accepted.append(job.id)

        def some_unique() -> None:
            keys = [f"key {len(site.accepted) + n}" for n in range(3)]
            keys.append(keys[1])
            jobs = app.tasks["only"].enqueue_many([(key,) for key in keys])
            assert [job.created for job in jobs] == [True, True, True, False]
            assert jobs[3] == jobs[1]
            site.accepted.extend(job.id for job in jobs[:3])

        try:
            in_doubt(INSERTED, b"INSERT INTO", one)
            for many in (some, unique, some_unique):
                in_doubt(COMMITTED, b"COMMIT\x00", many)
        finally:
            app.close()
    assert len(set(site.accepted)) == len(site.accepted) == site.app.jobs.count()
    site.worker()
    site.wait_all_over()
    check_that_all_ran_once(site)


def endings_in_doubt(site: Site) -> None:
    """Every third commit of a worker is done and not heard of: it claims, ends and tries again."""
    with proxied(site) as (proxy, env):
        worker = site.worker(lease=LEASE, processes=2, env=env)
        proxy.break_at(COMMITTED, by="server", times=40, every=3)
        plain = site.enqueue_many("plain", [(n, 0.01) for n in range(60)])
        flaky = site.enqueue_many("flaky", [(n, 2) for n in range(20)])
        hopeless = site.enqueue_many("hopeless", [(n,) for n in range(10)])
        mortal = site.enqueue_many("die_at_first", [(9, 1)] * 3)
        site.wait_over([*plain, *flaky, *hopeless, *mortal], 60)
        assert proxy.broken > 20
        assert [(job.state, job.row.starts) for job in plain] == [("succeeded", 1)] * 60
        assert [(job.state, job.row.starts) for job in flaky] == [("succeeded", 3)] * 20
        assert [(job.state, job.row.starts) for job in hopeless] == [("failed", 3)] * 10
        assert [(job.state, job.row.starts) for job in mortal] == [("succeeded", 2)] * 3
        assert worker.alive
        check_that_nobody_left(site)


def effects_in_doubt(site: Site) -> None:
    """An effect whose intention, or whose having happened, was written and not heard of."""
    with proxied(site) as (proxy, env):
        site.worker(lease=LEASE, env=env)
        proxy.break_at(COMMITTED, by="server", times=30, every=2)
        jobs = site.enqueue_many("pay", [(n,) for n in range(12)])
        site.wait_over(jobs, 90)
        assert proxy.broken > 10
        assert [(job.state, job.row.starts) for job in jobs] == [("succeeded", 1)] * 12
        assert [len(site.log.entries("effect charge", job)) for job in jobs] == [1] * 12
        check_that_nobody_left(site)
