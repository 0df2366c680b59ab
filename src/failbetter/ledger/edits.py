"""Jobs that were made of failed ones, with other arguments: in the transaction that makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import func, insert, select, update

from failbetter import ids
from failbetter.faultpoints import passing
from failbetter.ledger import enqueue, events
from failbetter.ledger.acts import END, is_
from failbetter.ledger.mirrors import follow_all
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import edits, effects, jobs
from failbetter.lifecycle.replay import KEY_IS_TAKEN
from failbetter.lifecycle.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.database import Database
    from failbetter.ledger.enqueue import NewJob
    from failbetter.ledger.kinds import Tx


class EditRow(msgspec.Struct, frozen=True):
    """An edit, as it was written. `changed`: names of parameters, as JSON; `at` in microseconds."""

    job_id: int
    original: int
    changed: str
    actor: str | None
    note: str | None
    at: int


_columns = tuple(edits.c[name] for name in EditRow.__struct_fields__)
# At the fence that was looked at: whoever comes second, or after a retry, finds another.
PUT_ASIDE = Prepared(
    update(jobs)
    .values(state=is_(State.DISCARDED), reason=is_(Reason.BY_OPERATOR), **END)
    .where(jobs.c.id == b("id"), jobs.c.fence == b("fence"), jobs.c.state == is_(State.FAILED)),
    "now id fence",
)
SAY_WHERE = Prepared(update(jobs).values(note=b("note")).where(jobs.c.id == b("id")), "note id")
EFFECTS_OF = Prepared(
    select(func.count(effects.c.done_at), func.count()).where(effects.c.job_id == b("id")), "id"
)
RECORD = Prepared(
    insert(edits).values({name: b(name) for name in EditRow.__struct_fields__}),
    " ".join(EditRow.__struct_fields__),
)
OF_JOB = Prepared(select(*_columns).where(edits.c.job_id == b("id")), "id")
OF_ORIGINAL = Prepared(
    select(*_columns)
    .where(edits.c.original == b("id"))
    .order_by(edits.c.job_id.desc())
    .limit(ONE)
    .offset(ZERO),
    "id",
)


def replace(
    tx: Tx,
    number: int,
    fence: int,
    new: NewJob,
    edit: Callable[[int, int], EditRow],
    objection: Callable[[int, int], str | None],
) -> int | str:
    """Put a failed job aside and make `new` in its place: its id, or why not, in a few words.

    `edit`: what to record, of the new job's id and the time. `objection`: what there is against
    it, of how many of the job's effects are done and in doubt. On a text nothing may be committed.
    """
    now = tx.now()
    if not tx.run(PUT_ASIDE, now, number, fence):
        return "it is not failed any more, or was retried meanwhile"
    done, known = tx.rows(EFFECTS_OF, number)[0]
    why = objection(int(done), int(known) - int(done))
    if why is not None:
        return why
    passing("in_edit")
    ((made, created),) = enqueue.insert_new(tx, [new])
    if not created:
        return KEY_IS_TAKEN
    tx.run(RECORD, *msgspec.structs.astuple(edit(made, now)))
    tx.run(SAY_WHERE, f"edited: {ids.to_text(made)} runs in its place", number)
    follow_all(tx, [number])
    events.ended(tx, [number])
    return made


def made_of(database: Database, number: int) -> EditRow | None:
    """The edit by which a job was made."""
    with database.look() as tx:
        row = tx.row(OF_JOB, number)
    return None if row is None else EditRow(*row)


def made_from(database: Database, number: int) -> EditRow | None:
    """The last edit of a job."""
    with database.look() as tx:
        row = tx.row(OF_ORIGINAL, number)
    return None if row is None else EditRow(*row)
