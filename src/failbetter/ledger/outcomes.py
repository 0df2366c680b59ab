"""What became of the jobs of an operation, by what their rows say now: nothing else is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import Integer, and_, case, func, literal_column, or_, select

from failbetter.ledger.lists import MOVED, RETURNED, SKIPPED, taken_over
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import attempts, jobs, selected
from failbetter.lifecycle.states import Cause, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx


class Became(msgspec.Struct, frozen=True, gc=False):
    """A job of an operation: what became of it (a field of the report), and why where told."""

    job_id: int
    verdict: str
    became: str
    why: str | None


SAMPLE: Final = 1_000
"""From more jobs of one fingerprint on than this, about so many of them, evenly spread, are looked
at: a ramp asks again and again, while endings wait to be written.
"""


class Tally(msgspec.Struct, frozen=True):
    """First attempts since they were moved, of jobs of one fingerprint ("-": of none).

    All its jobs, or of many a `SAMPLE`.
    """

    fingerprint: str
    moved: int
    good: int
    alike: int
    otherwise: int

    @property
    def judged(self) -> int:
        """How many first attempts have come to an end that tells something."""
        return self.good + self.alike + self.otherwise


def _word(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'")


def _words(texts: Iterable[str]) -> list[ColumnElement[str]]:
    return [_word(text) for text in texts]


_alike = or_(
    jobs.c.fingerprint == selected.c.fingerprint,
    and_(jobs.c.fingerprint.is_(None), selected.c.fingerprint.is_(None)),
)
_is_now = case(
    (jobs.c.id.is_(None), _word("gone")),
    (taken_over, _word("taken_over")),
    (jobs.c.state == _word(State.SUCCEEDED), _word("succeeded")),
    (jobs.c.state == _word(State.DISCARDED), _word("discarded")),
    (jobs.c.state == _word(State.RUNNING), _word("running")),
    (jobs.c.state == _word(State.PENDING), _word("waiting")),
    # Nothing has happened since it was made failed again.
    (jobs.c.fence == selected.c.moved_fence, _word("restored")),
    (_alike, _word("failed_alike")),
    else_=_word("failed_otherwise"),
)
_became = case(
    (selected.c.outcome.is_(None), _word("unreleased")),
    (selected.c.outcome == _word(MOVED), _is_now),
    (selected.c.outcome == _word(RETURNED), _word("undone")),
    else_=_word("skipped"),
)
_of_operation = selected.c.operation_id == b("operation")
_why_skipped = case(
    (selected.c.outcome == _word(SKIPPED), selected.c.verdict),
    (
        and_(selected.c.outcome.is_not(None), selected.c.outcome.not_in(_words([MOVED, RETURNED]))),
        selected.c.outcome,
    ),
)
_each = (
    select(_became.label("became"), _why_skipped.label("skipped"))
    .select_from(selected.outerjoin(jobs, jobs.c.id == selected.c.job_id))
    .where(_of_operation)
    .subquery("each_one")
)
COUNTS = Prepared(
    select(_each.c.became, _each.c.skipped, func.count()).group_by(_each.c.became, _each.c.skipped),
    "operation",
)
PAGE = Prepared(
    select(selected.c.job_id, selected.c.verdict, _became, selected.c.why)
    .select_from(selected.outerjoin(jobs, jobs.c.id == selected.c.job_id))
    .where(_of_operation, selected.c.job_id < b("below"))
    .order_by(selected.c.job_id.desc())
    .limit(b("limit"))
    .offset(ZERO),
    "operation below limit",
)
MOVED_COUNT = Prepared(
    select(func.count()).where(_of_operation, selected.c.outcome == _word(MOVED)), "operation"
)
REFUSED = Prepared(
    select(selected.c.job_id, func.coalesce(selected.c.why, selected.c.outcome))
    .where(
        _of_operation,
        selected.c.outcome.is_not(None),
        selected.c.outcome.not_in(_words([MOVED, RETURNED])),
    )
    .order_by(selected.c.job_id),
    "operation",
)
LIVE = Prepared(
    select(ONE)
    .select_from(selected.join(jobs, jobs.c.id == selected.c.job_id))
    .where(
        _of_operation,
        selected.c.outcome == _word(MOVED),
        jobs.c.live == ONE,
        ~taken_over,
    )
    .limit(ONE)
    .offset(ZERO),
    "operation",
)
# What says something of the cause; a worker that stops, a release, another's death do not.
_TELLING = (
    Cause.RETURNED,
    Cause.RAISED,
    Cause.FAILED_BY_TASK,
    Cause.DISCARDED_BY_TASK,
    Cause.TIMED_OUT,
    Cause.STALLED,
    Cause.CRASHED,
    Cause.UNLOADABLE,
)
_first = (
    select(attempts.c.cause)
    .where(
        attempts.c.job_id == selected.c.job_id,
        attempts.c.fence > selected.c.moved_fence,
        attempts.c.cause.in_(_words(_TELLING)),
    )
    .order_by(attempts.c.fence)
    .limit(ONE)
    .offset(ZERO)
    .correlate(selected)
    .scalar_subquery()
)
_lately = (
    _of_operation,
    selected.c.outcome == _word(MOVED),
    selected.c.moved_at >= b("since"),
)
_cause = func.coalesce(selected.c.fingerprint, _word("-"))
_TWO = literal_column("2", Integer)
_PAIRS = literal_column(str(2 * SAMPLE), Integer)
# An odd number, as ids may be made in steps of a power of two.
_sizes = (
    select(_cause.label("fingerprint"), (_TWO * (func.count() // _PAIRS) + ONE).label("each"))
    .where(*_lately)
    .group_by(_cause)
    .cte("sizes")
)
_judged = (
    select(
        _cause.label("fingerprint"),
        func.coalesce(_first, _word("")).label("cause"),
        jobs.c.state.label("state"),
        case((_alike, ONE), else_=ZERO).label("alike"),
    )
    .select_from(
        selected.join(_sizes, _sizes.c.fingerprint == _cause).join(
            jobs, jobs.c.id == selected.c.job_id
        )
    )
    .where(*_lately, selected.c.job_id % _sizes.c.each == ZERO)
    .subquery("judged")
)
_good = or_(
    _judged.c.cause.in_(_words([Cause.RETURNED, Cause.DISCARDED_BY_TASK])),
    and_(
        _judged.c.cause == _word(""),
        _judged.c.state.in_(_words([State.SUCCEEDED, State.DISCARDED])),
    ),
)
_bad = and_(~_good, or_(_judged.c.cause != _word(""), _judged.c.state == _word(State.FAILED)))


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, ONE), else_=ZERO))


TALLY = Prepared(
    select(
        _judged.c.fingerprint,
        func.count(),
        _sum(_good),
        _sum(and_(_bad, _judged.c.alike == ONE)),
        _sum(and_(_bad, _judged.c.alike == ZERO)),
    ).group_by(_judged.c.fingerprint),
    "operation since operation since",
)
_ABOVE_ALL = (1 << 63) - 1


def counts(database: Database, operation: int) -> list[tuple[str, str | None, int]]:
    """How many jobs of the operation became what; of those skipped, by why."""
    with database.look() as tx:
        return [(row[0], row[1], row[2]) for row in tx.rows(COUNTS, operation)]


def became(database: Database, operation: int, size: int = 500) -> Iterator[Became]:
    """What became of each job, newest jobs first."""
    below = _ABOVE_ALL
    while True:
        with database.look() as tx:
            page = [Became(*row) for row in tx.rows(PAGE, operation, below, size)]
        if not page:
            return
        yield from page
        below = page[-1].job_id


def moved(database: Database, operation: int) -> int:
    """How many jobs were moved and not returned."""
    with database.look() as tx:
        return int(tx.rows(MOVED_COUNT, operation)[0][0])


def refused(database: Database, operation: int) -> list[tuple[int, str]]:
    """The jobs that were skipped, each with why."""
    with database.look() as tx:
        return [(row[0], row[1]) for row in tx.rows(REFUSED, operation)]


def any_live(database: Database, operation: int) -> bool:
    """Whether a job that was moved is live still."""
    with database.look() as tx:
        return tx.row(LIVE, operation) is not None


def tally(tx: Tx, operation: int, since: int) -> Sequence[Tally]:
    """How the first attempts went of the jobs that were moved since then, by fingerprint."""
    found = tx.rows(TALLY, operation, since, operation, since)
    return [Tally(row[0], *map(int, row[1:])) for row in found]
