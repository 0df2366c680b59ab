"""On MariaDB, whose planner is a weaker one, a few jobs among many are found by a seek."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from sqlalchemy import update
from tests.conformance.kit import NOW, Ledger, new_job
from tests.servers import mariadb

from failbetter.ledger import claims, migrate, moving, registry
from failbetter.ledger.database import Database
from failbetter.ledger.prepared import Prepared, listing
from failbetter.ledger.schema import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.ledger.kinds import Tx

_MANY = 2_000
_FEW = 10
_READS = Prepared(sqlalchemy.text("SHOW SESSION STATUS LIKE 'Handler_read%'"))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger on the shared server, at which worker 1 is registered."""
    server = mariadb.shared_server()
    url = server.new_database()
    with contextlib.closing(Database(url)) as database:
        migrate.upgrade(database)
        made = Ledger(database)
        made.register(1)
        yield made
    server.drop_database(url)


def test_what_is_meant_is_not_looked_for_among_all(ledger: Ledger) -> None:
    """C1: neither by the claim nor by a bulk act, of which a list of ids is moved at a time."""
    numbers = ledger.insert(*(new_job() for _ in range(_MANY)))
    ids = listing(numbers[_MANY // 2 :][:_FEW])
    with ledger.database.write() as tx:
        before = _read(tx)
        claims.claim(tx, 1, [], _FEW, NOW)
        claimed = _read(tx)
        tx.rows(moving.LOCK, ids)
        tx.run(moving.RETRY, 0, NOW, ids, 1)
        tx.run(moving.DISCARD, NOW, ids, 1)
        moved = _read(tx)
    assert claimed - before < 20 * _FEW
    assert moved - claimed < 20 * _FEW


def test_what_has_ended_is_not_read_again(ledger: Ledger) -> None:
    """C1: not to learn who holds jobs, nor whether an exclusive key is free."""
    ledger.insert(*(new_job(exclusive=f"key {n}") for n in range(_MANY)))
    with ledger.database.engine.begin() as link:
        link.execute(update(jobs).values(state="succeeded", rank=None, live=None))
    ledger.insert(*(new_job(exclusive=f"new {n}") for n in range(_FEW)))
    with ledger.database.write() as tx:
        before = _read(tx)
        taken, _ = claims.claim(tx, 1, [], _FEW, NOW)
        claimed = _read(tx)
        assert (registry.holders(tx), registry.orphaned(tx)) == ([1], [])
        asked = _read(tx)
    assert len(taken) == _FEW
    assert claimed - before < 20 * _FEW
    assert asked - claimed < 20 * _FEW


def _read(tx: Tx) -> int:
    """The rows that this session has read so far."""
    return sum(int(count) for _, count in tx.rows(_READS))
