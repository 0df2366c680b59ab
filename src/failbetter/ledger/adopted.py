"""Jobs of an engine's own in the ledger: it follows what the engine says of them.

Such a job is never claimed here: it has no rank, no claim and no worker of ours. It has a row from
its first trouble on. What the ledger has seen is kept beside it, so that what is seen again, by
whoever looks, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec
from sqlalchemy import delete, func, insert, literal_column, null, select, update

from failbetter import ids
from failbetter.faultpoints import passing
from failbetter.ledger import events
from failbetter.ledger.holds import standing
from failbetter.ledger.notes import read, write
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b, listing
from failbetter.ledger.schema import adopted, attempts, jobs
from failbetter.lifecycle.adopting import Known, Sight, Step, step
from failbetter.lifecycle.fingerprint import fingerprint
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import ENDS, Cause, Reason, State
from failbetter.limits import KEY_LENGTH, bounded_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

ENGINES = ("celery", "rq")
"""Whose own jobs can be followed."""
_POLICY = Policy(max_attempts=1).to_json()
_NOTE = "adopting "
# Its columns hold at most so many bytes; a message that is longer is not kept.
_MOST_MESSAGE = 1_000_000


class Follower(Protocol):
    """What follows an engine's own jobs: made where the engine's library is."""

    engine: str
    """Short, such as "rq"."""

    def follow(self, database: Database) -> None:
        """Look once, and write what has changed. Raises LedgerError, EngineUnavailable."""

    def close(self) -> None:
        """Close its connections."""


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was last seen of a job: see `Sight.mark` and `Sight.run`."""

    mark: str
    run: str | None = None

    def to_json(self) -> str:
        """As the row keeps it."""
        return msgspec.json.encode(self).decode()


class Waiting(msgspec.Struct, frozen=True):
    """A job that a person has retried and that the engine is to be given back."""

    job_id: int
    name: str
    message: str | None
    queue: str
    task: str
    created_at: int


class Live(msgspec.Struct, frozen=True):
    """A job that is live there, as far as is known."""

    job_id: int
    name: str
    message: str | None
    queue: str
    task: str
    created_at: int


class Failed(msgspec.Struct, frozen=True):
    """A job that has failed there, or is lost, as far as is known; `mark`: see `Sight`."""

    job_id: int
    name: str
    queue: str
    mark: str


class Followed(msgspec.Struct, frozen=True):
    """How following an engine goes. Times in microseconds since the epoch, by the ledger's clock.

    `at`: when it was last looked at in full; `error`: why that was not possible since `error_at`.
    """

    engine: str
    at: int | None
    error: str | None = None
    error_at: int | None = None


class _Row(msgspec.Struct):
    """A job as it is before it follows."""

    id: int
    fence: int
    state: str
    created_at: int
    starts: int
    attempts: int
    crashes: int
    losses: int


