"""Jobs by cause, and what a person has said of a cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import func, insert, literal_column, select, update

from failbetter.ledger.filters import Filters, condition
from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.schema import groups, jobs
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

RESOLVED, IGNORED = "resolved", "ignored"
# What nobody has said, but was noted so that a cause is told of once: that it was seen, and that
# it came back after a person had resolved it, whose words the row keeps.
SEEN, REOPENED = "seen", "reopened"


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of one fingerprint; of those without, the ones of one task, reason and error's type.

    Times in microseconds since the epoch. `sample`: the newest of the jobs.
    """

    fingerprint: str | None
    count: int
    first_at: int | None
    last_at: int | None
    sample: int
    tasks: Sequence[str]
    queues: Sequence[str]
    codes: Sequence[str]


class Said(msgspec.Struct, frozen=True):
    """What a person has said of a cause, and when; `since`: how many have failed of it later."""

    fingerprint: str
    state: str
    at: int
    actor: str | None
    note: str | None
    since: int = 0


_figures: list[Any] = [
    func.count(),
    func.min(jobs.c.ended_at),
    func.max(jobs.c.ended_at),
    func.max(jobs.c.id),
]
_differing = [jobs.c.task, jobs.c.queue, jobs.c.code]
_kinds = [jobs.c.task, jobs.c.reason, jobs.c.error_type]


def found(database: Database, filters: Filters) -> list[GroupRow]:
    """Matching jobs by cause, the largest group first, of equal ones that of the newest job."""
    matching = condition(filters, database.kind)
    known = (matching, jobs.c.fingerprint.is_not(None))
    unknown = (matching, jobs.c.fingerprint.is_(None))
    by_cause = _in_order if database.kind.sorts_groups else _at_once
    rows = by_cause(database, known) + _without_fingerprint(database, unknown)
    return sorted(rows, key=lambda row: (row.count, row.sample), reverse=True)


def _in_order(database: Database, known: Sequence[Any]) -> list[GroupRow]:
    """The groups in two looks through the index by cause, in its order.

    What differs within a group is asked for apart, because as part of the same question it would
    have a million rows sorted.
    """
    figures = database.query(
        select(jobs.c.fingerprint, *_figures).where(*known).group_by(jobs.c.fingerprint)
    )
    of: dict[str, list[tuple[Any, ...]]] = {}
    for key, *kind in database.query(
        select(jobs.c.fingerprint, *_differing).where(*known).distinct()
    ):
        of.setdefault(key, []).append(tuple(kind))
    return [_group(key, figure, of.get(key, [])) for key, *figure in figures]


def _at_once(database: Database, known: Sequence[Any]) -> list[GroupRow]:
    """The groups in one look, in which all that differs is counted apart."""
    of: dict[str, list[Any]] = {}
    for row in database.query(
        select(jobs.c.fingerprint, *_differing, *_figures)
        .where(*known)
        .group_by(jobs.c.fingerprint, *_differing)
    ):
        of.setdefault(row[0], []).append(row)
    rows = []
    for key, parts in of.items():
        counts, firsts, lasts, samples = zip(*(part[4:] for part in parts), strict=True)
        first = min((at for at in firsts if at is not None), default=None)
        last = max((at for at in lasts if at is not None), default=None)
        kinds = [tuple(part[1:4]) for part in parts]
        rows.append(_group(key, (sum(counts), first, last, max(samples)), kinds))
    return rows


def _without_fingerprint(database: Database, unknown: Sequence[Any]) -> list[GroupRow]:
    kinds = database.query(select(*_kinds, jobs.c.queue, jobs.c.code).where(*unknown).distinct())
    figures = database.query(select(*_kinds, *_figures).where(*unknown).group_by(*_kinds))
    of: dict[Any, list[tuple[Any, ...]]] = {}
    for task, reason, error_type, queue, code in kinds:
        of.setdefault((task, reason, error_type), []).append((task, queue, code))
    return [_group(None, row[3:], of.get(tuple(row[:3]), [])) for row in figures]


def _group(
    fingerprint: str | None, figures: Sequence[Any], kinds: Sequence[tuple[Any, ...]]
) -> GroupRow:
    count, first_at, last_at, sample = figures
    tasks, queues, codes = (
        sorted({kind[at] for kind in kinds if kind[at] is not None}) for at in range(3)
    )
    return GroupRow(
        fingerprint=fingerprint,
        count=count,
        first_at=first_at,
        last_at=last_at,
        sample=sample,
        tasks=tasks,
        queues=queues,
        codes=codes,
    )


