"""The ground of the verbs: transactions, durability, errors in the ledger's words, forks."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.backends import Backend
from tests.conformance.kit import Ledger, new_job, new_worker
from tests.unit.processes import in_fork, other

from failbetter import App, LedgerError, LedgerFull, LedgerUnavailable
from failbetter.ledger import registry
from failbetter.ledger.database import Database
from failbetter.ledger.enqueue import insert_jobs
from failbetter.ledger.kinds import Tx

only_sqlite = pytest.mark.usefixtures("_sqlite")


@pytest.fixture
def _sqlite(backend: Backend) -> None:
    if backend.name != "sqlite":
        pytest.skip("about SQLite")


# -- transactions


def test_an_error_undoes_the_transaction(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.database.write() as tx:
        registry.register(tx, new_worker(1))
        _ = 1 / 0
    assert ledger.workers() == []
    ledger.register(1)  # and the next one can write


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_so_does_what_is_no_exception(ledger: Ledger, error: type[BaseException]) -> None:
    with pytest.raises(error), ledger.database.write():
        raise error
    assert ledger.add()


def test_what_is_not_committed_is_not_seen(ledger: Ledger, connect: Callable[[], Ledger]) -> None:
    elsewhere = connect()
    with ledger.database.write() as tx:
        registry.register(tx, new_worker(1))
        assert elsewhere.workers() == []
    assert len(elsewhere.workers()) == 1


def test_there_is_news_when_another_writes(ledger: Ledger, connect: Callable[[], Ledger]) -> None:
    elsewhere = connect()
    ledger.database.listen()
    deadline = time.monotonic() + 10
    while ledger.database.has_news():
        assert time.monotonic() < deadline
    elsewhere.register(2, idle=1)
    elsewhere.add()
    while not ledger.database.has_news():
        assert time.monotonic() < deadline


def test_closing_is_not_the_end(ledger: Ledger) -> None:
    number = ledger.add()
    ledger.database.close()
    ledger.database.close()
    assert ledger.row(number)
    assert ledger.add()


def test_threads_share_a_database(ledger: Ledger) -> None:
    numbers: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(25):
                numbers.append(ledger.add())
                ledger.row(numbers[-1])
                ledger.rows(states=("failed",))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(numbers)) == len(ledger.rows()) == 150


# -- durability


def synchronous(tx: Tx) -> int:
    return int(tx._connection.execute("PRAGMA synchronous").fetchone()[0])


FULL, NORMAL = 2, 1


@only_sqlite
def test_accepted_means_on_disk(database_url: str) -> None:
    with_all = Database(database_url)
    with with_all.write() as tx:
        assert synchronous(tx) == FULL
        assert tx._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    # What may be lost in a power cut, a claim, need not wait for the disk…
    with with_all.write(durable=False) as tx:
        assert synchronous(tx) == NORMAL
    # … and does not make what follows less durable.
    with with_all.write() as tx:
        assert synchronous(tx) == FULL
    with_all.close()


@only_sqlite
def test_relaxed_is_a_choice(database_url: str) -> None:
    relaxed = Database(database_url, durable=False)
    for durable in (True, False, True):
        with relaxed.write(durable=durable) as tx:
            assert synchronous(tx) == NORMAL
    relaxed.close()


@only_sqlite
def test_every_connection_is_as_durable(database_url: str) -> None:
    database = Database(database_url)
    database.ensure_schema()
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


@only_sqlite
def test_the_app_is_durable_unless_told(database_url: str) -> None:
    for durability, expected in (("full", FULL), ("relaxed", NORMAL)):
        app = App(database_url, durability=durability)  # type: ignore[arg-type]
        with app.database.write() as tx:
            assert synchronous(tx) == expected
        app.close()


KILLED = """
    import os, sys
    import failbetter
    app = failbetter.App(sys.argv[1])
    @app.task
    def work(n: int) -> None: ...
    for n in range(10_000):
        print(work.enqueue(n).id)
