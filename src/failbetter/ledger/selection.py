"""The frozen list of an operation: which jobs, each with the failed attempt that was seen.

Jobs are looked at a page at a time, judged elsewhere, and written down a page at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, and_, case, func, insert, literal_column, or_, select

from failbetter.ledger import acts
from failbetter.ledger.filters import condition
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import attempts, effects, jobs, selected
from failbetter.ledger.supersession import has_newer_success
from failbetter.lifecycle.replay import CONFIRMABLE
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.kinds import Tx

# A longer payload is not read along with a page of others, so that a page has a bounded size.
_SHORT = 4_000


class Past(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What acting on a job changes, as it was. Times in microseconds since the epoch."""

    reason: str | None
    run_at: int
    begun_at: int | None
    ended_at: int | None
    attempts: int
    crashes: int
    losses: int
    hand_backs: int
    suspect: int
    released_since: int | None


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A job that matches, and what it is judged by; the last columns are its Past.

    `payload` None: it is long, see `payload_of`. `done`, `known`: its effects that happened, all
    of them. `failed_reason`, `failed_at`: of its last attempt that made it fail.
    """

    id: int
    fence: int
    task: str
    state: str
    expires_at: int | None
    fingerprint: str | None
    unique_key: str | None
    policy: str
    payload: str | None
    done: int
    known: int
    twin: int
    superseded: int
    origin: str | None
    replaced: int
    failed_reason: str | None
    failed_at: int | None
    reason: str | None
    run_at: int
    begun_at: int | None
    ended_at: int | None
    attempts: int
    crashes: int
    losses: int
    hand_backs: int
    suspect: int
    released_since: int | None

    @property
    def past(self) -> Past:
        """What acting on it changes."""
        return Past(
            self.reason,
            self.run_at,
            self.begun_at,
            self.ended_at,
            self.attempts,
            self.crashes,
            self.losses,
            self.hand_backs,
            self.suspect,
            self.released_since,
        )


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """A job of the list as it is written down."""

    job_id: int
    fence: int
    fingerprint: str | None
    verdict: str
    why: str | None
    past: Past


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A job of the list, as read."""

    job_id: int
    fence: int
    verdict: str
    why: str | None
    outcome: str | None


def _effects_of(*also: ColumnElement[bool]) -> ColumnElement[int]:
    found = select(func.count()).select_from(effects).where(effects.c.job_id == jobs.c.id, *also)
    return found.scalar_subquery()


_other = jobs.alias("other")
_has_twin = select(ONE).where(
    _other.c.unique_key == jobs.c.unique_key, _other.c.live == ONE, _other.c.id != jobs.c.id
)
_last_failure = (
    select(attempts.c.fence)
    .where(attempts.c.job_id == jobs.c.id, attempts.c.state == State.FAILED.value)
    .order_by(attempts.c.fence.desc())
    .limit(1)
    .correlate(jobs)
    .scalar_subquery()
)


def _of_last_failure(column: ColumnElement[Any]) -> ColumnElement[Any]:
    found = select(column).where(attempts.c.job_id == jobs.c.id, attempts.c.fence == _last_failure)
    return case((jobs.c.state == State.DISCARDED.value, found.scalar_subquery()))


_candidate = (
    jobs.c.id,
    jobs.c.fence,
    jobs.c.task,
    jobs.c.state,
    jobs.c.expires_at,
    jobs.c.fingerprint,
    jobs.c.unique_key,
    jobs.c.policy,
    case((func.length(jobs.c.payload) <= _SHORT, jobs.c.payload)),
    _effects_of(effects.c.done_at.is_not(None)),
    _effects_of(),
    case((jobs.c.unique_key.is_(None), 0), (_has_twin.exists(), 1), else_=0),
    case(
        (or_(jobs.c.subject.is_(None), jobs.c.version.is_(None)), 0),
        (has_newer_success, 1),
        else_=0,
    ),
    jobs.c.origin,
    case((acts.can_be_sent, 0), else_=1),
    _of_last_failure(attempts.c.reason),
    _of_last_failure(attempts.c.ended_at),
    *(jobs.c[name] for name in Past.__struct_fields__),
)


def candidates(
    database: Database, filters: Filters, limit: int | None, size: int
) -> Iterator[list[Candidate]]:
    """Matching jobs with what they are judged by, in pages, the newest first.

    Of jobs of one end in the order in which they came to it, which an index has; else, and where
    only the newest are meant, by their ids.
    """
    by_end = limit is None and _one_end(filters)
    key = (jobs.c.ended_at, jobs.c.id) if by_end else (jobs.c.id,)
    statement = (
        select(*_candidate)
        .where(condition(filters, database.kind))
        .order_by(*(column.desc() for column in key))
    )
    last: Candidate | None = None
    left = limit
    while left is None or left > 0:
        page = statement.limit(size if left is None else min(size, left))
        if last is not None:
            page = page.where(_beyond(last, by_end=by_end))
        rows = [Candidate(*tuple(row)) for row in database.query(page, in_order=True)]
        if not rows:
            return
        yield rows
        last = rows[-1]
        if left is not None:
            left -= len(rows)


