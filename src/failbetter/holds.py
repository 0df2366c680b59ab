"""Holds: work kept waiting on purpose, by a person or by a breaker, and letting go of it again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from failbetter import ids, ledger
from failbetter.durations import to_datetime
from failbetter.errors import Refused
from failbetter.limits import KEY_LENGTH, WRITE_TIMEOUT

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.holds import HoldRow, Kind
    from failbetter.ledger.limits import Line

# Jobs in one transaction, and (of a worker) in one round of its duties.
_BATCH = 500
_AT_ONCE = 10_000
# Seconds. Whoever maintains must not stop looking after other things for it.
_TURN = 0.5
# Parked jobs are counted no further.
MOST = 1_000_000
_REASON = 2_000


class Hold(msgspec.Struct, frozen=True):
    """A queue, task, group or dependency that is kept waiting; or a rate limit that jobs wait for.

    `kind` "queue", "task", "group", "breaker" or "limit"; `name` the queue's, the task's, the
    group's fingerprint, the breaker's, or the limit's.
    `active` False: it has ended, and lets go of the jobs it kept at `rate` a second. `jobs`: how
    many wait because of it that a worker has come across (of a queue, where none does: None).
    """

    kind: str
    name: str
    active: bool
    reason: str | None
    actor: str | None
    since: datetime
    rate: float | None
    jobs: int | None


def pause(
    database: Database,
    kind: Kind,
    name: str,
    *,
    reason: str | None = None,
    actor: str | None = None,
) -> Hold:
    """Keep what the name stands for waiting. See App.pause."""
    _check_name(kind, name)
    if actor is not None and not 0 < len(actor) <= KEY_LENGTH:
        raise ValueError(f"an actor is a text of 1 to {KEY_LENGTH} characters, not {actor!r}")
    if reason is not None and len(reason) > _REASON:
        raise ValueError(f"a reason has up to {_REASON:,} characters, not {len(reason):,}")
    number = ids.take()
    row, _ = database.transact(
        lambda tx: ledger.holds.make(tx, number, kind, name, reason or None, actor)
    )
    return _hold(database, row)


def resume(database: Database, kind: Kind, name: str, *, rate: float | None = None) -> None:
    """Let go of what the name stands for. See App.resume."""
    _check_name(kind, name)
    if rate is not None and not 0.001 <= rate <= 1_000_000:
        raise ValueError(f"a rate is a number of jobs a second from 0.001, not {rate!r}")
    thousandths = None if rate is None else round(rate * 1000)
    with database.look() as tx:
        hold = ledger.holds.active(tx, kind, name)
    if hold is None or not database.transact(lambda tx: ledger.holds.end(tx, hold, thousandths)):
        raise Refused(f"{kind} {name!r} is not paused")
    if rate is None:
        _let_go(database, hold.id, MOST, WRITE_TIMEOUT)
    if kind == "queue":
        database.wake()  # its jobs were never parked


def every(database: Database) -> list[Hold]:
    """All holds, oldest first; then the rate limits that keep jobs waiting."""
    with database.look() as tx:
        rows = ledger.holds.every(tx)
        lines = ledger.limits.every_line(tx)
    limits: dict[str, list[Line]] = {}
    for line in lines:
        limits.setdefault(line.name, []).append(line)
    return [_hold(database, row) for row in rows] + [
        _limit(database, of_limit) for of_limit in limits.values()
    ]


def tick(database: Database) -> bool:
    """Let go of what ended holds have kept, as fast as each may, and see to open breakers' probes.

    What workers and `failbetter maintain` do each second: whoever resumed may have been killed.
    Whether anything may run that could not before.
    """
    with database.look() as tx:
        open_breakers = ledger.breakers.probing(tx)
    probed = [_probe(database, number) for number in open_breakers]
    with database.look() as tx:
        ended = ledger.holds.letting_go(tx)
    let_go = [_let_go(database, hold.id, _AT_ONCE, _TURN) for hold in ended]
    return any(let_go) or any(probed)


def _probe(database: Database, number: int) -> bool:
    probed = database.transact(lambda tx: ledger.breakers.probe(tx, number), timeout=_TURN)
    if probed:
        database.wake(1)
    return probed


def _let_go(database: Database, number: int, most: int, timeout: float) -> int:
    count = 0
    while count < most:
        some = database.transact(
            lambda tx: ledger.holds.let_go_some(tx, number, _BATCH), timeout=timeout
        )
        if not some:
            break
        count += some
    if count:
        database.wake()
    return count


def _limit(database: Database, lines: list[Line]) -> Hold:
    with database.look() as tx:
        jobs = sum(ledger.limits.count_in_line(tx, line.id, MOST) for line in lines)
    since = to_datetime(min(line.since for line in lines))
    assert since is not None
    return Hold("limit", lines[0].name, True, lines[0].says, None, since, None, jobs)


def _check_name(kind: str, name: str) -> None:
    if not 0 < len(str(name).strip()) <= KEY_LENGTH:
        raise ValueError(f"a {kind} is named by 1 to {KEY_LENGTH} characters, not {name!r}")


def _hold(database: Database, row: HoldRow) -> Hold:
    jobs = None
    if row.kind != "queue":
        with database.look() as tx:
            jobs = ledger.holds.count_parked(tx, row.id, MOST)
    since = to_datetime(row.since)
    assert since is not None
    rate = None if row.rate is None else row.rate / 1000
    return Hold(row.kind, row.name, bool(row.active), row.reason, row.actor, since, rate, jobs)
