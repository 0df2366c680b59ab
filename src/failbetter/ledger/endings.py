"""How attempts end in the ledger: the job's row and the attempt's row, under the fence, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import func, insert, literal_column, null, select, update

from failbetter.faultpoints import passing
from failbetter.ledger import events, supersession
from failbetter.ledger.acts import cancel_as_asked
from failbetter.ledger.claims import is_attempt
from failbetter.ledger.mirrors import follow
from failbetter.ledger.prepared import ONE, Prepared, b
from failbetter.ledger.schema import attempts, bases, jobs
from failbetter.lifecycle.decide import Transition
from failbetter.lifecycle.fingerprint import Failure, fingerprint
from failbetter.lifecycle.states import ENDS, Cause, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.supersession import About


class Error(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an error."""

    type: str
    message: str
    traceback: str | None = None
    fingerprint: str | None = None
    bases: tuple[str, ...] = ()
    """What its type derives from."""


def own_error(task: str, kind: str, message: str, traceback: str | None = None) -> Error:
    """An error that failbetter itself gives as the cause, not one that a body raised."""
    mark = fingerprint(Failure(task=task, error_type=kind))
    return Error(kind, message, traceback, mark)


def error_of_death(
    job: Claimed, cause: Cause, died: str, evidence: Mapping[str, Any]
) -> Error | None:
    """The error of an attempt whose process died or was killed; None: that was not its doing.

    `died`: what is said of a crash.
    """
    if cause is Cause.CRASHED:
        kind, message = "failbetter.ProcessDied", died
    elif cause is Cause.TIMED_OUT:
        kind = "failbetter.TimedOut"
        message = (
            f"the body ran longer than its timeout of {job.policy.timeout:g} s and did not stop"
            " when it was asked to; its process was killed"
        )
    elif cause is Cause.STALLED:
        kind = "failbetter.Stalled"
        message = (
            f"the body made no progress for {job.policy.stalled_after:g} s and did not stop when"
            " it was asked to; its process was killed"
        )
    else:
        return None
    stacks = evidence.get("stacks")
    return own_error(job.task, kind, message, str(stacks) if stacks else None)


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """An attempt's end as it is to be written. Times in microseconds since the epoch.

    `begun_at` None: no body had begun, so that there is no attempt to record.
    """

    id: int
    fence: int
    holder: int | None
    """The worker that has claimed the job, by its id; None: nobody has, as of what expires."""
    number: int
    priority: int
    transition: Transition
    cause: Cause
    begun_at: int | None
    ended_at: int
    worker: str
    code: str | None
    result: str | None = None
    note: str | None = None
    error: Error | None = None
    evidence: str | None = None
    mirror_key: str | None = None
    about: About | None = None
    """What a success is of, if that has versions."""


