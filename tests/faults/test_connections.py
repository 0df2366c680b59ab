"""Connections cut, at any moment and at the worst one; transactions undone; tables locked.

Promises 1, 3 and 9 where a commit's outcome is not heard: nothing lost, nothing twice, nothing
said to be so.
"""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
from tests.faults.apps import make_app
from tests.faults.conftest import on_postgresql
from tests.faults.harness import Site, accepted_by_others, number_of, wait_until
from tests.servers.home import free_port
from tests.servers.postgres import shared_server
from tests.servers.proxy import CuttingProxy

import failbetter
from failbetter.limits import WRITE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.conftest import SideBySide

T = TypeVar("T")

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
        effect_asked_for_again=effect_asked_for_again,
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


def effect_asked_for_again(site: Site) -> None:
    """One that is in doubt stays so although it is asked for again while the ledger is away."""
    with proxied(site) as (proxy, env):
        worker = site.worker(env=env)
        gate = site.folder / "gate"
        job = site.enqueue("pay_again", str(gate))
        site.log.wait_for("doubts", job)
        proxy.retarget("127.0.0.1", free_port())
        proxy.reset_all()
        gate.touch()
        site.log.wait_for("asks", job)
        worker.wait_said("out of reach")
        proxy.retarget("127.0.0.1", shared_server().port)
        site.wait_over([job])
        assert job.reason == "uncertain"
        assert len(site.log.entries("effect charge", job)) == 1
        check_that_nobody_left(site)


# -- transactions undone, rows and tables locked


def test_undone(side_by_side: SideBySide) -> None:
    """Transactions that the server undoes for another's sake, and programs that lock much."""
    side_by_side(
        errors_that_pass=errors_that_pass,
        deadlock_of_a_worker=deadlock_of_a_worker,
        deadlock_of_a_producer=deadlock_of_a_producer,
        jobs_locked=lambda site: table_locked(site, locked(site, "jobs")),
        workers_locked=lambda site: table_locked(site, locked(site, "workers")),
        locked_for_longer_than_a_producer_waits=locked_for_longer_than_a_producer_waits,
    )


# A sequence is not undone with the transaction that counts with it.
UNDO_TWICE = """
CREATE SEQUENCE undone;
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('undone') <= 2 THEN RAISE 'not now' USING ERRCODE = TG_ARGV[0]; END IF;
  RETURN NULL;
END $$;
"""


def errors_that_pass(site: Site) -> None:
    """What a server says when it undoes a transaction: everyone tries again."""
    with connect(site) as link:
        link.execute(UNDO_TWICE)

        def undone(code: str, act: Callable[[], T]) -> T:
            link.execute("ALTER SEQUENCE undone RESTART")
            link.execute(
                "CREATE TRIGGER undo AFTER INSERT OR UPDATE ON failbetter_jobs"
                f" EXECUTE FUNCTION undo('{code}')"
            )
            found = act()
            link.execute("DROP TRIGGER undo ON failbetter_jobs")
            times = link.execute("SELECT last_value FROM undone").fetchone()
            assert times is not None
            assert times[0] > 2, "nothing was undone"
            return found

        retried = []
        for code in ("40001", "40P01"):
            undone(code, lambda: site.enqueue("plain", 1))
            undone(code, lambda: site.enqueue("only", "key"))
            undone(code, lambda: site.enqueue_many("plain", [(n,) for n in range(10)]))
            assert undone(code, site.enqueue("plain", 1).cancel).reason == "cancelled"
            site.drain()
            worker = site.worker(lease=LEASE)
            failed = site.enqueue_many("hopeless", [(1,), (2,)])
            site.log.wait_for("start", failed[1])
            undone(code, functools.partial(site.wait_over, failed))
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
            assert [job.reason for job in failed] == ["error", "error"]
            assert undone(code, failed[0].discard).reason == "by_operator"
            assert undone(code, failed[1].retry).state == "pending"
            retried += failed
        site.drain()
        assert not any(worker.said("Traceback|changed nothing") for worker in site.workers)
        site.check(retried=retried)


