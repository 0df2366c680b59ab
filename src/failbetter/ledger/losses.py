"""Handing back what gone workers held, many jobs at a time; and what is asked of them before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import func, insert, literal_column, null, select, update

from failbetter.faultpoints import passing
from failbetter.ledger.acts import cancel_as_asked
from failbetter.ledger.claims import is_attempt
from failbetter.ledger.mirrors import follow
from failbetter.ledger.prepared import ONE, Prepared, b
from failbetter.ledger.progress import Series, all_series
from failbetter.ledger.schema import attempts, effects, jobs, progress
from failbetter.lifecycle.states import Cause, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.endings import Error
    from failbetter.ledger.kinds import Tx


class Loss(msgspec.Struct, frozen=True, gc=False):
    """An attempt that was lost, and whose job waits again. Times in microseconds."""

    id: int
    fence: int
    holder: int
    number: int
    begun_at: int
    error: Error
    evidence: str
    mirror_key: str | None


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """How far a job had come: by its body's own word, or else in its lists."""

    done: int
    failed: int
    total: int | None


HAND_BACK = Prepared(
    update(jobs)
    .values(
        state=literal_column(f"'{State.PENDING}'"),
        rank=-jobs.c.priority,
        run_at=b("now"),
        begun_at=null(),
        worker=null(),
        claimed=null(),
        fence=jobs.c.fence + ONE,
        starts=jobs.c.starts + ONE,
        losses=jobs.c.losses + ONE,
        error_type=b("error_type"),
        error_message=b("error_message"),
        fingerprint=func.coalesce(b("fingerprint"), jobs.c.fingerprint),
        code=func.coalesce(b("code"), jobs.c.code),
    )
    .where(jobs.c.id == b("id"), *is_attempt()),
    "now error_type error_message fingerprint code id fence worker",
)
RECORD = Prepared(
    insert(attempts).values(
        job_id=b("job_id"),
        fence=b("fence"),
        number=b("number"),
        cause=literal_column(f"'{Cause.LOST}'"),
        state=literal_column(f"'{State.PENDING}'"),
        run_at=b("run_at"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        worker=b("worker"),
        code=b("code"),
        error_type=b("error_type"),
        error_message=b("error_message"),
        evidence=b("evidence"),
    ),
    "job_id fence number run_at begun_at ended_at worker code error_type error_message evidence",
)
_held = (jobs.c.worker == b("worker"), jobs.c.id >= b("first"), jobs.c.id <= b("last"))
# Asked once for many jobs instead of once for each.
DOUBTED = Prepared(
    select(effects.c.job_id)
    .join_from(jobs, effects, effects.c.job_id == jobs.c.id)
    .where(*_held, effects.c.done_at.is_(None)),
    "worker first last",
)
CHECKPOINTS = Prepared(
    select(progress.c.job_id, *(progress.c[name] for name in Series.__struct_fields__))
    .join_from(jobs, progress, progress.c.job_id == jobs.c.id)
    .where(*_held),
    "worker first last",
)


def doubted(tx: Tx, worker: int, first: int, last: int) -> set[int]:
    """Of the jobs that `worker` holds, from id `first` to `last`, those with an effect in doubt."""
    return {row[0] for row in tx.rows(DOUBTED, worker, first, last)}


def checkpoints(tx: Tx, worker: int, first: int, last: int) -> dict[int, Checkpoint]:
    """How far each of these jobs has come, as far as they said."""
    found: dict[int, list[Series]] = {}
    for number, *values in tx.rows(CHECKPOINTS, worker, first, last):
        found.setdefault(number, []).append(Series(*values))
    summed = {number: _summed(series) for number, series in found.items()}
    return {number: one for number, one in summed.items() if one is not None}


def checkpoint(tx: Tx, number: int) -> Checkpoint | None:
    """How far one job has come; None if it has not said."""
    return _summed(all_series(tx, number))


def _summed(series: Sequence[Series]) -> Checkpoint | None:
    own = [one for one in series if not one.series and (one.done or one.total is not None)]
    lists = own or [one for one in series if one.series]
    if not lists:
        return None
    totals = [one.total for one in lists]
    return Checkpoint(
        sum(one.done for one in lists),
        sum(one.failed for one in lists),
        None if None in totals else sum(total or 0 for total in totals),
    )


def hand_back(tx: Tx, lost: Sequence[Loss], worker: str, code: str | None, now: int) -> bool:
    """Make the jobs of lost attempts wait again, and record those; all of them, or none.

    `worker`: the name under which the attempts ran. False: some are not the jobs' current ones
    any more, and nothing was changed.
    """
    tx.savepoint()
    rows = [
        (
            now, one.error.type, one.error.message, one.error.fingerprint, code,
            one.id, one.fence, one.holder,
        )
        for one in lost
    ]  # fmt: skip
    if tx.many(HAND_BACK, rows) != len(lost):
        tx.undo()
        return False
    tx.keep()
    tx.many(
        RECORD,
        [
            (
                one.id, one.fence, one.number, now, one.begun_at, now, worker, code,
                one.error.type, one.error.message, one.evidence,
            )
            for one in lost
        ],
    )  # fmt: skip
    cancel_as_asked(tx, [one.id for one in lost], now)
    mirrored = [(one.id, one.mirror_key) for one in lost if one.mirror_key is not None]
    if mirrored:
        follow(tx, mirrored)
    passing("in_commit")
    return True
