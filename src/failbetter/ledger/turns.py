"""What only one worker of all hosts does at a time: a row with a lease.

By the ledger's clock. Were it to jump, two would do the same at once, which is a waste and no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, or_, select, update

from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.schema import turns

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

TAKE = Prepared(
    update(turns)
    .values(worker=b("worker"), until=b("until"))
    .where(
        turns.c.name == b("name"),
        or_(turns.c.worker == b("same"), turns.c.until < b("now")),
    ),
    "worker until name same now",
)
FIRST = Prepared(
    lambda kind: kind.insert_unless(
        insert(turns).values(name=b("name"), worker=b("worker"), until=b("until")),
        [turns.c.name],
    ),
    "name worker until",
)

LEAVE = Prepared(
    update(turns)
    .values(until=ZERO)
    .where(turns.c.name == b("name"), turns.c.worker == b("worker")),
    "name worker",
)

MARK = Prepared(
    update(turns).values(worker=b("worker"), until=b("until")).where(turns.c.name == b("name")),
    "worker until name",
)
HOLDER = Prepared(select(turns.c.worker, turns.c.until).where(turns.c.name == b("name")), "name")


def take(tx: Tx, name: str, worker: int, seconds: float) -> bool:
    """Take the turn, or keep it, for so long; False while another has it."""
    now = tx.now()
    until = now + round(seconds * 1_000_000)
    return bool(
        tx.run(TAKE, worker, until, name, worker, now) or tx.run(FIRST, name, worker, until)
    )


def leave(tx: Tx, name: str, worker: int) -> None:
    """Give the turn away, if it is still this worker's."""
    tx.run(LEAVE, name, worker)


def inherit(tx: Tx, name: str, worker: int, dead: int, seconds: float) -> bool:
    """Take over the turn of one that is known to be dead; False when it is not that one's."""
    now = tx.now()
    return bool(tx.run(TAKE, worker, now + round(seconds * 1_000_000), name, dead, now))


def holder(tx: Tx, name: str) -> tuple[int, int] | None:
    """Who took the turn last, and until when it is theirs."""
    found = tx.row(HOLDER, name)
    return None if found is None else (found[0], found[1])


def mark(tx: Tx, name: str, worker: int) -> None:
    """Write that it was done just now, whoever did it before: a row that keeps nobody away."""
    now = tx.now()
    if not tx.run(MARK, worker, now, name) and not tx.run(FIRST, name, worker, now):
        tx.run(MARK, worker, now, name)