def wait_for_lock(link: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Wait until a connection of failbetter's waits for a lock."""
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'failbetter' AND wait_event_type = 'Lock'"
    )
    wait_until(lambda: link.execute(waits).fetchone(), "failbetter to wait for a lock")


@contextlib.contextmanager
def a_deadlock(site: Site, noticed_after: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Another program's open transaction, which the server lets win the deadlock to come."""
    with connect(site) as other:
        other.execute("SET deadlock_timeout = '60s'")
        other.execute(
            f"ALTER DATABASE {site.app.database.url.database}"
            f" SET deadlock_timeout = '{noticed_after}'"
        )
        with other.transaction():
            yield other
        found = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        wait_until(lambda: other.execute(found).fetchone() != (0,), "the deadlock to be counted")


def deadlock_of_a_worker(site: Site) -> None:
    """The other program has the last row that a commit of endings needs, and wants the first."""
    with a_deadlock(site, "300ms") as other:  # before the worker's patience ends
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
        other.execute(lock, (number_of(last),))
        worker.thaw()
        wait_for_lock(other)
        other.execute(lock, (number_of(first),))
    site.wait_over(held)
    check_that_all_ran_once(site)


def deadlock_of_a_producer(site: Site) -> None:
    """The other program's transaction enqueues the same unique keys in the opposite order."""
    only = site.app.tasks["only"]
    with ThreadPoolExecutor(1) as pool, connect(site) as looker:
        with a_deadlock(site, "2s") as other:
            theirs = [only.using(connection=other).enqueue("b")]
            ours = pool.submit(only.enqueue_many, [("a",), ("b",)])
            wait_for_lock(looker)
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


@contextlib.contextmanager
def locked(site: Site, table: str) -> Iterator[None]:
    """Another program keeps a table for itself."""
    with connect(site) as other, other.transaction():
        other.execute(f"LOCK TABLE failbetter_{table} IN ACCESS EXCLUSIVE MODE")
        yield


def table_locked(site: Site, locked: contextlib.AbstractContextManager[None]) -> None:
    """Four leases of it: the worker waits, looks after its children meanwhile, and goes on."""
    site.worker(lease=LEASE, processes=2)
    held, gate = site.hold(1)
    hanging = site.enqueue("hang_asleep")
    site.log.wait_for("start", held[0])
    began = site.log.wait_for("start", hanging).at
    with locked:
        locked_at = time.monotonic()
        gate.touch()
        producer = site.python('record_accepted(app.tasks["plain"].enqueue(1))')
        stopped = site.log.wait_for("raise TimedOut", hanging).at
        assert stopped - began < 1 + 2
        site.log.wait_for("end", held[0])
        time.sleep(max(4 * LEASE - (time.monotonic() - locked_at), 0))
    site.output_of(producer)
    site.accepted += accepted_by_others(site)
    site.wait_all_over()
    assert (hanging.refresh().state, hanging.reason) == ("failed", "timeout")
    assert [job.row.losses for job in site.app.jobs] == [0, 0, 0]
    check_that_nobody_left(site)


def locked_for_longer_than_a_producer_waits(site: Site) -> None:
    """It gets a clear error, not before its patience ends, and nothing is written later on."""
    site.enqueue("plain", 1)
    with contextlib.ExitStack() as stack:
        one, another, third = (
            stack.enter_context(contextlib.closing(make_app(site.url))).tasks for _ in range(3)
        )
        pool = stack.enter_context(ThreadPoolExecutor(3))
        other = stack.enter_context(connect(site))
        stack.enter_context(other.transaction())
        other.execute("LOCK TABLE failbetter_jobs IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        tries = [
            pool.submit(one["plain"].enqueue, 2),
            pool.submit(another["only"].enqueue, "key"),
            pool.submit(third["plain"].enqueue_many, [(3,), (4,)]),
        ]
        for tried in tries:
            error = tried.exception()
            assert isinstance(error, failbetter.LedgerUnavailable)
            assert "locked by another program; nothing was written" in str(error)
            assert WRITE_TIMEOUT - 1 < time.monotonic() - began < WRITE_TIMEOUT + 8
    assert site.app.jobs.count() == 1
    site.drain()
    site.check()