"""


def test_what_was_accepted_survives_a_kill(database_url: str) -> None:
    with other(KILLED, database_url) as producer:
        accepted = [producer.hear() for _ in range(30)]
        producer.kill()
        while line := producer.hear():
            accepted.append(line)
    app = App(database_url)
    stored = {job.id for job in app.jobs}
    assert {job for job in accepted if len(job) == 13} <= stored
    app.close()


# -- errors in the ledger's words


def test_a_locked_database_is_said_and_nothing_is_written(
    backend: Backend, database_url: str, ledger: Ledger
) -> None:
    ledger.add()
    with backend.occupied(database_url):
        started = time.monotonic()
        with (
            pytest.raises(LedgerUnavailable, match="nothing was written"),
            ledger.database.write(timeout=0.3) as tx,
        ):
            registry.register(tx, new_worker(1))
            pytest.fail("got its turn")
        assert 0.3 <= time.monotonic() - started < 5
        assert len(ledger.rows()) == 1  # reading goes on
    assert ledger.add()


def test_a_database_that_is_locked_for_a_moment_is_waited_for(
    backend: Backend, database_url: str, ledger: Ledger
) -> None:
    locked = threading.Event()

    def hold() -> None:
        with backend.occupied(database_url):
            locked.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    assert ledger.add()
    thread.join()


HOLDING = """
    import sys
    from failbetter.ledger.database import Database
    database = Database(sys.argv[1])
    with database.write():
        print("in")
        sys.stdin.readline()
"""


FROZEN = """
    import os, signal, sys
    from failbetter.ledger import registry
    from failbetter.ledger.database import Database
    database = Database(sys.argv[1])
    with database.write() as tx:
        registry.renew(tx, 1, 5, False)
        print("in")
        os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_who_is_frozen_in_a_transaction_keeps_nobody_out_for_long(
    database_url: str, ledger: Ledger, backend: Backend
) -> None:
    """A worker that is frozen, or cut off, in the middle of a commit: its row can be removed."""
    if backend.name == "sqlite":
        pytest.skip("its lock is the process's, which only its death gives back")
    ledger.register(1)
    with other(FROZEN, database_url) as writer:
        assert writer.hear() == "in"
        began = time.monotonic()
        with ledger.database.write(timeout=20) as tx:
            assert registry.remove(tx, 1)
        assert time.monotonic() - began > 1, "nothing was locked: this shows nothing"
        writer.kill()


@only_sqlite
def test_another_writer_that_takes_too_long(database_url: str, ledger: Ledger) -> None:
    with other(HOLDING, database_url) as writer:
        assert writer.hear() == "in"
        with (
            pytest.raises(LedgerUnavailable, match="nothing was written"),
            ledger.database.write(timeout=0.2),
        ):
            pytest.fail("got its turn")
        writer.kill()
        assert ledger.add()


@only_sqlite
def test_a_full_disk_is_said_and_nothing_is_half_written(ledger: Ledger) -> None:
    ledger.add()
    with ledger.database.look() as tx:
        pages = tx._connection.execute("PRAGMA page_count").fetchone()[0]
        tx._connection.execute(f"PRAGMA max_page_count={pages + 5}")
    with pytest.raises(LedgerFull, match="full"):
        insert_jobs(ledger.database, [new_job(payload="x" * 2_000) for _ in range(500)])
    assert len(ledger.rows()) == 1
    with ledger.database.look() as tx:
        tx._connection.execute("PRAGMA max_page_count=1000000")
    assert ledger.add()


@only_sqlite
def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"this is no database" * 1000)
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(LedgerError, match=r"jobs\.db"):
        database.ensure_schema()
    database.close()


@only_sqlite
@pytest.mark.parametrize("place", ["missing/jobs.db", "folder"])
def test_a_place_where_no_database_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    database = Database(f"sqlite:///{tmp_path / place}")
    with pytest.raises(LedgerUnavailable, match="folder"):
        Ledger(database).add()
    with pytest.raises(LedgerUnavailable):
        Ledger(database).rows()
    database.close()


