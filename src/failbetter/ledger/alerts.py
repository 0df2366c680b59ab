"""What alerts go by, and how each of them stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import func, insert, literal_column, select, update

from failbetter.ledger.groups import IGNORED, REOPENED, RESOLVED, said_of
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import alerts, jobs
from failbetter.lifecycle.alerting import Standing
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx


class Grown(msgspec.Struct, frozen=True):
    """A cause and how many jobs have failed of it of late; `sample` is the newest of them."""

    fingerprint: str
    count: int
    sample: int
    title: str = ""


_later = (jobs.c.state == b("state"), jobs.c.ended_at > b("after"))
COUNT_ENDED = Prepared(select(func.count()).select_from(jobs).where(*_later), "state after")
_failed = (jobs.c.state == literal_column(f"'{State.FAILED}'"), jobs.c.ended_at > b("after"))
# What tells of alerts may fail of being unable to tell.
GROWN = Prepared(
    select(jobs.c.fingerprint, func.count(), func.max(jobs.c.id))
    .where(*_failed, jobs.c.fingerprint.is_not(None), jobs.c.task != b("task"))
    .group_by(jobs.c.fingerprint)
    .having(func.count() >= b("by")),
    "after task by",
)
TITLE = Prepared(
    select(jobs.c.task, func.coalesce(jobs.c.error_type, jobs.c.reason)).where(
        jobs.c.id == b("id")
    ),
    "id",
)
FAILED_BEFORE = Prepared(
    select(jobs.c.id)
    .where(
        jobs.c.state == literal_column(f"'{State.FAILED}'"),
        jobs.c.fingerprint == b("fingerprint"),
        jobs.c.ended_at > b("from"),
        jobs.c.ended_at <= b("to"),
    )
    .limit(ONE)
    .offset(ZERO),
    "fingerprint from to",
)
_waiting = (jobs.c.rank.is_not(None), jobs.c.run_at <= b("now"))
_some = select(jobs.c.id).where(*_waiting).limit(b("limit")).offset(ZERO)
_some_of_queue = _some.where(jobs.c.queue == b("queue"))
COUNT_WAITING = Prepared(select(func.count()).select_from(_some.subquery()), "now limit")
COUNT_WAITING_IN = Prepared(
    select(func.count()).select_from(_some_of_queue.subquery()), "now queue limit"
)
FIND = Prepared(
    select(alerts.c.since, alerts.c.told_at, alerts.c.seen, alerts.c.looked_at).where(
        alerts.c.name == b("name")
    ),
    "name",
)
ADD = Prepared(
    lambda kind: kind.insert_unless(
        insert(alerts).values(name=b("name"), seen=b("seen"), looked_at=b("looked_at")),
        [alerts.c.name],
    ),
    "name seen looked_at",
)
TAKE = Prepared(
    update(alerts)
    .values(looked_at=b("now"))
    .where(alerts.c.name == b("name"), alerts.c.looked_at == b("before")),
    "now name before",
)
SAVE = Prepared(
    update(alerts)
    .values(since=b("since"), told_at=b("told_at"), seen=b("seen"))
    .where(alerts.c.name == b("name"), alerts.c.looked_at == b("looked_at")),
    "since told_at seen name looked_at",
)


def due(tx: Tx, name: str, now: int, every: int) -> bool:
    """Whether nobody has looked at the alert for so long (µs)."""
    found = tx.row(FIND, name)
    return found is None or now - found[3] >= every


def take(tx: Tx, name: str, now: int, every: int) -> Standing | None:
    """Take it upon oneself to look at an alert now; None if another has just done so.

    Whoever takes it is the only one for so long; dies he meanwhile, the next one looks.
    """
    found = tx.row(FIND, name)
    if found is None:
        # What happened before anybody watched is no news.
        return Standing(after=now) if tx.run(ADD, name, str(now), now) else None
    since, told_at, seen, looked_at = found
    if now - looked_at < every or not tx.run(TAKE, now, name, looked_at):
        return None
    return Standing(since, told_at, int(seen or 0))


def save(tx: Tx, name: str, standing: Standing, looked_at: int) -> bool:
    """Write how it stands; False if another has looked later than that."""
    after = str(standing.after)
    return bool(tx.run(SAVE, standing.since, standing.told_at, after, name, looked_at))


def ended_since(tx: Tx, state: State, after: int) -> int:
    """How many jobs have come to that end later than `after`, and have not left it."""
    return int(tx.rows(COUNT_ENDED, state.value, after)[0][0])


def waiting(tx: Tx, queue: str | None, now: int, limit: int) -> int:
    """How many jobs wait for a worker, counted up to `limit`; none that waits for its time."""
    if queue is None:
        return int(tx.rows(COUNT_WAITING, now, limit)[0][0])
    return int(tx.rows(COUNT_WAITING_IN, now, queue, limit)[0][0])


def grown(tx: Tx, after: int, by: int, apart_from: str) -> list[Grown]:
    """Causes of which so many jobs have failed later than `after`, the most first.

    Those not of the task `apart_from`; and none of an ignored group.
    """
    found = [Grown(*row) for row in tx.rows(GROWN, after, apart_from, by)]
    kept = [one for one in found if said_of(tx, one.fingerprint)[0] != IGNORED]
    return sorted(kept, key=lambda one: (-one.count, one.fingerprint))


def new(tx: Tx, after: int, apart_from: str) -> list[Grown]:
    """As `grown`, of which none had failed before, or since they were resolved."""
    kept = []
    for one in grown(tx, after, 1, apart_from):
        state, at = said_of(tx, one.fingerprint)
        since = at if state in (RESOLVED, REOPENED) else 0
        if tx.row(FAILED_BEFORE, one.fingerprint, since, after) is None:
            kept.append(one)
    return kept


def titled(tx: Tx, found: list[Grown]) -> list[Grown]:
    """The same with their titles: task and error's type, never a message."""
    return [
        msgspec.structs.replace(one, title=": ".join(str(part) for part in row if part))
        for one in found
        if (row := tx.row(TITLE, one.sample)) is not None
    ]
