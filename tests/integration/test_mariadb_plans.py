"""On MariaDB, whose planner is a weaker one, a few jobs among many are found by a seek."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from tests.conformance.backends import BACKENDS
from tests.conformance.kit import NOW, Ledger, new_job
from tests.servers import mariadb

from failbetter.ledger import claims, migrate, moving
from failbetter.ledger.database import Database
from failbetter.ledger.prepared import Prepared, listing

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

pytestmark = pytest.mark.skipif("mariadb" not in BACKENDS, reason="MariaDB is not asked for")

_MANY = 2_000
_FEW = 10
_READS = Prepared(sqlalchemy.text("SHOW SESSION STATUS LIKE 'Handler_read%'"))


def test_what_is_meant_is_not_looked_for_among_all() -> None:
    """C1: neither by the claim nor by a bulk act, of which a list of ids is moved at a time."""
    server = mariadb.shared_server()
    with contextlib.closing(Database(server.new_database())) as database:
        migrate.upgrade(database)
        ledger = Ledger(database)
        ledger.register(1)
        numbers = ledger.insert(*(new_job() for _ in range(_MANY)))
        ids = listing(numbers[_MANY // 2 :][:_FEW])
        with database.write() as tx:
            before = _read(tx)
            claims.claim(tx, 1, [], _FEW, NOW)
            claimed = _read(tx)
            tx.rows(moving.LOCK, ids)
            tx.run(moving.RETRY, 0, NOW, ids, 1)
            tx.run(moving.DISCARD, NOW, ids, 1)
            moved = _read(tx)
    server.drop_database(database.url.render_as_string(hide_password=False))
    assert claimed - before < 20 * _FEW
    assert moved - claimed < 20 * _FEW


def _read(tx: Tx) -> int:
    """The rows that this session has read so far."""
    return sum(int(count) for _, count in tx.rows(_READS))