@only_sqlite
def test_a_database_without_its_folder_works_again_once_it_is_there(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'later' / 'jobs.db'}")
    with pytest.raises(LedgerUnavailable):
        Ledger(database).add()
    (tmp_path / "later").mkdir()
    assert Ledger(database).add()
    database.close()


@only_sqlite
def test_names_with_spaces_and_umlauts(tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen & Ümläuten #1"
    folder.mkdir()
    database = Database(f"sqlite:///{folder / 'jobs 1.db'}")
    assert Ledger(database).add()
    assert (folder / "jobs 1.db").is_file()
    assert (folder / "jobs 1.db-fleet").is_dir()
    database.close()


@only_sqlite
def test_a_relative_path_is_that_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///jobs.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Ledger(database).add()
    database.close()
    assert (tmp_path / "jobs.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- forks


def test_a_forked_process_uses_connections_of_its_own(ledger: Ledger) -> None:
    first = ledger.add()
    answer = in_fork(lambda: ledger.add())
    assert answer.isdigit()
    assert {row.id for row in ledger.rows()} == {first, int(answer)}
    assert ledger.add()


def test_a_fork_in_the_middle_of_a_transaction(ledger: Ledger) -> None:
    """The child must neither write into the parent's transaction nor end it."""
    ledger.add()
    with ledger.database.write() as tx:
        registry.register(tx, new_worker(1))
        seen = in_fork(lambda: (len(ledger.rows()), len(ledger.workers())))
    assert seen == "(1, 0)"
    assert len(ledger.workers()) == 1


def test_a_fork_while_another_thread_writes(ledger: Ledger) -> None:
    ledger.add()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger.database.write():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    assert in_fork(lambda: (len(ledger.rows()), ledger.workers())) == "(1, [])"
    leave.set()
    thread.join()
    assert ledger.add()


def test_a_child_that_ends_takes_nothing_from_its_parent(ledger: Ledger) -> None:
    """SQLite's locks belong to the process: closing a copy of the file must not drop them."""
    for _ in range(3):
        in_fork(lambda: ledger.add())
        ledger.add()
    assert len(ledger.rows()) == 6


LEAVES_A_CHILD = """
    import os, sys, time
    from failbetter.ledger.database import Database
    database = Database(sys.argv[1])
    with database.write():
        child = os.fork()
        if child == 0:
            time.sleep(60)
        print(child)
        sys.stdin.readline()
"""


def test_a_child_does_not_keep_its_dead_parents_turn(database_url: str, ledger: Ledger) -> None:
    with other(LEAVES_A_CHILD, database_url) as parent:
        child = int(parent.hear())
        try:
            parent.kill()
            with ledger.database.write(timeout=2):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


# -- what SQLite must be left alone with


WATCHED = """
    import sys
    opened = []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else 0)
    from failbetter.ledger.database import Database
    from failbetter.recovery.sweeper import Sweeper
    from tests.conformance.kit import Ledger
    ledger = Ledger(Database(sys.argv[1]))
    ledger.register(1)
    ledger.add()
    ledger.end(ledger.claim_one())
    ledger.rows()
    ledger.database.has_news()
    Sweeper(ledger.database).tick(1.0)
    ledger.database.close()
    assert any(path.endswith("turn.now") for path in opened)
    print(*[path for path in opened if path.endswith((".db", ".db-wal", ".db-shm"))])
"""


@only_sqlite
def test_the_ledgers_file_is_never_opened_beside_sqlite(database_url: str) -> None:
    """Merely opening and closing it in this process would drop the locks of all connections."""
    with other(WATCHED, database_url) as process:
        assert process.hear() == ""
        assert process.end() == 0


@only_sqlite
def test_its_file_is_sound_at_the_end(ledger: Ledger, database_url: str) -> None:
    ledger.insert(*(new_job() for _ in range(100)))
    ledger.database.close()
    connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
