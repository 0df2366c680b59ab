"""What of a job has been sent to an engine: its id, for one fence.

A job is to be sent when it may be claimed and its row does not say that it was with the fence that
it has now. Every way back to waiting gives a job another fence, so that nobody who puts one back
need think of engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import and_, func, literal_column, null, or_, select, update

from failbetter.engine import Ticket
from failbetter.ledger import limits, notes
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import holds, jobs
from failbetter.lifecycle.policy import from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.enqueue import NewJob
    from failbetter.ledger.kinds import Tx

_columns = (
    jobs.c.id,
    jobs.c.fence,
    jobs.c.task,
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.policy,
    jobs.c.sent_at,
)
_holder = jobs.alias("holder")
_key_is_taken = (
    select(ONE)
    .where(_holder.c.exclusive_key == jobs.c.exclusive_key, _holder.c.claimed == ONE)
    .exists()
)
_queue_is_held = (
    select(ONE)
    .where(
        holds.c.kind == literal_column("'queue'"),
        holds.c.name == jobs.c.queue,
        holds.c.active == ONE,
    )
    .exists()
)
# What a claim would not take now is not sent either: it would come back at once.
_may_be_claimed = and_(
    or_(jobs.c.careful == ZERO, ~_key_is_taken),
    ~_queue_is_held,
)
_unsent = or_(jobs.c.sent.is_(None), jobs.c.sent != jobs.c.fence)
_some = select(*_columns).order_by(jobs.c.id).limit(b("limit")).offset(ZERO)
DUE = Prepared(
    _some.where(jobs.c.rank.is_not(None), jobs.c.run_at <= b("now"), _unsent, _may_be_claimed),
    "now limit",
)
_unsent_due = (
    select(jobs.c.run_at)
    .where(jobs.c.rank.is_not(None), jobs.c.run_at <= b("now"), _unsent, _may_be_claimed)
    .limit(b("limit"))
    .offset(ZERO)
    .subquery()
)
COUNT_DUE = Prepared(
    select(func.count(), func.min(_unsent_due.c.run_at)).select_from(_unsent_due), "now limit"
)
IN_LINE = Prepared(
    _some.where(
        jobs.c.held == b("line"), _may_be_claimed, or_(_unsent, jobs.c.sent_at <= b("before"))
    ),
    "line before limit",
)
SENT_BEFORE = Prepared(
    _some.where(
        jobs.c.rank.is_not(None),
        jobs.c.sent == jobs.c.fence,
        jobs.c.sent_at <= b("before"),
        jobs.c.id > b("after"),
    ),
    "before after limit",
)
_NOTE = "engine"
MARK_SENT = Prepared(
    update(jobs)
    .values(sent=b("fence"), sent_at=b("at"))
    .where(jobs.c.id == b("id"), jobs.c.fence == b("same_fence")),
    "fence at id same_fence",
)
MARK_UNSENT = Prepared(
    update(jobs)
    .values(sent=null())
    .where(jobs.c.id == b("id"), jobs.c.live == ONE, jobs.c.claimed.is_(None)),
    "id",
)


class Carrying(msgspec.Struct, frozen=True):
    """An engine at work: its name, how many jobs are due and not sent to it, the oldest since when
    (µs since the epoch)."""

    engine: str
    unsent: int
    since: int | None


def carrying(tx: Tx, limit: int) -> Carrying | None:
    """The engine that carries this ledger's jobs, if one does. So many unsent ones are counted."""
    engine = notes.read(tx, _NOTE)
    if engine is None:
        return None
    count, since = tx.rows(COUNT_DUE, tx.now(), limit)[0]
    return Carrying(engine, int(count), since)


def note_engine(tx: Tx, engine: str | None) -> None:
    """Remember which engine carries the jobs; None: none does."""
    if engine is None:
        notes.remove(tx, _NOTE)
    else:
        notes.write(tx, _NOTE, engine)


def due(tx: Tx, now: int, limit: int) -> list[Ticket]:
    """The oldest of what may be claimed and was not sent; at most `limit`."""
    return _tickets(tx.rows(DUE, now, limit))


def due_in_lines(tx: Tx, now: int, before: int, limit: int) -> list[Ticket]:
    """Of what waits for a rate limit, what may begin now; also if it was sent before `before`."""
    found: list[Ticket] = []
    for line in limits.every_line(tx):
        if line.next_at <= now:
            room = min(line.rate.count, limit)
            found += _tickets(tx.rows(IN_LINE, line.id, before, room))
    return found


def sent_before(tx: Tx, before: int, after: int, limit: int) -> list[Ticket]:
    """What was sent before then (µs) and waits still, by id, from beyond `after`."""
    return _tickets(tx.rows(SENT_BEFORE, before, after, limit))


def mark_sent(tx: Tx, tickets: Sequence[Ticket], now: int) -> None:
    """Note that these were sent; of one that has moved meanwhile, nothing is noted."""
    tx.many(MARK_SENT, [(one.fence, now, one.id, one.fence) for one in tickets])


def mark_unsent(tx: Tx, numbers: Sequence[int]) -> None:
    """Have these sent again as soon as they may be claimed."""
    tx.many(MARK_UNSENT, [(number,) for number in numbers])


def ticket_of(number: int, job: NewJob) -> Ticket:
    """What is sent of a job that was just made."""
    timeout = from_json(job.policy).timeout
    return Ticket(number, 0, job.task, job.queue, job.priority, timeout)


def _tickets(rows: Sequence[tuple[int, int, str, str, int, str, int | None]]) -> list[Ticket]:
    return [
        Ticket(number, fence, task, queue, priority, from_json(policy).timeout, sent_at)
        for number, fence, task, queue, priority, policy, sent_at in rows
    ]
