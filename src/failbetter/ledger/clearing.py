"""Taking away what drills have left: the only jobs that are deleted by their queue.

A drill makes itself known in a note before its first job, so that another finds what it left
without a look at every job there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, select

from failbetter import ids
from failbetter.ledger import acts, pruning
from failbetter.ledger.notes import remove, write
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, notes
from failbetter.limits import DRILL

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

_NOTE = "drill "


class Drill(msgspec.Struct, frozen=True):
    """A drill: its number, younger than which its jobs are, and the fleet folder of its host."""

    number: int
    fleet: str

    @property
    def queue(self) -> str:
        """The queue of its jobs."""
        return DRILL + ids.to_text(self.number)


ALL_NOTES = Prepared(select(notes.c.name, notes.c.value))
# By the ids first, which a drill's number bounds: no index knows the queue of jobs that have ended.
_of_queue = (jobs.c.id > b("first"), jobs.c.queue == b("queue"))
WAITING = Prepared(
    select(jobs.c.id)
    .where(*_of_queue, jobs.c.live == ONE, jobs.c.claimed.is_(None))
    .order_by(jobs.c.id)
    .limit(b("limit"))
    .offset(ZERO),
    "first queue limit",
)
ENDED = Prepared(
    select(jobs.c.id)
    .where(*_of_queue, jobs.c.live.is_(None))
    .order_by(jobs.c.id)
    .limit(b("limit"))
    .offset(ZERO),
    "first queue limit",
)
COUNT = Prepared(select(func.count()).select_from(jobs).where(*_of_queue), "first queue")
DELETE = Prepared(delete(jobs).where(jobs.c.id == b("id"), jobs.c.live.is_(None)), "id")


def announce(tx: Tx, drill: Drill) -> None:
    """Make a drill known, before its first job."""
    write(tx, _NOTE + ids.to_text(drill.number), msgspec.json.encode(drill).decode())


def announced(tx: Tx) -> list[Drill]:
    """The drills that are under way or have left something."""
    found = [value for name, value in tx.rows(ALL_NOTES) if name.startswith(_NOTE)]
    return [msgspec.json.decode(value, type=Drill) for value in found]


def forget(tx: Tx, drill: Drill) -> None:
    """A drill has left nothing."""
    remove(tx, _NOTE + ids.to_text(drill.number))


def left(tx: Tx, drill: Drill) -> int:
    """How many jobs of the drill are in the ledger."""
    return int(tx.rows(COUNT, drill.number, drill.queue)[0][0])


def cancel_waiting(tx: Tx, drill: Drill, limit: int) -> int:
    """Cancel up to `limit` jobs of the drill that wait; how many there were."""
    found = tx.rows(WAITING, drill.number, drill.queue, limit)
    now = tx.now()
    for (number,) in found:
        acts.cancel(tx, number, now)
    return len(found)


def clear(tx: Tx, drill: Drill, limit: int) -> int:
    """Delete up to `limit` jobs of the drill that have ended, with all that is kept of them.

    Returns how many there were. A live job is never deleted.
    """
    numbers = [row[0] for row in tx.rows(ENDED, drill.number, drill.queue, limit)]
    if numbers:
        tx.many(DELETE, [(number,) for number in numbers])
        pruning.forget(tx, numbers)
    return len(numbers)