_mine = (jobs.c.id == b("id"), *is_attempt())
_let_go = {"worker": null(), "claimed": null(), "fence": jobs.c.fence + ONE}
SUCCEED = Prepared(
    update(jobs)
    .values(
        state=literal_column(f"'{State.SUCCEEDED}'"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        live=null(),
        cancel=null(),
        starts=ONE,
        result=b("result"),
        note=b("note"),
        **_let_go,
    )
    .where(*_mine),
    "begun_at ended_at result note id fence worker",
)
SETTLE = Prepared(
    update(jobs)
    .values(
        state=b("state"),
        reason=b("reason"),
        rank=b("rank"),
        run_at=func.coalesce(b("run_at"), jobs.c.run_at),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        live=b("live"),
        # A wish that came too late for this attempt is for the next one: 1 times null is null.
        cancel=jobs.c.cancel * b("keep"),
        starts=jobs.c.starts + b("started"),
        attempts=b("attempts"),
        crashes=b("crashes"),
        losses=b("losses"),
        hand_backs=b("hand_backs"),
        suspect=b("suspect"),
        released_since=b("released_since"),
        result=b("result"),
        note=b("note"),
        # The last error stays in sight whatever happens after it.
        error_type=func.coalesce(b("error_type"), jobs.c.error_type),
        error_message=func.coalesce(b("error_message"), jobs.c.error_message),
        fingerprint=func.coalesce(b("fingerprint"), jobs.c.fingerprint),
        held=null(),
        code=func.coalesce(b("code"), jobs.c.code),
        **_let_go,
    )
    .where(*_mine),
    "state reason rank run_at begun_at ended_at live keep started attempts crashes losses"
    " hand_backs suspect released_since result note error_type error_message fingerprint code id"
    " fence worker",
)
RECORD_RETURN = Prepared(
    insert(attempts).values(
        job_id=b("id"),
        fence=b("fence"),
        number=b("number"),
        cause=literal_column(f"'{Cause.RETURNED}'"),
        state=literal_column(f"'{State.SUCCEEDED}'"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        worker=b("worker"),
        code=b("code"),
    ),
    "id fence number begun_at ended_at worker code",
)
RECORD = Prepared(
    insert(attempts).values(
        job_id=b("id"),
        fence=b("fence"),
        number=b("number"),
        cause=b("cause"),
        state=b("state"),
        reason=b("reason"),
        run_at=b("run_at"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        worker=b("worker"),
        code=b("code"),
        error_type=b("error_type"),
        error_message=b("error_message"),
        traceback=b("traceback"),
        evidence=b("evidence"),
    ),
    "id fence number cause state reason run_at begun_at ended_at worker code"
    " error_type error_message traceback evidence",
)
# With the row's lock: what is written because the attempt is current is written while it is.
CURRENT = Prepared(
    select(jobs.c.fence, jobs.c.worker).where(jobs.c.id == b("id")).with_for_update(), "id"
)
# Whoever declared a worker lost has recorded that under the worker's name.
RECORDED = Prepared(
    select(attempts.c.worker).where(
        attempts.c.job_id == b("id"),
        attempts.c.fence == b("fence"),
        attempts.c.cause != literal_column(f"'{Cause.LOST}'"),
    ),
    "id fence",
)


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[Settlement]:
    """Write endings; those that were no longer the job's current attempt, which changed nothing."""
    plain = [ending for ending in settlements if _is_plain(ending)]
    others = [ending for ending in settlements if not _is_plain(ending)]
    lost = _succeed_all(tx, plain) if plain else []
    ended: list[int] = []
    for ending in others:
        if not tx.run(SETTLE, *_row(ending)):
            lost.append(ending)
            continue
        if ending.transition.state in events.STATES:
            ended.append(ending.id)
        if ending.begun_at is not None:
            tx.run(RECORD, *_attempt_row(ending))
        if ending.transition.state is State.PENDING:
            cancel_as_asked(tx, [ending.id], ending.ended_at)
    _note_versions(tx, settlements, lost)
    learn(tx, [one.error for one in others if one.error is not None])
    mirrored = [(one.id, one.mirror_key) for one in settlements if one.mirror_key is not None]
    if mirrored:
        follow(tx, mirrored)
    events.ended(tx, ended)
    passing("in_commit")
    return lost


def _note_versions(tx: Tx, settlements: Sequence[Settlement], lost: list[Settlement]) -> None:
    """Of the successes among what was written, which versions they were of."""
    late = {id(one) for one in lost}
    found = [
        (one.id, one.about)
        for one in settlements
        if one.about is not None and one.transition.state is State.SUCCEEDED and id(one) not in late
    ]
    if found:
        supersession.record(tx, found, tx.now())


def _is_plain(ending: Settlement) -> bool:
    """Whether it is a first attempt's whole success: the commonest ending, with few columns."""
    to = ending.transition
    return to.state is State.SUCCEEDED and to.reason is None and ending.number == 1


def _succeed_all(tx: Tx, endings: Sequence[Settlement]) -> list[Settlement]:
    tx.savepoint()
    matched = tx.many(SUCCEED, [_success_row(ending) for ending in endings])
    lost: list[Settlement] = []
    if matched == len(endings):
        tx.keep()
    else:
        # Some attempt was lost, and a batch does not say which: once more, one by one.
        tx.undo()
        won: list[Settlement] = []
        for ending in endings:
            (won if tx.run(SUCCEED, *_success_row(ending)) else lost).append(ending)
        endings = won
    tx.many(
        RECORD_RETURN,
        [(e.id, e.fence, e.number, e.begun_at, e.ended_at, e.worker, e.code) for e in endings],
    )
    return lost


def _success_row(ending: Settlement) -> tuple[object, ...]:
    return (
        ending.begun_at,
        ending.ended_at,
        ending.result,
        ending.note,
        ending.id,
        ending.fence,
        ending.holder,
    )


def _row(ending: Settlement) -> tuple[object, ...]:
    to = ending.transition
    over = to.state in ENDS
    error = ending.error
    return (
        to.state.value,
        to.reason and to.reason.value,
        None if over else -ending.priority,
        to.run_at,
        ending.begun_at if over else None,
        ending.ended_at if over else None,
        None if over else 1,
        None if over else 1,
        0 if ending.begun_at is None else 1,
        to.attempts,
        to.crashes,
        to.losses,
        to.hand_backs,
        int(to.suspect),
        to.released_since,
        ending.result,
        ending.note,
        error and error.type,
        error and error.message,
        error and error.fingerprint,
        None if ending.begun_at is None else ending.code,
        ending.id,
        ending.fence,
        ending.holder,
    )


def _attempt_row(ending: Settlement) -> tuple[object, ...]:
    to = ending.transition
    error = ending.error
    return (
        ending.id,
        ending.fence,
        ending.number,
        ending.cause.value,
        to.state.value,
        to.reason and to.reason.value,
        to.run_at,
        ending.begun_at,
        ending.ended_at,
        ending.worker,
        ending.code,
        error and error.type,
        error and error.message,
        error and error.traceback,
        ending.evidence,
    )


LEARN = Prepared(
    lambda kind: kind.insert_unless(
        insert(bases).values(error_type=b("error_type"), base=b("base")), [*bases.primary_key]
    ),
    "error_type base",
)


def learn(tx: Tx, errors: Sequence[Error]) -> None:
    """Keep what the errors' types derive from, for whoever looks for a type by one of these."""
    known = {(error.type, base) for error in errors for base in error.bases}
    if known:
        # In order, so that no two workers wait for each other.
        tx.many(LEARN, sorted(known))


def still_current(tx: Tx, number: int, fence: int, holder: int) -> bool:
    """Whether the attempt still owns the job's row."""
    return tx.row(CURRENT, number) == (fence, holder)


def is_recorded(tx: Tx, number: int, fence: int, worker: str) -> bool:
    """Whether this very attempt's ending stands in the ledger already.

    So it does when the connection broke after its commit and before that was heard of.
    """
    row = tx.row(RECORDED, number, fence)
    return row is not None and row[0] == worker
