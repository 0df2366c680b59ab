"""A failed job with corrected arguments: another job, in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ledger
from failbetter.errors import Refused
from failbetter.lifecycle.policy import from_json
from failbetter.lifecycle.replay import against_editing
from failbetter.lifecycle.states import State
from failbetter.limits import KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from failbetter.app import App
    from failbetter.job import By, Job
    from failbetter.ledger.edits import EditRow
    from failbetter.ledger.kinds import Tx


def edit_and_retry(app: App, job: Job, args: Mapping[str, Any], by: By) -> int:
    """Make the job again with other arguments and put it aside; the id of the new one.

    Raises Refused, saying why, and TypeError for arguments that do not fit.
    """
    row = job.refresh().row
    cannot = f"job {job.id} cannot be edited"
    if not app.allow_edit:
        raise Refused(f"{cannot}: this app does not allow that; App(…, allow_edit=True) does")
    if row.state != State.FAILED:
        raise Refused(f"{cannot}: not failed but {row.state}")
    if row.origin is not None:
        raise Refused(f"{cannot}: it is a job of {row.origin}'s own, whose arguments are not read")
    task = app.tasks.get(row.task)
    if task is None:
        raise Refused(f"{cannot}: this app has no task {row.task!r}")
    if not args:
        raise ValueError(f"{cannot}: no argument is to be another; `retry` runs it as it is")
    with task.loaded(*task.arguments.edited(row.payload, args)) as (given, named):
        new = task.using(queue=row.queue, priority=row.priority).new_job(given, named)
    new = msgspec.structs.replace(new, tags=row.tags)
    changed = msgspec.json.encode(sorted(args)).decode()
    replay = from_json(row.policy).replay

    def edit(made: int, now: int) -> EditRow:
        actor = None if by.actor is None else by.actor[:KEY_LENGTH]
        return ledger.edits.EditRow(made, row.id, changed, actor, by.note, now)

    def objection(done: int, in_doubt: int) -> str | None:
        return against_editing(replay, done, in_doubt, confirmed=by.confirmed)

    def replace(tx: Tx) -> int:
        found = ledger.edits.replace(tx, row.id, row.fence, new, edit, objection)
        if isinstance(found, str):
            raise Refused(f"{cannot}: {found}")
        return found

    made = app.database.transact(replace)
    app.database.wake(1)
    return made
