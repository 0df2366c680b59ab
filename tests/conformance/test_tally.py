"""How the jobs of a ramp fare is told by a sample of each cause, however many there are."""

from __future__ import annotations

from sqlalchemy import case, update
from tests.conformance.kit import Ledger

from failbetter import Jobs, ids
from failbetter.ledger import outcomes
from failbetter.ledger.filters import Filters
from failbetter.ledger.schema import jobs

MANY, FEW = 4 * outcomes.SAMPLE, 5


def test_of_a_great_cause_a_share_is_looked_at_and_of_a_small_one_all(ledger: Ledger) -> None:
    """A8: the few among thousands count as much as the thousands do."""
    made = [ledger.add() for _ in range(MANY + FEW)]
    mark = case((jobs.c.id.in_(made[::1000][:FEW]), "1-few"), else_="1-many")
    failed = {"state": "failed", "reason": "error", "rank": None, "live": None}
    with ledger.database.engine.begin() as connection:
        connection.execute(
            update(jobs).values(fingerprint=mark, ended_at=jobs.c.created_at, **failed)
        )
    operation = Jobs(ledger.database, Filters(states=("failed",))).retry(all=True)
    with ledger.database.engine.begin() as connection:
        connection.execute(update(jobs).values(state="succeeded", rank=None, live=None))
    with ledger.database.look() as tx:
        found = outcomes.tally(tx, ids.from_text(operation.id), 0)
    by_cause = {one.fingerprint: one for one in found}
    few, many = by_cause["1-few"], by_cause["1-many"]
    assert (few.moved, few.good) == (FEW, FEW)
    assert outcomes.SAMPLE // 2 <= many.moved == many.good <= 2 * outcomes.SAMPLE
