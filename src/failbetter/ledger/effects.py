"""Effects: what must happen once per job, written down before and after it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from sqlalchemy import delete, insert, literal_column, select, update

from failbetter.ledger.endings import still_current
from failbetter.ledger.prepared import ZERO, Prepared, b
from failbetter.ledger.schema import effects, jobs
from failbetter.lifecycle.states import State

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
DOUBTS = Prepared(
    select(effects.c.name, effects.c.intended_at)
    .where(effects.c.job_id == b("id"), effects.c.done_at.is_(None))
    .order_by(effects.c.intended_at),
    "id",
)
HAPPENED = Prepared(
    update(effects)
    .values(done_at=b("now"), result=b("result"), settled_by=b("by"))
    .where(*_this, effects.c.done_at.is_(None)),
    "now result by id name",
)
STATE_OF = Prepared(select(jobs.c.state).where(jobs.c.id == b("id")).with_for_update(), "id")
NOTE = Prepared(update(jobs).values(note=b("note")).where(jobs.c.id == b("id")), "note id")
NEVER_HAPPENED = Prepared(delete(effects).where(*_this, effects.c.done_at.is_(None)), "id name")
IN_DOUBT = Prepared(
    select(literal_column("1"))
    .where(effects.c.job_id == b("id"), effects.c.done_at.is_(None))
    .limit(literal_column("1"))
    .offset(ZERO),
    "id",
)


def intend(
    tx: Tx, number: int, fence: int, holder: int, name: str, now: int, *, again: bool = False
) -> tuple[Intent, str | None]:
    """Write that the effect is about to happen; with the result when it has happened before.

    `holder`: the worker that runs the attempt. `again`: this same request may have been written
    before, and the body was not told.
    """
    if not still_current(tx, number, fence, holder):
        return "lost", None
    found = tx.row(FIND, number, name)
    if found is None:
        tx.run(INTEND, number, name, fence, now)
        return "go", None
    done_at, result, writer = found
    if again and done_at is None and writer == fence:
        return "go", None
    return ("uncertain", None) if done_at is None else ("done", result)


def done(
    tx: Tx, number: int, fence: int, holder: int, name: str, result: str | None, now: int
) -> Intent:
    """Write that the effect has happened.

    Written even when the attempt is lost meanwhile: that the effect happened stays true, and the
    row is still this attempt's.
    """
    written = tx.run(DONE, now, result, number, name, fence)
    return "done" if written and still_current(tx, number, fence, holder) else "lost"


def not_done(tx: Tx, number: int, fence: int, holder: int, name: str) -> Intent:
    """Take the intention back: the effect is known not to have happened."""
    tx.run(NOT_DONE, number, name, fence)
    return "go" if still_current(tx, number, fence, holder) else "lost"


class Doubt(msgspec.Struct, frozen=True):
    """An effect in doubt; `intended_at` in microseconds since the epoch."""

    name: str
    intended_at: int


def doubts(tx: Tx, number: int) -> list[Doubt]:
    """The effects of the job that were intended and are not known to have happened."""
    return [Doubt(*row) for row in tx.rows(DOUBTS, number)]


def has_happened(
    tx: Tx, number: int, fence: int, holder: int, name: str, result: str, by: str, now: int
) -> Intent:
    """Settle a doubt of an earlier attempt: the effect has happened."""
    if not still_current(tx, number, fence, holder):
        return "lost"
    tx.run(HAPPENED, now, result, by, number, name)
    return "done"


def never_happened(tx: Tx, number: int, fence: int, holder: int, name: str) -> Intent:
    """Settle a doubt of an earlier attempt: the effect has not happened."""
    if not still_current(tx, number, fence, holder):
        return "lost"
    tx.run(NEVER_HAPPENED, number, name)
    return "go"


def confirm(
    tx: Tx,
    number: int,
    name: str | None,
    result: str | None,
    by: str,
    now: int,
    *,
    happened: bool,
) -> str | None:
    """A person settles a doubt of a failed job; else why not, in a few words.

    `name` None: the one effect that is in doubt.
    """
    row = tx.row(STATE_OF, number)
    if row is None:
        return "not found"
    if row[0] != State.FAILED:
        return f"not failed but {row[0]}"
    names = [doubt.name for doubt in doubts(tx, number)]
    if not names:
        return "no effect of it is in doubt"
    if name is None and len(names) > 1:
        return f"several effects are in doubt, so name one: {', '.join(names)}"
    name = name or names[0]
    if name not in names:
        return f"no effect {name!r} is in doubt, but: {', '.join(names)}"
    if happened:
        tx.run(HAPPENED, now, result, by, number, name)
    else:
        tx.run(NEVER_HAPPENED, number, name)
    verb = "happened" if happened else "did not happen"
    tx.run(NOTE, f"the effect {name!r} {verb}, says {by}", number)
    return None


def in_doubt(tx: Tx, number: int) -> bool:
    """Whether an effect of the job was intended and is not known to have happened."""
    return tx.row(IN_DOUBT, number) is not None
