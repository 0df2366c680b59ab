"""Effects: what must happen once per job, written down before and after it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import delete, insert, literal_column, select, update

from failbetter.ledger.endings import still_current
from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.schema import effects

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

Intent = Literal["go", "done", "uncertain", "lost"]

_this = (effects.c.job_id == b("id"), effects.c.name == b("name"))
FIND = Prepared(
    select(effects.c.done_at, effects.c.result, effects.c.fence).where(*_this), "id name"
)
INTEND = Prepared(
    insert(effects).values(job_id=b("id"), name=b("name"), fence=b("fence"), intended_at=b("now")),
    "id name fence now",
)
DONE = Prepared(
    update(effects)
    .values(done_at=b("now"), result=b("result"))
    .where(*_this, effects.c.fence == b("fence")),
    "now result id name fence",
)
NOT_DONE = Prepared(
    delete(effects).where(*_this, effects.c.fence == b("fence"), effects.c.done_at.is_(None)),
    "id name fence",
)
IN_DOUBT = Prepared(
    select(literal_column("1"))
    .where(effects.c.job_id == b("id"), effects.c.done_at.is_(None))
    .limit(literal_column("1"))
    .offset(ZERO),
    "id",
)


def intend(
    tx: Tx, number: int, fence: int, name: str, now: int, *, again: bool = False
) -> tuple[Intent, str | None]:
    """Write that the effect is about to happen; with the result when it has happened before.

    `again`: this same request may have been written before, and the body was not told.
    """
    if not still_current(tx, number, fence):
        return "lost", None
    found = tx.row(FIND, number, name)
    if found is None:
        tx.run(INTEND, number, name, fence, now)
        return "go", None
    done_at, result, writer = found
    if again and done_at is None and writer == fence:
        return "go", None
    return ("uncertain", None) if done_at is None else ("done", result)


def done(tx: Tx, number: int, fence: int, name: str, result: str | None, now: int) -> Intent:
    """Write that the effect has happened.

    Written even when the attempt is lost meanwhile: that the effect happened stays true, and the
    row is still this attempt's.
    """
    written = tx.run(DONE, now, result, number, name, fence)
    return "done" if written and still_current(tx, number, fence) else "lost"


def not_done(tx: Tx, number: int, fence: int, name: str) -> Intent:
    """Take the intention back: the effect is known not to have happened."""
    tx.run(NOT_DONE, number, name, fence)
    return "go" if still_current(tx, number, fence) else "lost"


def in_doubt(tx: Tx, number: int) -> bool:
    """Whether an effect of the job was intended and is not known to have happened."""
    return tx.row(IN_DOUBT, number) is not None