NAMED = Prepared(
    lambda kind: select(adopted.c.job_id).where(
        adopted.c.engine == b("engine"), kind.listed(adopted.c.name, b("names"))
    ),
    "engine names",
)
ROWS = Prepared(
    lambda kind: (
        select(*(jobs.c[name] for name in _Row.__struct_fields__))
        .where(kind.numbered(jobs.c.id, b("ids")))
        .order_by(jobs.c.id)
        .with_for_update()
    ),
    "ids",
)
# Read after the jobs are locked: whoever changes it has locked its job before.
KNOWN = Prepared(
    lambda kind: (
        select(adopted.c.name, adopted.c.job_id, adopted.c.seen, adopted.c.to_send)
        .where(adopted.c.engine == b("engine"), kind.listed(adopted.c.name, b("names")))
        .order_by(adopted.c.job_id)
        .with_for_update()
    ),
    "engine names",
)
TAKE = Prepared(
    lambda kind: kind.insert_unless(
        insert(adopted).values(
            job_id=b("job_id"),
            engine=b("engine"),
            name=b("name"),
            message=b("message"),
            seen=b("seen"),
            seen_at=b("seen_at"),
            to_send=b("to_send"),
        ),
        [adopted.c.engine, adopted.c.name],
    ),
    "job_id engine name message seen seen_at to_send",
)
# In the place of an older job of that name; it is this one's from now on.
TAKE_OVER = Prepared(
    update(adopted)
    .values(
        job_id=b("job_id"),
        message=b("message"),
        seen=b("seen"),
        seen_at=b("seen_at"),
        to_send=b("to_send"),
    )
    .where(adopted.c.engine == b("engine"), adopted.c.name == b("name")),
    "job_id message seen seen_at to_send engine name",
)
KEEP = Prepared(
    update(adopted)
    .values(
        message=func.coalesce(b("message"), adopted.c.message),
        seen=b("seen"),
        seen_at=b("seen_at"),
        to_send=b("to_send"),
    )
    .where(adopted.c.job_id == b("job_id")),
    "message seen seen_at to_send job_id",
)
ADD = Prepared(
    insert(jobs).values(
        id=b("id"),
        task=b("task"),
        queue=b("queue"),
        priority=ZERO,
        state=b("state"),
        reason=b("reason"),
        careful=ZERO,
        run_at=b("run_at"),
        created_at=b("created_at"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        fence=b("fence"),
        live=b("live"),
        starts=b("starts"),
        attempts=b("attempts"),
        crashes=b("crashes"),
        losses=b("losses"),
        hand_backs=ZERO,
        suspect=ZERO,
        payload=b("payload"),
        policy=b("policy"),
        error_type=b("error_type"),
        error_message=b("error_message"),
        fingerprint=b("fingerprint"),
        origin=b("origin"),
    ),
    "id task queue state reason run_at created_at begun_at ended_at fence live starts attempts"
    " crashes losses payload policy error_type error_message fingerprint origin",
)
MOVE = Prepared(
    update(jobs)
    .values(
        state=b("state"),
        reason=b("reason"),
        rank=null(),
        held=null(),
        cancel=null(),
        run_at=b("run_at"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        fence=b("fence"),
        live=b("live"),
        starts=b("starts"),
        attempts=b("attempts"),
        crashes=b("crashes"),
        losses=b("losses"),
        error_type=func.coalesce(b("error_type"), jobs.c.error_type),
        error_message=func.coalesce(b("error_message"), jobs.c.error_message),
        fingerprint=func.coalesce(b("fingerprint"), jobs.c.fingerprint),
    )
    .where(jobs.c.id == b("id"), jobs.c.fence == b("before")),
    "state reason run_at begun_at ended_at fence live starts attempts crashes losses error_type"
    " error_message fingerprint id before",
)
# The job whose name is another's now: whoever meant it by its fence means it no more.
PASS_ON = Prepared(update(jobs).values(fence=jobs.c.fence + ONE).where(jobs.c.id == b("id")), "id")
GIVE_UP = Prepared(
    update(jobs)
    .values(
        state=literal_column(f"'{State.DISCARDED}'"),
        reason=literal_column(f"'{Reason.SUPERSEDED}'"),
        live=null(),
        ended_at=b("now"),
        fence=jobs.c.fence + ONE,
    )
    .where(jobs.c.id == b("id"), jobs.c.live == ONE),
    "now id",
)
RECORD = Prepared(
    insert(attempts).values(
        job_id=b("job_id"),
        fence=b("fence"),
        number=b("number"),
        cause=b("cause"),
        state=b("state"),
        reason=b("reason"),
        run_at=b("run_at"),
        begun_at=b("begun_at"),
        ended_at=b("ended_at"),
        worker=b("worker"),
        error_type=b("error_type"),
        error_message=b("error_message"),
        traceback=b("traceback"),
        evidence=b("evidence"),
    ),
    "job_id fence number cause state reason run_at begun_at ended_at worker error_type"
    " error_message traceback evidence",
)


def follow(tx: Tx, engine: str, sights: Sequence[Sight]) -> int:
    """Write what was seen of an engine's jobs, as far as it is new; how many rows that moved."""
    latest = {_name(sight): sight for sight in sights}
    if not latest:
        return 0
    now = tx.now()
    names = msgspec.json.encode(sorted(latest)).decode()
    numbers = sorted(row[0] for row in tx.rows(NAMED, engine, names))
    rows = {row[0]: _Row(*row) for row in tx.rows(ROWS, listing(numbers))} if numbers else {}
    known = {row[0]: row[1:] for row in tx.rows(KNOWN, engine, names)} if numbers else {}
    writing = _Writing(tx, engine, now)
    for name, sight in sorted(latest.items()):
        number, seen, to_send = known.get(name, (None, None, None))
        if number is not None and number not in numbers:
            continue  # it has become another job's this very moment: next time
        row = rows.get(number)
        last = _seen(seen)
        found = step(_as_known(row, number, last, to_send), sight)
        if found is not None:
            writing.write(name, sight, found, row, number, last, to_send)
    events.ended(tx, writing.ended)
    passing("in_commit")
    return writing.moved


def _as_known(
    row: _Row | None, number: int | None, last: Seen | None, to_send: int | None
) -> Known | None:
    if number is None:
        return None
    mark, run = (None, None) if last is None else (last.mark, last.run)
    if row is None:
        # It was deleted here, and is there still: it is known as long as nothing happens to it.
        return Known(State.DISCARDED, 0, mark, run)
    return Known(State(row.state), row.created_at, mark, run, to_send == 1)


class _Writing:
    """Writes steps; `moved`, how many moved a row, and `ended`, those whose end is an event."""

    def __init__(self, tx: Tx, engine: str, now: int) -> None:
        self._tx = tx
        self._engine = engine
        self._now = now
        self.moved = 0
        self.ended: list[int] = []

    def write(
        self,
        name: str,
        sight: Sight,
        found: Step,
        row: _Row | None,
        number: int | None,
        last: Seen | None,
        to_send: int | None,
    ) -> None:
        run = sight.run if found.records or last is None else last.run
        seen = Seen(sight.mark, run).to_json()
        flag = None if sight.state in ENDS else 0
        message = _bounded(sight.message)
        if found.anew:
            made = ids.take()
            values = (made, self._engine, name, message, seen, self._now, flag)
            if number is None:
                if not self._tx.run(TAKE, *values):
                    return  # another was quicker to tell of it
            else:
                self._tx.run(TAKE_OVER, made, message, seen, self._now, flag, self._engine, name)
                if row is not None and self._tx.run(GIVE_UP, self._now, row.id):
                    self.ended.append(row.id)
                elif row is not None:
                    self._tx.run(PASS_ON, row.id)
            self._add(made, sight, records=found.records)
        elif found.moves and row is not None:
            if not self._move(row, sight, records=found.records):
                return
            self._tx.run(KEEP, message, seen, self._now, flag, number)
        else:
            keeps = to_send if to_send == 1 or sight.state in ENDS else flag
            live = None if row is None or State(row.state) in ENDS else keeps
            self._tx.run(KEEP, message, seen, self._now, live, number)

    def _add(self, number: int, sight: Sight, *, records: bool) -> None:
        created_at = self._now if sight.created_at is None else sight.created_at
        blank = _Row(number, 0, State.PENDING, created_at, 0, 0, 0, 0)
        charged = _charged(blank, sight, records=records)
        state, reason, run_at, begun_at, ended_at, live = _standing(sight, self._now)
        error = _error(sight)
        self._tx.run(
            ADD,
            number,
            sight.task[:KEY_LENGTH],
            bounded_key(sight.queue),
            state,
            reason,
            run_at,
            created_at,
            begun_at,
            ended_at,
            1 + int(records),
            live,
            *charged,
            msgspec.json.encode({"description": _clean(sight.said)}).decode(),
            _POLICY,
            *error,
            self._engine,
        )
        self._done(blank, sight, records=records)

    def _move(self, row: _Row, sight: Sight, *, records: bool) -> bool:
        charged = _charged(row, sight, records=records)
        after = row.fence + 1 + int(records)
        state, reason, run_at, begun_at, ended_at, live = _standing(sight, self._now)
        moved = self._tx.run(
            MOVE,
            state,
            reason,
            run_at,
            begun_at,
            ended_at,
            after,
            live,
            *charged,
            *_error(sight),
            row.id,
            row.fence,
        )
        if moved:
            self._done(row, sight, records=records)
        return bool(moved)

    def _done(self, row: _Row, sight: Sight, *, records: bool) -> None:
        self.moved += 1
        if sight.state in events.STATES:
            self.ended.append(row.id)
        if not records or sight.cause is None:
            return
        kind, message, _ = _error(sight)
        trouble = sight.trouble
        evidence = sight.evidence and msgspec.json.encode(sight.evidence).decode()
        self._tx.run(
            RECORD,
            row.id,
            # The attempt is the claim's that we did not see; its end comes after it.
            row.fence + 1,
            row.starts + 1,
            sight.cause.value,
            sight.state.value,
            sight.reason and sight.reason.value,
            None if sight.state in ENDS else sight.run_at,
            sight.begun_at,
            sight.ended_at or self._now,
            sight.worker[:KEY_LENGTH],
            kind,
            message,
            None if trouble is None or trouble.traceback is None else _clean(trouble.traceback),
            evidence or None,
        )


def _standing(
    sight: Sight, now: int
) -> tuple[str, str | None, int, int | None, int | None, int | None]:
    over = sight.state in ENDS
    begun = sight.begun_at if over or sight.state is State.RUNNING else None
    ended_at = (sight.ended_at or now) if over else None
    reason = sight.reason and sight.reason.value
    return sight.state.value, reason, sight.run_at, begun, ended_at, None if over else 1


def _charged(row: _Row, sight: Sight, *, records: bool) -> tuple[int, int, int, int]:
    """Starts, attempts, crashes and losses, with the attempt that has ended."""
    cause = sight.cause if records else None
    return (
        row.starts + int(cause is not None),
        row.attempts + int(cause in (Cause.RAISED, Cause.TIMED_OUT)),
        row.crashes + int(cause is Cause.CRASHED),
        row.losses + int(cause is Cause.LOST),
    )


def _error(sight: Sight) -> tuple[str | None, str | None, str | None]:
    """Its type, message and fingerprint."""
    if sight.trouble is None:
        return None, None, None
    failure = sight.trouble.failure
    mark = fingerprint(msgspec.structs.replace(failure, task=sight.task))
    return _clean(failure.error_type)[:KEY_LENGTH], _clean(failure.message), mark


def _clean(text: str) -> str:
    # What no database can keep must not keep the rest from being written.
    return text.encode("utf-8", "replace").decode().replace("\0", "\\0")


def _bounded(message: str | None) -> str | None:
    return message if message is None or len(message) <= _MOST_MESSAGE else None


def _name(sight: Sight) -> str:
    return bounded_key(sight.name)


def _seen(text: str | None) -> Seen | None:
    return None if text is None else msgspec.json.decode(text, type=Seen)


# -- what a person has retried

RETRIED = Prepared(
    lambda kind: (
        update(adopted).values(to_send=ONE).where(kind.numbered(adopted.c.job_id, b("ids")))
    ),
    "ids",
)
TAKEN_BACK = Prepared(
    lambda kind: (
        update(adopted)
        .values(to_send=null())
        .where(kind.numbered(adopted.c.job_id, b("ids")), adopted.c.to_send == ONE)
    ),
    "ids",
)
TO_SEND = Prepared(
    select(
        adopted.c.job_id,
        adopted.c.name,
        adopted.c.message,
        jobs.c.queue,
        jobs.c.task,
        jobs.c.created_at,
        jobs.c.fingerprint,
    )
    .join_from(adopted, jobs, jobs.c.id == adopted.c.job_id)
    .where(
        adopted.c.to_send == ONE,
        adopted.c.engine == b("engine"),
        adopted.c.job_id > b("after"),
        jobs.c.run_at <= b("now"),
    )
    .order_by(adopted.c.job_id)
    .limit(b("limit"))
    .offset(ZERO),
    "engine after now limit",
)
SENT = Prepared(
    update(adopted)
    .values(to_send=ZERO)
    .where(adopted.c.job_id == b("job_id"), adopted.c.to_send == ONE),
    "job_id",
)
IS_OPEN = Prepared(
    select(adopted.c.job_id).where(adopted.c.job_id == b("job_id"), adopted.c.to_send == ONE),
    "job_id",
)


def retried(tx: Tx, numbers: Sequence[int]) -> None:
    """Of these jobs, which a person has just retried, those of engines are to be put back."""
    if numbers:
        tx.run(RETRIED, listing(numbers))


def taken_back(tx: Tx, numbers: Sequence[int]) -> None:
    """Of these jobs, whose retry is undone, none is to be put back any more."""
    if numbers:
        tx.run(TAKEN_BACK, listing(numbers))


def to_send(tx: Tx, engine: str, after: int, limit: int) -> tuple[list[Waiting], int | None]:
    """What is due to be put back and not held, beyond the id `after`; and where to go on, if there
    may be more."""
    rows = tx.rows(TO_SEND, engine, after, tx.now(), limit)
    held = standing(tx)
    found = [
        Waiting(*row)
        for *row, cause in rows
        if not held.keeps_named(queue=row[3], task=row[4], fingerprint=cause)
    ]
    return found, rows[-1][0] if len(rows) == limit else None


def waits_for(database: Database, number: int, engine: str) -> str:
    """What a job that waits waits for, in words."""
    with database.look() as tx:
        if still_to_send(tx, number):
            return f"`failbetter maintain` to put it back into {engine}"
    return f"{engine}, where it waits"


def still_to_send(tx: Tx, number: int) -> bool:
    """Whether nobody has put the job back, or taken back its retry, since it was looked at."""
    return tx.row(IS_OPEN, number) is not None


def sent(tx: Tx, number: int) -> None:
    """The engine has it now."""
    tx.run(SENT, number)


# -- what is to be looked at again

LIVE = Prepared(
    select(
        adopted.c.job_id,
        adopted.c.name,
        adopted.c.message,
        jobs.c.queue,
        jobs.c.task,
        jobs.c.created_at,
    )
    .join_from(adopted, jobs, jobs.c.id == adopted.c.job_id)
    .where(
        adopted.c.to_send == ZERO,
        adopted.c.engine == b("engine"),
        adopted.c.job_id > b("after"),
    )
    .order_by(adopted.c.job_id)
    .limit(b("limit"))
    .offset(ZERO),
    "engine after limit",
)
FAILED = Prepared(
    select(adopted.c.job_id, adopted.c.name, jobs.c.queue, adopted.c.seen)
    .join_from(adopted, jobs, jobs.c.id == adopted.c.job_id)
    .where(
        adopted.c.engine == b("engine"),
        adopted.c.to_send.is_(None),
        adopted.c.job_id > b("after"),
        jobs.c.state == literal_column(f"'{State.FAILED}'"),
    )
    .order_by(adopted.c.job_id)
    .limit(b("limit"))
    .offset(ZERO),
    "engine after limit",
)
FORGET = Prepared(
    delete(adopted).where(
        adopted.c.engine == b("engine"),
        adopted.c.name == b("name"),
        ~select(ONE).where(jobs.c.id == adopted.c.job_id).exists(),
    ),
    "engine name",
)
PRUNED = Prepared(
    update(adopted).values(message=null(), to_send=null()).where(adopted.c.job_id == b("id")), "id"
)


def live(tx: Tx, engine: str, after: int, limit: int) -> list[Live]:
    """Jobs that are live there as far as is known, from beyond an id."""
    return [Live(*row) for row in tx.rows(LIVE, engine, after, limit)]


def failed(tx: Tx, engine: str, after: int, limit: int) -> list[Failed]:
    """Jobs that have failed, from beyond an id."""
    rows = tx.rows(FAILED, engine, after, limit)
    return [
        Failed(number, name, queue, "" if (last := _seen(seen)) is None else last.mark)
        for number, name, queue, seen in rows
    ]


def forget(tx: Tx, engine: str, names: Iterable[str]) -> None:
    """The engine does not have these any more: of those that were deleted here, keep nothing."""
    tx.many(FORGET, [(engine, bounded_key(name)) for name in names])


def pruned(tx: Tx, numbers: Sequence[int]) -> None:
    """These jobs were deleted here. That they were seen is kept, or they would come back."""
    tx.many(PRUNED, [(number,) for number in numbers])


# -- how following goes


def note(tx: Tx, followed: Followed) -> None:
    """Keep how following an engine goes."""
    write(tx, _NOTE + followed.engine, msgspec.json.encode(followed).decode())


def all_noted(tx: Tx) -> list[Followed]:
    """How following engines goes, where somebody has."""
    return [found for engine in ENGINES if (found := noted(tx, engine)) is not None]


def noted(tx: Tx, engine: str) -> Followed | None:
    """How following an engine went last; None: nobody has followed it."""
    found = read(tx, _NOTE + engine)
    return None if found is None else msgspec.json.decode(found, type=Followed)
