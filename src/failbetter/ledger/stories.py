"""What is kept of many jobs beside their rows, read for a page of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import select

from failbetter.ledger.reads import AttemptRow, EffectRow
from failbetter.ledger.schema import attempts, effects

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from failbetter.ledger.database import Database

T = TypeVar("T", AttemptRow, EffectRow)


def attempts_of(database: Database, numbers: Sequence[int]) -> dict[int, list[AttemptRow]]:
    """The ended attempts of these jobs, by job, oldest first."""
    columns = [attempts.c[name] for name in AttemptRow.__struct_fields__]
    statement = (
        select(attempts.c.job_id, *columns)
        .where(attempts.c.job_id.in_(numbers))
        .order_by(attempts.c.job_id, attempts.c.fence)
    )
    return _by_job(AttemptRow, database.query(statement))


def effects_of(database: Database, numbers: Sequence[int]) -> dict[int, list[EffectRow]]:
    """The effects of these jobs, by job, oldest first."""
    columns = [effects.c[name] for name in EffectRow.__struct_fields__]
    statement = (
        select(effects.c.job_id, *columns)
        .where(effects.c.job_id.in_(numbers))
        .order_by(effects.c.job_id, effects.c.intended_at, effects.c.name)
    )
    return _by_job(EffectRow, database.query(statement))


def _by_job(kind: type[T], rows: Iterable[Sequence[object]]) -> dict[int, list[T]]:
    found: dict[int, list[T]] = {}
    for row in rows:
        number, *values = row
        assert isinstance(number, int)
        found.setdefault(number, []).append(kind(*values))  # type: ignore[arg-type]
    return found