def _one_end(filters: Filters) -> bool:
    return len(filters.surely) == 1 and filters.surely <= {State.FAILED, State.DISCARDED}


def _beyond(last: Candidate, *, by_end: bool) -> ColumnElement[bool]:
    if not by_end:
        return jobs.c.id < last.id
    same_time = and_(jobs.c.ended_at == last.ended_at, jobs.c.id < last.id)
    # The first is implied by the others: so that the index is entered at the right place.
    return and_(jobs.c.ended_at <= last.ended_at, or_(jobs.c.ended_at < last.ended_at, same_time))


PAYLOAD = Prepared(select(jobs.c.payload).where(jobs.c.id == b("id")), "id")
CHOOSE = Prepared(
    insert(selected).values(
        operation_id=b("operation"),
        job_id=b("job_id"),
        fence=b("fence"),
        fingerprint=b("fingerprint"),
        verdict=b("verdict"),
        why=b("why"),
        past=b("past"),
    ),
    "operation job_id fence fingerprint verdict why past",
)
KEYS_CHOSEN = Prepared(
    lambda kind: (
        select(jobs.c.unique_key)
        .distinct()
        .join(selected, selected.c.job_id == jobs.c.id)
        .where(
            kind.listed(jobs.c.unique_key, b("keys")),
            selected.c.operation_id == b("operation"),
            selected.c.verdict.in_(
                [literal_column(f"'{verdict}'") for verdict in sorted(CONFIRMABLE)]
            ),
        )
    ),
    "keys operation",
)
BY_VERDICT = Prepared(
    select(selected.c.verdict, func.count())
    .where(selected.c.operation_id == b("operation"))
    .group_by(selected.c.verdict),
    "operation",
)
BY_REASON = Prepared(
    select(selected.c.verdict, selected.c.why, func.count())
    .where(selected.c.operation_id == b("operation"), selected.c.why.is_not(None))
    .group_by(selected.c.verdict, selected.c.why)
    .order_by(func.count().desc())
    .limit(b("limit"))
    .offset(ZERO),
    "operation limit",
)
PAGE = Prepared(
    select(*(selected.c[name] for name in Entry.__struct_fields__))
    .where(selected.c.operation_id == b("operation"), selected.c.job_id < b("below"))
    .order_by(selected.c.job_id.desc())
    .limit(b("limit"))
    .offset(ZERO),
    "operation below limit",
)
_ABOVE_ALL = (1 << 63) - 1


def payload_of(database: Database, number: int) -> str:
    """The payload of a job, however long."""
    with database.look() as tx:
        row = tx.row(PAYLOAD, number)
    return "{}" if row is None else str(row[0])


def keys_chosen(tx: Tx, operation: int, keys: Sequence[str]) -> set[str]:
    """Which of the unique keys a job of the list has that may be run again."""
    if not keys:
        return set()
    return {row[0] for row in tx.rows(KEYS_CHOSEN, msgspec.json.encode(keys).decode(), operation)}


def choose(tx: Tx, operation: int, chosen: Sequence[Chosen]) -> None:
    """Write jobs into the list."""
    encode = msgspec.json.encode
    tx.many(
        CHOOSE,
        [
            (
                operation,
                one.job_id,
                one.fence,
                one.fingerprint,
                one.verdict,
                one.why,
                encode(one.past).decode(),
            )
            for one in chosen
        ],
    )


def by_verdict(database: Database, operation: int) -> dict[str, int]:
    """How many jobs of the list there are of each verdict."""
    with database.look() as tx:
        return {row[0]: row[1] for row in tx.rows(BY_VERDICT, operation)}


def by_reason(database: Database, operation: int, limit: int) -> list[tuple[str, str, int]]:
    """The commonest reasons of verdicts: verdict, why, how many."""
    with database.look() as tx:
        return [(row[0], row[1], row[2]) for row in tx.rows(BY_REASON, operation, limit)]


def entries(database: Database, operation: int, size: int = 500) -> Iterator[Entry]:
    """The list, newest jobs first."""
    below = _ABOVE_ALL
    while True:
        with database.look() as tx:
            page = [Entry(*row) for row in tx.rows(PAGE, operation, below, size)]
        if not page:
            return
        yield from page
        below = page[-1].job_id
