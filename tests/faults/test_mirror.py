"""Workers killed at random, and rows that follow their jobs all the same (C1, C6).

In the ledger's own database a row and its job never differ, whoever looks and whenever; in another
one they are alike soon after.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import text
from tests.faults.harness import Site, open_site, wait_until
from tests.faults.mirrored import APP, ELSEWHERE, make_mirrored_app
from tests.faults.test_random_kills import Murderer
from tests.servers.postgres import fresh_database, shared_server

from failbetter.ledger import outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = 200


def make_table(url: str) -> None:
    """The user's table, with a row for each key."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE followers (id INTEGER PRIMARY KEY, status VARCHAR(20),"
                " error VARCHAR(200), ended_at TIMESTAMP)"
            )
        )
        rows = [{"id": key} for key in range(ROWS)]
        connection.execute(text("INSERT INTO followers (id, status) VALUES (:id, 'new')"), rows)
    engine.dispose()


@contextlib.contextmanager
def mirrored_site(url: str, folder: Path) -> Iterator[Site]:
    """A site whose jobs have rows that follow."""
    with open_site(url, folder) as site:
        site.app.close()
        site.app = make_mirrored_app(url)
        site.app.migrate()
        yield site


class Looker:
    """Compares rows and jobs in one snapshot, over and over."""

    # What is in the outbox may differ: a row was locked, as by a frozen worker.
    # The key's text is made by replacing: MySQL and MariaDB have no `||`, and SQLite no CONCAT.
    _QUERY = text(
        "SELECT f.id, f.status, j.state FROM followers f JOIN failbetter_jobs j"
        """ ON j.mirror_key = REPLACE('|followers.id|status|"?"', '?', CAST(f.id AS CHAR(9)))"""
        " WHERE f.status <> j.state AND j.id NOT IN (SELECT job_id FROM failbetter_outbox)"
        " AND NOT EXISTS (SELECT 1 FROM failbetter_jobs n WHERE n.mirror_key = j.mirror_key"
        " AND n.id > j.id)"
    )

    def __init__(self, url: str) -> None:
        self._url = url
        self._done = threading.Event()
        self.looks = 0
        self.differed: list[Any] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Looker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        engine = sqlalchemy.create_engine(self._url)
        while not self._done.wait(0.01):
            with engine.connect() as connection:
                self.differed += [tuple(row) for row in connection.execute(self._QUERY)]
            self.looks += 1
        engine.dispose()


def work_under_fire(site: Site, kills: int) -> None:
    """A job for each row, most of them twice, while workers and children are killed."""
    rng = random.Random(site.seed)
    keys = [*range(ROWS), *rng.sample(range(ROWS), ROWS // 2)]
    murderer = Murderer(site, rng, workers=2, app=APP, processes=2)
    while murderer.kills < kills:
        due = min(len(keys) * (murderer.kills + 1) // kills, len(keys))
        while len(site.accepted) < due:
            n = keys[len(site.accepted)]
            name, *more = rng.choice(
                [("work", 0.002), ("work", 0.02), ("flaky", rng.randrange(4)), ("hopeless",)]
            )
            site.enqueue(name, n, *more)
        time.sleep(rng.uniform(0, 0.02))
        murderer.strike()
    murderer.end()
    site.wait_all_over(90)
    print(dict(murderer.done))


def waiting(site: Site) -> int:
    """How many rows are still to be written."""
    with site.app.database.look() as tx:
        return outbox.waiting(tx, 1_000).count


@pytest.mark.timeout(240)
def test_killed_at_random(new_ledger: Callable[[Path], str], tmp_path: Path) -> None:
    """C1, C6: looked at in between and at the end, no row says what its job does not."""
    url = new_ledger(tmp_path)
    make_table(url)
    with mirrored_site(url, tmp_path) as site:
        with Looker(url) as looker:
            work_under_fire(site, 40)
        assert looker.differed == []
        assert looker.looks > 20
        wait_until(lambda: waiting(site) == 0, "the outbox to be empty")
        site.check()
        found = site.app.check_mirrors(dry_run=True)
        assert (found.checked, found.rows) == (ROWS, [])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_another_database(
    new_ledger: Callable[[Path], str], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: after all that, every row of the other database is right within the bound."""
    if kind == "sqlite":
        there = f"sqlite:///{tmp_path / 'shop.db'}"
    else:
        there = fresh_database("followers", make_table)
    if kind == "sqlite":
        make_table(there)
    monkeypatch.setenv(ELSEWHERE, there)
    with mirrored_site(new_ledger(tmp_path), tmp_path) as site:
        work_under_fire(site, 20)
        over = time.monotonic()
        # The turn of a killed worker's courier has to run out, and a frozen one is thawed.
        wait_until(lambda: waiting(site) == 0, "the outbox to be empty")
        print(f"all rows written {time.monotonic() - over:.1f} s after the last job")
        site.check()
        found = site.app.check_mirrors(dry_run=True)
        assert (found.checked, found.rows) == (ROWS, [])
    if kind == "postgresql":
        shared_server().drop_database(there)


def test_killed_between_the_two_commits(
    new_ledger: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: written there, not yet noted here: it is written again."""
    there = f"sqlite:///{tmp_path / 'shop.db'}"
    make_table(there)
    monkeypatch.setenv(ELSEWHERE, there)
    with mirrored_site(new_ledger(tmp_path), tmp_path) as site:
        site.enqueue_many("work", [(n,) for n in range(ROWS)])
        for at in (1, 2):
            first = site.worker(app=APP, fault=f"before_delivered:{at}", ready=False)
            assert first.wait() == -9
        assert waiting(site) > 0
        site.worker(app=APP)
        site.wait_all_over()
        wait_until(lambda: waiting(site) == 0, "the outbox to be empty")
        site.check()
        assert site.app.check_mirrors(dry_run=True).rows == []


def test_a_worker_that_stops_delivers_what_is_left(
    new_ledger: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: the last endings of a drain need no other worker to be seen."""
    there = f"sqlite:///{tmp_path / 'shop.db'}"
    make_table(there)
    monkeypatch.setenv(ELSEWHERE, there)
    with mirrored_site(new_ledger(tmp_path), tmp_path) as site:
        site.enqueue_many("work", [(n,) for n in range(ROWS)])
        site.drain(app=APP)
        assert waiting(site) == 0
        assert site.app.check_mirrors(dry_run=True).rows == []


def test_a_database_that_is_gone_stalls_nobody(
    new_ledger: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1: jobs run on; once it is there, its rows are right within the bound."""
    folder = tmp_path / "later"
    there = f"sqlite:///{folder / 'shop.db'}"
    monkeypatch.setenv(ELSEWHERE, there)
    with mirrored_site(new_ledger(tmp_path), tmp_path) as site:
        jobs = site.enqueue_many("work", [(n,) for n in range(ROWS)])
        worker = site.worker(app=APP)
        site.wait_over(jobs, 20)
        worker.wait_said("mirrored rows must wait")
        assert waiting(site) == ROWS
        folder.mkdir()
        make_table(there)
        back = time.monotonic()
        wait_until(lambda: waiting(site) == 0, "the outbox to be empty")
        # The bound, and as much again for a machine that does other things.
        assert time.monotonic() - back < 10
        assert site.app.check_mirrors(dry_run=True).rows == []
        assert worker.alive
