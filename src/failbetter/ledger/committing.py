"""A body's own transaction, which commits together with its job's success: exactly once.

The job's row is written last, under the fence, in the same transaction as the body's own writes.
Either all of it is there, or nothing of it and the job runs again.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, event, select
from sqlalchemy.orm import Session, scoped_session

from failbetter.errors import AttemptLost, Refused
from failbetter.faultpoints import passing
from failbetter.ledger.claims import CLAIMED_COLUMNS, Claimed, is_attempt
from failbetter.ledger.endings import Settlement, settle
from failbetter.ledger.joining import be_known, joined
from failbetter.ledger.prepared import Prepared, b
from failbetter.ledger.schema import jobs, workers
from failbetter.lifecycle.decide import Items, Outcome, decide
from failbetter.lifecycle.states import Cause, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from failbetter.ledger.database import Database

_name = select(workers.c.name).where(workers.c.id == jobs.c.worker).scalar_subquery()
HELD = Prepared(
    select(*CLAIMED_COLUMNS, _name).where(jobs.c.id == b("id"), *is_attempt()).with_for_update(),
    "id fence worker",
)


class Success(msgspec.Struct, frozen=True):
    """What is written of a success: of which attempt, since when it runs, and on which code.

    `holder`: the worker that runs it, by its id. Times in microseconds since the epoch. `items`:
    which of its items came to a good end.
    """

    id: int
    fence: int
    holder: int
    begun_at: int
    code: str | None
    items: Items = "all"


@contextlib.contextmanager
def committing(
    database: Database,
    success: Success,
    result: Callable[[], tuple[str | None, str | None]],
    timeout: float,
    given: Any = None,
) -> Iterator[Any]:
    """A transaction at whose end the job succeeds: yields its connection.

    `given`: a connection or session of the caller's own to the ledger's database, whose open
    transaction is then committed or rolled back; else one is opened. `result`: the result as JSON
    and a note, asked for at the end. `timeout`: seconds that it may take, since others may wait
    for what it has locked. Raises AttemptLost; on any error nothing is written.
    """
    be_known(database)
    if isinstance(given, scoped_session):
        given = given()
    if given is not None and not isinstance(given, (Connection, Session)):
        raise TypeError(
            "job.transaction(connection=…) takes a connection or session of SQLAlchemy, not"
            f" {type(given).__name__}"
        )
    limit = time.monotonic() + timeout
    if given is None:
        with database.transaction(timeout) as connection:
            event.listen(connection, "before_cursor_execute", lambda *_: _check(limit, timeout))
            yield connection
            _succeed(database, connection, success, result, limit, timeout)
            connection.commit()
    else:
        try:
            yield given
            _succeed(database, given, success, result, limit, timeout)
            given.commit()
        except BaseException:
            given.rollback()
            raise
    passing("after_own_commit")


def _check(limit: float, timeout: float) -> None:
    if time.monotonic() > limit:
        raise TimeoutError(
            f"job.transaction() took longer than its timeout of {timeout:g} s; nothing of it was"
            " written. Do the slow part before it, or give it more time"
        )


def _succeed(
    database: Database,
    connection: Any,
    success: Success,
    result: Callable[[], tuple[str | None, str | None]],
    limit: float,
    timeout: float,
) -> None:
    _check(limit, timeout)
    text, note = result()
    with database.translated():
        tx = joined(database.kind, connection)
        row = tx.row(HELD, success.id, success.fence, success.holder)
        lost = row is None
        if row is not None:
            job = Claimed(*row[:-1])
            now = tx.now()
            transition = decide(
                job.facts(), Outcome(Cause.RETURNED, items=success.items), now, random
            )
            if transition.state is not State.SUCCEEDED:
                raise Refused(
                    "items of this job have failed, so that it does not succeed: nothing was"
                    ' written. Its task may say on_partial="succeed"'
                )
            ending = Settlement(
                job.id,
                job.fence,
                success.holder,
                job.starts + 1,
                job.priority,
                transition,
                Cause.RETURNED,
                success.begun_at,
                now,
                row[-1] or "",
                success.code,
                text,
                note,
                mirror_key=job.mirror_key,
                about=job.about,
            )
            lost = bool(settle(tx, [ending]))
        if lost:
            raise AttemptLost(
                "the job was handed on while its body was in job.transaction(); nothing of it was"
                " written"
            )
    passing("before_own_commit")