def all_said(database: Database) -> dict[str, Said]:
    """What people have said, by fingerprint."""
    rows = [Said(*row) for row in database.query(select(*groups.c).where(groups.c.state != SEEN))]
    said = {
        one.fingerprint: msgspec.structs.replace(one, state=RESOLVED)
        if one.state == REOPENED
        else one
        for one in rows
    }
    if any(one.state == RESOLVED for one in said.values()):
        later = (
            select(jobs.c.fingerprint, func.count())
            .join_from(groups, jobs, jobs.c.fingerprint == groups.c.fingerprint)
            .where(
                groups.c.state.in_((RESOLVED, REOPENED)),
                jobs.c.state == literal_column(f"'{State.FAILED}'"),
                jobs.c.ended_at > groups.c.at,
            )
            .group_by(jobs.c.fingerprint)
        )
        for key, count in database.query(later):
            if key in said:
                said[key] = msgspec.structs.replace(said[key], since=count)
    return said


CHANGE = Prepared(
    update(groups)
    .values(state=b("state"), at=b("at"), actor=b("actor"), note=b("note"))
    .where(groups.c.fingerprint == b("fingerprint")),
    "state at actor note fingerprint",
)
ADD = Prepared(
    lambda kind: kind.insert_unless(
        insert(groups).values(
            fingerprint=b("fingerprint"),
            state=b("state"),
            at=b("at"),
            actor=b("actor"),
            note=b("note"),
        ),
        [groups.c.fingerprint],
    ),
    "fingerprint state at actor note",
)


def say(tx: Tx, fingerprint: str, state: str, at: int, actor: str | None, note: str | None) -> None:
    """Keep what a person says of a cause, in place of what was said before."""
    if not tx.run(ADD, fingerprint, state, at, actor, note):
        tx.run(CHANGE, state, at, actor, note, fingerprint)


SAID = Prepared(
    select(groups.c.state, groups.c.at).where(groups.c.fingerprint == b("fingerprint")),
    "fingerprint",
)
_some_failed = (
    select(jobs.c.id)
    .where(
        jobs.c.state == literal_column(f"'{State.FAILED}'"),
        jobs.c.fingerprint == b("fingerprint"),
        jobs.c.ended_at > b("after"),
    )
    .limit(b("limit"))
    .offset(ZERO)
)
COUNT_FAILED = Prepared(
    select(func.count()).select_from(_some_failed.subquery()), "fingerprint after limit"
)
REOPEN = Prepared(
    update(groups)
    .values(state=literal_column(f"'{REOPENED}'"))
    .where(
        groups.c.fingerprint == b("fingerprint"),
        groups.c.state == literal_column(f"'{RESOLVED}'"),
        groups.c.at < b("at"),
    ),
    "fingerprint at",
)


def said_of(tx: Tx, fingerprint: str) -> tuple[str | None, int]:
    """What is noted of a cause, and when that was; (None, 0): nothing."""
    found = tx.row(SAID, fingerprint)
    return (None, 0) if found is None else (found[0], found[1])


def opened(tx: Tx, fingerprint: str, at: int, fresh: int) -> str | None:
    """Note that jobs failed of a cause, in the transaction that has written this.

    SEEN: nobody knew of the cause; REOPENED: it was resolved, and none had failed of it since;
    else None. Of all who note it at once, one is told so. `at`: when the jobs had failed, `fresh`
    how many they are: whoever else failed of it before keeps it from being news.
    """
    state, said_at = said_of(tx, fingerprint)
    if state is None:
        if not tx.run(ADD, fingerprint, SEEN, at, None, None):
            return None  # another was quicker
        return None if _others(tx, fingerprint, 0, fresh) else SEEN
    if state != RESOLVED or not tx.run(REOPEN, fingerprint, at):
        return None
    return None if _others(tx, fingerprint, said_at, fresh) else REOPENED


def _others(tx: Tx, fingerprint: str, after: int, fresh: int) -> bool:
    """Whether more than the fresh ones have failed of the cause later than `after`."""
    return bool(tx.rows(COUNT_FAILED, fingerprint, after, fresh + 1)[0][0] > fresh)
