"""Jobs by cause, and what a person has said of a cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import func, insert, literal_column, select, update

from failbetter.ledger.filters import Filters, condition
from failbetter.ledger.prepared import Prepared, b
from failbetter.ledger.schema import groups, jobs
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

RESOLVED = "resolved"


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
    said = {row[0]: Said(*tuple(row)) for row in database.query(select(*groups.c))}
    if any(one.state == RESOLVED for one in said.values()):
        later = (
            select(jobs.c.fingerprint, func.count())
            .join_from(groups, jobs, jobs.c.fingerprint == groups.c.fingerprint)
            .where(
                groups.c.state == RESOLVED,
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
