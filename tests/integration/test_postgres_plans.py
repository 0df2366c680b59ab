"""On PostgreSQL, what is asked regularly is found by a seek; `make soak` has the large numbers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.conformance.kit import ending
from tests.servers.plans import plans_of
from tests.servers.postgres import PostgresServer
from tests.soak import past, served
from tests.soak.churn import Churn
from tests.soak.past import Share
from tests.soak.regular import regular, unbounded

from failbetter import ids
from failbetter.ledger import claims, endings, migrate
from failbetter.lifecycle.states import Cause

if TYPE_CHECKING:
    from failbetter import App

_ENDED = 20_000
_FEW = 200


def test_nothing_regular_reads_what_has_ended() -> None:
    with PostgresServer.start(fsync=False) as server:
        url = server.new_database("ledger")
        dsn = server.dsn.replace("dbname=postgres", "dbname=ledger")
        with contextlib.closing(served.make_app(url)) as app:
            migrate.upgrade(app.database)
            churn = Churn(app)
            _give_a_past(app, churn, dsn)
            plans = []
            for generic in (False, True):
                # First as a restored table is, of which the server knows nothing.
                plans += plans_of(server, url, lambda: regular(app, churn), generic=generic)
            past.settle(dsn)
            for generic in (False, True):
                plans += plans_of(server, url, lambda: regular(app, churn), generic=generic)
    assert len(plans) > 500
    assert list(unbounded(plans)) == []


def test_plans_made_for_a_small_ledger_are_good_for_a_large_one() -> None:
    with PostgresServer.start({"autovacuum": "off"}, fsync=False) as server:
        url = server.new_database("ledger")
        with contextlib.closing(served.make_app(url)) as app:
            migrate.upgrade(app.database)
            churn = Churn(app)

            def grow() -> None:
                app.database.close()
                for _ in range(5):
                    churn.round(_FEW)

            plans = plans_of(server, url, grow)
    assert len(plans) > 500
    assert list(unbounded(plans)) == []


def _give_a_past(app: App, churn: Churn, dsn: str) -> None:
    shares = []
    for task, cause, part in (
        ("nothing", Cause.RETURNED, 0.8),
        ("kept", Cause.RETURNED, 0.2),
        ("hopeless", Cause.RAISED, 0.01),
    ):
        job = app.tasks[task].enqueue_many([(1,)])[0]
        with app.database.write() as tx:
            claimed, _ = claims.claim(tx, churn.worker.id, [], 1, tx.now())
            now = tx.now()
            assert endings.settle(tx, [ending(one, cause, now=now) for one in claimed]) == []
        shares.append(Share(ids.from_text(job.id), round(part * _ENDED)))
    past.grow(dsn, shares)
