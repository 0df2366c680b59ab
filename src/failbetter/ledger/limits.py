"""Rate limits: which claimed jobs may begin now, and the lines in which the others wait.

A *line* is to a limit what a lane is to all jobs: those of its limit that differ only in age. Its
jobs wait without a rank, so that no claim of others comes across them, under the line's id; a claim
takes them out in their order, as many as may begin. A line is there as long as jobs wait in it.

Whoever gives permits, or puts jobs into lines or takes them out, does so alone: it first takes a
turn that all limits share, and waits for no other lock thereafter. That is in its transaction's
last part, the claim, or in one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, insert, null, select, update

from failbetter import ids
from failbetter.durations import micros
from failbetter.ledger import turns
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, limits, lines
from failbetter.lifecycle import limits as pure
from failbetter.lifecycle.limits import Log, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Update

    from failbetter.ledger.claims import Claimed, Lane
    from failbetter.ledger.kinds import Kind, Tx
    from failbetter.ledger.reads import JobRow
    from failbetter.lifecycle.policy import Limiting

_TURN = "limits"
# How many jobs at the head of a lane are looked through for others that must wait as well.
_ALIKE = 2_000


class Line(msgspec.Struct, frozen=True):
    """Jobs that wait for a limit. `next_at`: from when on one may begin; 0: one may now."""

    id: int
    name: str
    rank: int
    queue: str
    careful: int
    since: int
    rate: Rate
    next_at: int

    @property
    def says(self) -> str:
        """The limit in words."""
        return f"{self.rate.count:,} per {self.rate.per / 1e6:g} s"


class State(msgspec.Struct):
    """A limit as its row has it. `said_by`: the job that said the rate."""

    rate: Rate
    log: Log
    said_by: int


_columns = [lines.c[name] for name in ("id", "name", "rank", "queue", "careful", "since")]
_state = [limits.c.count, limits.c.per, limits.c.begun]
LINES = Prepared(
    select(*_columns, *_state)
    .join_from(lines, limits, limits.c.name == lines.c.name)
    .order_by(lines.c.name, lines.c.rank, lines.c.id)
)
STATE = Prepared(select(*_state, limits.c.said_by).where(limits.c.name == b("name")), "name")
FIRST = Prepared(
    insert(limits).values(
        name=b("name"),
        count=b("count"),
        per=b("per"),
        begun=b("begun"),
        said_by=b("said_by"),
    ),
    "name count per begun said_by",
)
WRITE = Prepared(
    update(limits)
    .values(count=b("count"), per=b("per"), begun=b("begun"), said_by=b("said_by"))
    .where(limits.c.name == b("name")),
    "count per begun said_by name",
)
LINES_OF = Prepared(
    select(lines.c.rank, lines.c.queue, lines.c.careful, lines.c.id).where(
        lines.c.name == b("name")
    ),
    "name",
)
NEW_LINE = Prepared(
    insert(lines).values(**{column.name: b(column.name) for column in _columns}),
    "id name rank queue careful since",
)
END_LINE = Prepared(delete(lines).where(lines.c.id == b("id")), "id")
FIRST_IN_LINE = Prepared(
    select(jobs.c.id).where(jobs.c.held == b("line")).limit(ONE).offset(ZERO), "line"
)
STAND_IN = Prepared(
    update(jobs)
    .values(held=b("line"), worker=null(), claimed=null(), fence=jobs.c.fence + ONE)
    .where(jobs.c.id == b("id"), jobs.c.fence == b("fence"), jobs.c.claimed == ONE),
    "line id fence",
)


def _alike(kind: Kind) -> Update:
    head = (
        select(jobs.c.id, jobs.c.policy)
        .where(
            jobs.c.rank == b("rank"),
            jobs.c.queue == b("queue"),
            jobs.c.careful == b("careful"),
            jobs.c.run_at <= b("now"),
        )
        .order_by(jobs.c.run_at)
        .limit(b("limit"))
        .offset(ZERO)
        .subquery("head")
    )
    # What another has locked is on its way to somewhere: not to be waited for.
    waiting = (
        select(jobs.c.id)
        .where(jobs.c.id.in_(select(head.c.id).where(head.c.policy == b("policy"))))
        .where(jobs.c.rank.is_not(None))
        .with_for_update(skip_locked=True)
    )
    return update(jobs).values(held=b("line"), rank=null()).where(kind.among(jobs.c.id, waiting))


STAND_IN_ALIKE = Prepared(_alike, "line rank queue careful now limit policy")
_some_in_line = select(jobs.c.id).where(jobs.c.held == b("line")).limit(b("limit")).offset(ZERO)
COUNT_IN_LINE = Prepared(select(func.count()).select_from(_some_in_line.subquery()), "line limit")
KNOWN = Prepared(select(lines.c.id).where(lines.c.id == b("id")), "id")


def every_line(tx: Tx) -> list[Line]:
    """All lines, by their limit's name, the best of each first. Without locks."""
    now = tx.now()
    found = []
    for number, name, rank, queue, careful, since, count, per, begun in tx.rows(LINES):
        rate = Rate(count, per)
        next_at = pure.next_free(rate, _log_of(begun), now)
        found.append(Line(number, name, rank, queue, careful, since, rate, next_at))
    return found


