"""What a look at the ledger sees, and that a look costs the same however much there is."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from tests.conformance.kit import SECOND, Ledger, new_job, wall

from failbetter.errors import LedgerUnavailable
from failbetter.health import figures
from failbetter.health.figures import Figures, look
from failbetter.health.findings import judge
from failbetter.ledger.database import Database
from failbetter.ledger.registry import COUNT_HELD_TO
from failbetter.recovery.deciding import moment


def see(ledger: Ledger) -> Figures:
    return look(ledger.database)


def alive(ledger: Ledger, number: int, **given: object) -> int:
    return ledger.register(number, renewed_at=wall(), **given)


def silent(ledger: Ledger, number: int) -> int:
    return ledger.register(number, renewed_at=wall() - 60 * SECOND)


def hold(ledger: Ledger, worker: int, count: int) -> None:
    """Have the worker claim so many jobs."""
    ledger.insert(*(new_job() for _ in range(count)))
    assert len(ledger.claim(worker, count)) == count


def test_an_empty_ledger(ledger: Ledger) -> None:
    seen = see(ledger)
    assert (seen.alive, seen.silent, seen.oldest, seen.stranded) == ([], [], None, 0)
    assert seen.counts == {"pending": 0, "running": 0, "failed": 0}
    assert (seen.recovery.swept_at, seen.outdated) == (None, [])


def test_workers_are_alive_or_silent(ledger: Ledger) -> None:
    alive(ledger, 1)
    silent(ledger, 2)
    seen = see(ledger)
    assert [worker.id for worker in seen.alive] == [1]
    assert [worker.id for worker in seen.silent] == [2]


def test_a_worker_seen_to_be_dead_is_not_alive_whatever_its_lease(ledger: Ledger) -> None:
    fleet = ledger.database.fleet
    alive(ledger, 1, fleet=fleet.id)
    lock = fleet.hold(1)
    assert [worker.id for worker in see(ledger).alive] == [1]
    lock.close()
    assert [worker.id for worker in see(ledger).silent] == [1]


def test_jobs_of_workers_that_are_gone_need_recovery(ledger: Ledger) -> None:
    alive(ledger, 1)
    silent(ledger, 2)
    alive(ledger, 3)
    for worker, count in ((1, 4), (2, 2), (3, 3)):
        hold(ledger, worker, count)
    ledger.remove(3)  # nobody knows it any more, and its jobs are still its own
    assert see(ledger).stranded == 5


def test_they_are_counted_no_further_than_needed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST", 3)
    for worker in (1, 2, 3):
        silent(ledger, worker)
        hold(ledger, worker, 3)
    seen = see(ledger)
    assert (seen.stranded, seen.most) == (4, 3)


def test_the_last_sweep_is_the_newest(ledger: Ledger) -> None:
    now = wall()
    alive(ledger, 1, swept_at=now - 9 * SECOND)
    alive(ledger, 2, swept_at=now - 5 * SECOND)
    alive(ledger, 3)
    assert see(ledger).recovery.swept_at == moment(now - 5 * SECOND)


def test_the_code_of_the_worker_started_last_is_the_new_one(ledger: Ledger) -> None:
    now = wall()
    alive(ledger, 1, code="b", started_at=now)
    alive(ledger, 2, code="a", started_at=now - SECOND)
    alive(ledger, 3, code=None, started_at=now - SECOND)
    alive(ledger, 4, code="b", started_at=now - SECOND)
    assert [worker.id for worker in see(ledger).outdated] == [2, 3]


def test_code_that_was_loaded_last_is_the_new_one(ledger: Ledger) -> None:
    """C4: a worker may have started long ago and have loaded other code since."""
    now = wall()
    alive(ledger, 1, code="b", started_at=now - 9 * SECOND, code_at=now)
    alive(ledger, 2, code="a", started_at=now - SECOND)
    alive(ledger, 3, code="b", started_at=now - SECOND, newer_code="c")
    assert [worker.id for worker in see(ledger).outdated] == [2, 3]


def test_workers_that_could_not_load_new_code(ledger: Ledger) -> None:
    now = wall()
    alive(ledger, 1, code="a", started_at=now, restart_error="SyntaxError: invalid syntax")
    findings = {one.name: one for one in judge(see(ledger))}
    found = findings["restarts"]
    assert (found.status, found.observed) == ("warn", 1)
    assert str(found.output).endswith("worker-1 (code a): SyntaxError: invalid syntax")


def test_a_ledger_that_is_not_there(tmp_path: object) -> None:
    database = Database(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(LedgerUnavailable, match="no database"):
        look(database)
    database.close()


def test_what_a_worker_holds_is_found_by_a_seek(ledger: Ledger) -> None:
    database = ledger.database
    hold(ledger, alive(ledger, 1), 50)
    statement = COUNT_HELD_TO.on(database.kind)
    made = str(statement.compile(database.engine, compile_kwargs={"literal_binds": False}))
    for name, value in (("worker_", 1), ("limit_", 10)):
        for mark in (f"%({name})s::BIGINT", f"%({name})s::INTEGER", f"%({name})s"):
            made = made.replace(mark, str(value))
    for value in ("1", "10"):
        made = made.replace("?", value, 1)
    explain = "EXPLAIN QUERY PLAN" if database.kind.name == "sqlite" else "EXPLAIN"
    with database.engine.connect() as connection:
        if database.kind.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
        plan = str(connection.execute(text(f"{explain} {made}")).all())
    assert "failbetter_jobs_by_worker" in plan
