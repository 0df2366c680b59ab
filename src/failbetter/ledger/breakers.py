"""Breakers: failures of one kind are counted, and when there are too many the work is held.

The count is of the failures since the first one that is younger than the breaker's time: so many
within that time open it. It lives in the ledger, so that all workers count together. What an open
breaker holds, and the probes it lets through, are a hold like others: see `holds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, null, select, update

from failbetter import ids
from failbetter.durations import micros
from failbetter.ledger import holds, limits
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import breakers, jobs
from failbetter.ledger.schema import holds as hold_rows
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx
    from failbetter.lifecycle.policy import Breaking

_this = breakers.c.name == b("name")
COUNT = Prepared(
    update(breakers)
    .values(failures=breakers.c.failures + b("more"))
    .where(_this, breakers.c.since > b("oldest")),
    "more name oldest",
)
COUNT_ANEW = Prepared(
    update(breakers)
    .values(failures=b("more"), since=b("now"))
    .where(_this, breakers.c.since <= b("oldest")),
    "more now name oldest",
)
FIRST = Prepared(
    lambda kind: kind.insert_unless(
        insert(breakers).values(name=b("name"), failures=b("more"), since=b("now")),
        [breakers.c.name],
    ),
    "name more now",
)
COUNTED = Prepared(select(breakers.c.failures, breakers.c.since).where(_this), "name")
PARKED_AFTER = Prepared(
    select(jobs.c.id)
    .where(jobs.c.held == b("held"), jobs.c.id > b("after"))
    .order_by(jobs.c.id)
    .limit(ONE)
    .offset(ZERO),
    "held after",
)
PROBE = Prepared(
    update(hold_rows)
    .values(probe=b("job"), probed=b("same"))
    .where(hold_rows.c.id == b("id"), hold_rows.c.active == ONE, hold_rows.c.probe.is_(None)),
    "job same id",
)
PROBE_IS_OVER = Prepared(
    update(hold_rows)
    .values(probe=null(), probe_at=b("at"))
    .where(hold_rows.c.id == b("id"), hold_rows.c.probe == b("job")),
    "at id job",
)
PROBED_JOB = Prepared(
    select(jobs.c.state, jobs.c.live, jobs.c.claimed, jobs.c.run_at, jobs.c.held).where(
        jobs.c.id == b("id")
    ),
    "id",
)
PROBING = Prepared(
    select(hold_rows.c.id)
    .where(hold_rows.c.active == ONE, hold_rows.c.probe_at.is_not(None))
    .order_by(hold_rows.c.id)
)
RESET = Prepared(update(breakers).values(failures=ZERO).where(_this), "name")


def left(tx: Tx, breaker: Breaking) -> int:
    """How many more failures it takes to open the breaker."""
    row = tx.row(COUNTED, breaker.name)
    if row is None or row[1] <= tx.now() - micros(breaker.within):
        return breaker.failures
    return breaker.failures - int(row[0])


def strike(tx: Tx, breaker: Breaking, failures: int, example: str) -> bool:
    """Count failures, and open the breaker when they are too many. Whether this opened it."""
    now = tx.now()
    oldest = now - micros(breaker.within)
    counted = (
        tx.run(COUNT, failures, breaker.name, oldest)
        or tx.run(COUNT_ANEW, failures, now, breaker.name, oldest)
        or tx.run(FIRST, breaker.name, failures, now)
        or tx.run(COUNT, failures, breaker.name, oldest)  # another was the first just now
    )
    row = tx.row(COUNTED, breaker.name)
    if not counted or row is None or row[0] < breaker.failures:
        return False
    tx.run(RESET, breaker.name)
    return holds.make(
        tx,
        ids.take(),
        "breaker",
        breaker.name,
        f"{breaker.failures} failures within {breaker.within:g} s, such as {example}",
        "failbetter",
        rate=None if breaker.rate is None else round(breaker.rate * 1000),
        probe_every=micros(breaker.probe_every),
    )[1]


def probing(tx: Tx) -> list[int]:
    """The breakers that are open, by their holds."""
    return [row[0] for row in tx.rows(PROBING)]


def probe_failed(tx: Tx, number: int, job: int) -> None:
    """The job that a breaker let through has failed as those before: the next one, later."""
    hold = holds.one(tx, number)
    if hold is not None and hold.probe_every is not None:
        tx.run(PROBE_IS_OVER, tx.now() + hold.probe_every, number, job)


def probe(tx: Tx, number: int) -> bool:
    """See how a breaker's probe is doing, and let the next job through when it is time.

    The breaker closes when the probe has succeeded. A probe that came to any other end than the
    failure which the breaker is for says nothing, and another job is tried: so neither a bug nor a
    job that kills its process keeps it open. Whether anything may run now that could not before.
    """
    hold = holds.one(tx, number)
    if hold is None or not hold.active or hold.probe_every is None or hold.probe_at is None:
        return False
    now = tx.now()
    if hold.probe is not None:
        found = tx.row(PROBED_JOB, hold.probe)
        if found is not None and _is_under_way(tx, *found[1:], now=now):
            return False
        if found is not None and found[0] == State.SUCCEEDED:
            return holds.end(tx, hold, hold.rate)
        tx.run(PROBE_IS_OVER, now, number, hold.probe)
    elif hold.probe_at > now:
        return False
    following = tx.row(PARKED_AFTER, number, hold.probed or 0) or tx.row(PARKED_AFTER, number, 0)
    if following is None or not tx.run(PROBE, following[0], following[0], number):
        return False
    return bool(tx.run(holds.RELEASE, following[0], number))


def _is_under_way(
    tx: Tx, live: int | None, claimed: int | None, run_at: int, held: int | None, *, now: int
) -> bool:
    """Whether a probe runs, or waits for a worker or a rate limit. One that waits to run again has
    failed."""
    if not live or not (claimed or run_at <= now):
        return False
    return held is None or limits.is_line(tx, held)