def line_of(tx: Tx, job: JobRow) -> Line | None:
    """The line in which this job waits."""
    return None if job.held is None else line_with(tx, job.held)


def line_with(tx: Tx, number: int) -> Line | None:
    """The line of this id, if there is one."""
    return next((line for line in every_line(tx) if line.id == number), None)


def is_line(tx: Tx, number: int) -> bool:
    """Whether there is a line of this id."""
    return tx.row(KNOWN, number) is not None


def count_in_line(tx: Tx, number: int, limit: int) -> int:
    """How many jobs wait in a line; of more than `limit`, so many are counted."""
    return int(tx.rows(COUNT_IN_LINE, number, limit)[0][0])


class Permits:
    """The limits in one transaction. Nothing is locked or read before the first of their jobs."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._states: dict[str, State] = {}
        self._lines: dict[str, dict[tuple[int, str, int], int]] = {}
        self._changed: set[str] = set()
        self.more = False
        """Whether a job was put into a line although one of its limit might begin."""

    # -- for a claim

    def room(self, name: str) -> int:
        """How many jobs of a limit that has lines may be taken out of them."""
        state = self._state(name)
        return 0 if state is None else pure.free(state.rate, state.log, self._tx.now())

    def end_if_empty(self, number: int, name: str) -> None:
        """Let a line be no more when nothing waits in it."""
        if self._tx.row(FIRST_IN_LINE, number) is None:
            self._tx.run(END_LINE, number)
            self._lines.pop(name, None)

    def let_through(self, claimed: list[Claimed], lane: Lane, now: int) -> list[Claimed]:
        """Of jobs just claimed from a lane or line, those that may begin: each gets its permit.

        The others go into a line, and with them those of the lane's head that are like them: so a
        lane full of them is soon out of the way. `now`: until when jobs are due.
        """
        if not any(_says_limit(text) for text in {job.policy_text for job in claimed}):
            return claimed
        by_name: dict[str, list[Claimed]] = {}
        for job in claimed:
            limiting = job.policy.rate_limit
            if limiting is not None:
                by_name.setdefault(limiting.name, []).append(job)
        gone: set[int] = set()
        for name, some in by_name.items():
            permitted = self._permit(name, some, lane)
            gone |= {job.id for job in some[permitted:]}
            if some[permitted:]:
                self._stand_in(name, some[permitted:], lane, now)
        return [job for job in claimed if job.id not in gone]

    def next_at(self) -> int | None:
        """When a job in a line of those limits that were come across may begin; None: none waits.

        Not those that may already: something else keeps them.
        """
        now = self._tx.now()
        found = [
            pure.next_free(state.rate, state.log, now)
            for name, state in self._states.items()
            if self._lines_of(name)
        ]
        return min((at for at in found if at > now), default=None)

    def write(self) -> None:
        """Write what was given."""
        for name in sorted(self._changed):
            state = self._states[name]
            text = msgspec.json.encode(state.log).decode()
            rate = state.rate
            self._tx.run(WRITE, rate.count, rate.per, text, state.said_by, name)
        self._changed.clear()

    # -- for a body that is about to begin

    def again(self, limiting: Limiting, term: int | None, tries: int) -> int | None:
        """Another permit for one whose term was over; None: none is free now.

        `term`: of that one, if it is certain that it has not been given back yet.
        """
        if term is not None:
            self.give_back(limiting.name, term)
        state = self._known(limiting, 0)
        now = self._tx.now()
        if not pure.free(state.rate, state.log, now):
            return None
        state.log, given = pure.take(state.rate, state.log, now, 1, tries)
        self._changed.add(limiting.name)
        return given

    def give_back(self, name: str, term: int) -> None:
        """A permit under which no body has begun."""
        state = self._state(name)
        if state is not None:
            state.log = pure.give_back(state.log, term)
            self._changed.add(name)

    # -- inside

    def _state(self, name: str) -> State | None:
        if not self._states and not self._tx.kind.one_writer:
            turns.mark(self._tx, _TURN, 0)
        found = self._states.get(name)
        if found is None:
            row = self._tx.row(STATE, name)
            if row is not None:
                count, per, begun, said_by = row
                found = self._states[name] = State(Rate(count, per), _log_of(begun), said_by)
        return found

    def _known(self, limiting: Limiting, said_by: int) -> State:
        """The limit's state; its rate is the newest job's."""
        rate = Rate(limiting.count, micros(limiting.per))
        state = self._state(limiting.name)
        if state is None:
            state = self._states[limiting.name] = State(rate, (), said_by)
            self._tx.run(FIRST, limiting.name, rate.count, rate.per, "[]", said_by)
        elif state.said_by < said_by:
            state.said_by = said_by
            if state.rate != rate:
                state.rate = rate
                self._changed.add(limiting.name)
        return state

    def _permit(self, name: str, some: Sequence[Claimed], lane: Lane) -> int:
        """Give permits to the first of these; to how many."""
        newest = max(some, key=lambda job: job.id)
        assert newest.policy.rate_limit is not None
        state = self._known(newest.policy.rate_limit, newest.id)
        now = self._tx.now()
        permitted = min(pure.free(state.rate, state.log, now), len(some))
        if lane.line is None and any(rank <= lane.rank for rank, _, _ in self._lines_of(name)):
            # Those who wait already go first.
            self.more = self.more or permitted > 0
            return 0
        if permitted:
            state.log, term = pure.take(state.rate, state.log, now, permitted)
            self._changed.add(name)
            for job in some[:permitted]:
                job.permit = term
        return permitted

    def _stand_in(self, name: str, some: Sequence[Claimed], lane: Lane, now: int) -> None:
        line = self._line(name, lane)
        self._tx.many(STAND_IN, [(line, job.id, job.fence) for job in some])
        if lane.line is None:
            where = (lane.rank, lane.queue, lane.careful, now, _ALIKE)
            for text in sorted({job.policy_text for job in some}):
                self._tx.run(STAND_IN_ALIKE, line, *where, text)

    def _lines_of(self, name: str) -> dict[tuple[int, str, int], int]:
        found = self._lines.get(name)
        if found is None:
            rows = self._tx.rows(LINES_OF, name)
            found = self._lines[name] = {(row[0], row[1], row[2]): row[3] for row in rows}
        return found

    def _line(self, name: str, lane: Lane) -> int:
        known = self._lines_of(name)
        place = (lane.rank, lane.queue, lane.careful)
        number = known.get(place)
        if number is None:
            number = known[place] = ids.take()
            self._tx.run(NEW_LINE, number, name, *place, self._tx.now())
        return number


def _log_of(text: str) -> Log:
    return msgspec.json.decode(text, type=Log)


def _says_limit(policy: str) -> bool:
    return '"rate_limit"' in policy
