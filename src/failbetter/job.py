"""A job from outside its body: what its row says, and what may be asked of it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, seconds, to_datetime
from failbetter.errors import JobFailed, JobNotFound, Refused
from failbetter.lifecycle.policy import from_json
from failbetter.lifecycle.states import ENDS, State
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from failbetter.ledger.database import Database
    from failbetter.ledger.edits import EditRow
    from failbetter.ledger.holds import HoldRow
    from failbetter.ledger.reads import AttemptRow, JobRow

    Editor = Callable[["Job", Mapping[str, Any], "By"], "Job"]
    """What retries a job with other arguments; None where no tasks are known."""

MASK = "***"


class By(msgspec.Struct, frozen=True):
    """Who does something and why, and whether they have confirmed it."""

    actor: str | None
    note: str | None
    confirmed: bool


class Attempt(msgspec.Struct, frozen=True):
    """One ended execution of a job, with its evidence.

    `id` names the attempt; `number` counts from 1. `state`, `reason` and `next_run_at` are what
    its end made of the job. `evidence` holds what is known of a death: `signal`, `exit_code`,
    `out_of_memory`, `stacks` and more, as far as they apply.
    """

    id: str
    number: int
    cause: str
    state: str
    reason: str | None
    next_run_at: datetime | None
    begun_at: datetime | None
    ended_at: datetime
    worker: str
    code: str | None
    error_type: str | None
    error_message: str | None
    traceback: str | None
    evidence: dict[str, Any]


class Effect(msgspec.Struct, frozen=True):
    """An effect of a job; `done_at` None: intended, and not known to have happened."""

    name: str
    intended_at: datetime
    done_at: datetime | None
    result: Any


class Progress(msgspec.Struct, frozen=True):
    """How far a job has come: `done` and `failed` of `total` (None: not known), last told `at`.

    `vanished`: items that earlier attempts dealt with and that were no longer there.
    """

    done: int
    failed: int
    total: int | None
    vanished: int
    at: datetime


class FailedItem(msgspec.Struct, frozen=True):
    """An item of a job that failed; `list` is the name of the list it is in."""

    list: str
    key: str
    at: datetime
    error_type: str | None
    error_message: str | None


class Edit(msgspec.Struct, frozen=True):
    """How a failed job was retried with other arguments: as the job `made`, of the job `original`.

    Both are ids. `changed`: the parameters whose arguments are others.
    """

    made: str
    original: str
    changed: tuple[str, ...]
    actor: str | None
    note: str | None
    at: datetime


class Job:
    """A handle on one job. Reads its row when first asked, and again on `refresh()`."""

    __slots__ = ("_database", "_editor", "_number", "_row", "created")

    def __init__(
        self,
        database: Database,
        number: int,
        *,
        created: bool = True,
        row: JobRow | None = None,
        editor: Editor | None = None,
    ) -> None:
        self._database = database
        self._editor = editor
        self._number = number
        self._row = row
        self.created = created
        """False when `enqueue` found the live job of this unique key instead of making one."""

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)

    @property
    def row(self) -> JobRow:
        """The job's row as last read. Raises JobNotFound when there is none."""
        if self._row is None:
            self._row = ledger.reads.job(self._database, self._number)
        if self._row is None:
            raise JobNotFound(f"no job {self.id} is in {self._database.name}")
        return self._row

    def refresh(self) -> Job:
        """Read the row again; returns the job itself."""
        self._row = None
        _ = self.row
        return self

    arefresh = twin(refresh)

    @property
    def id(self) -> str:
        """The job's id: 13 characters."""
        return ids.to_text(self._number)

    @property
    def task(self) -> str:
        """The task's name."""
        return self.row.task

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.row.queue

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.row.priority

    @property
    def origin(self) -> str | None:
        """The engine whose own job it is ("rq", "celery") and that it follows; None: it is ours."""
        return self.row.origin

    @property
    def state(self) -> str:
        """`pending`, `running`, `succeeded`, `failed` or `discarded`."""
        return self.row.state

    @property
    def reason(self) -> str | None:
        """Why the job is in its end state; None while it is live or simply succeeded."""
        return self.row.reason

    @property
    def over(self) -> bool:
        """Whether the job has come to an end."""
        return self.row.state in ENDS

    @property
    def attempt(self) -> int:
        """The number of the current attempt, or of the last one: 0 before the first."""
        return self.row.starts + (self.row.state == State.RUNNING)

    @property
    def attempts(self) -> list[Attempt]:
        """The ended attempts, oldest first."""
        return [
            _attempt(self.id, row) for row in ledger.reads.attempts_of(self._database, self._number)
        ]

    @property
    def effects(self) -> list[Effect]:
        """The job's effects, oldest first."""
        return [
            Effect(
                row.name,
                _at(row.intended_at),
                to_datetime(row.done_at),
                None if row.result is None else msgspec.json.decode(row.result),
            )
            for row in ledger.reads.effects_of(self._database, self._number)
        ]

    @property
    def progress(self) -> Progress | None:
        """How far the job has come, by its body's own word or else in its lists; None: unknown."""
        found = ledger.progress.series_of(self._database, self._number)
        own = [one for one in found if not one.series and (one.done or one.total is not None)]
        lists = own or [one for one in found if one.series]
        if not lists:
            return None
        totals = [one.total for one in lists]
        return Progress(
            sum(one.done for one in lists),
            sum(one.failed for one in lists),
            None if None in totals else sum(total or 0 for total in totals),
            sum(one.vanished for one in lists),
            _at(max(one.at for one in lists)),
        )

    def failed_items(self, limit: int = 100) -> list[FailedItem]:
        """Items that `RunningJob.each` was to collect the errors of, in the order of their keys."""
        rows = ledger.progress.failed_items(self._database, self._number, limit)
        return [
            FailedItem(row.series, row.key, _at(row.at), row.error_type, row.error_message)
            for row in rows
        ]

    @property
    def args(self) -> dict[str, Any]:
        """The arguments by parameter name, as JSON has them; redacted ones masked."""
        stored: dict[str, Any] = msgspec.json.decode(self.row.payload)
        for name in from_json(self.row.policy).redact:
            if name in stored:
                stored[name] = MASK
        return stored

    @property
    def tags(self) -> tuple[str, ...]:
        """The task's tags."""
        return () if self.row.tags is None else tuple(msgspec.json.decode(self.row.tags))

    @property
    def error_type(self) -> str | None:
        """The last error's type, with its module."""
        return self.row.error_type

    @property
    def error_message(self) -> str | None:
        """The last error's message."""
        return self.row.error_message

    @property
    def fingerprint(self) -> str | None:
        """The stable key of the last failure's cause."""
        return self.row.fingerprint

    @property
    def created_at(self) -> datetime:
        """When the job was accepted."""
        return _at(self.row.created_at)

    @property
    def run_at(self) -> datetime:
        """When the job may run (again) at the earliest."""
        return _at(self.row.run_at)

    @property
    def ended_at(self) -> datetime | None:
        """When the job came to its end."""
        return to_datetime(self.row.ended_at)

    def waiting_for(self, now: float | None = None) -> str | None:
        """What a pending job waits for, in words; of a running one, whether its worker is alive.

        None for a job that is over. `now`: seconds since the epoch, for tests.
        """
        row = self.row
        at = self._database.now() if now is None else round(now * 1_000_000)
        if self.over:
            return None
        if row.claimed:
            return self._held_by(row, at)
        if row.origin is not None and row.state == State.RUNNING:
            return f"runs in {row.origin}"
        with self._database.look() as tx:
            hold = ledger.holds.on(tx, row)
            line = None if row.held is None else ledger.limits.line_of(tx, row)
        if hold is not None:
            return _end_of(hold)
        if line is not None:
            next_at = _at(max(line.next_at, at)).isoformat(timespec="seconds")
            return f"rate limit {line.name}: {line.says}, next about {next_at}"
        if row.origin is not None:
            return ledger.adopted.waits_for(self._database, row.id, row.origin)
        if row.run_at > at:
            return f"its time, {_at(row.run_at).isoformat(timespec='seconds')}"
        if row.exclusive_key is not None:
            return "a worker, and for no other job of its exclusive key to run"
        return "a worker"

    def _held_by(self, row: JobRow, now: int) -> str:
        found = None if row.worker is None else ledger.reads.worker(self._database, row.worker)
        if found is None:
            return "its worker is gone; a sweep will hand it back"
        name = found.name
        if self._database.sees_dead(found.id, found.fleet):
            return f"lease expired: worker {name} is dead; a sweep will hand the job back"
        if found.lease_expired(now):
            silence = f"{found.lease / 1e6:g} s"
            return f"lease expired: nothing was heard of worker {name} for over {silence}"
        return f"runs on {name}" if row.state == State.RUNNING else f"claimed by {name}"

    def result(self, timeout: Duration | None = None) -> Any:
        """Wait for the job's end and return its result, as JSON has it.

        `timeout`: None waits for ever, 0 looks once. Raises JobFailed when the job failed or was
        discarded, TimeoutError when it is still live after `timeout`.
        """
        limit = None if timeout is None else time.monotonic() + seconds(timeout)
        pause = 0.002
        while not self.refresh().over:
            if limit is not None and time.monotonic() >= limit:
                raise TimeoutError(f"job {self.id} is still {self.state} ({self.waiting_for()})")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        row = self.row
        if row.state != State.SUCCEEDED:
            why = f": {row.error_type}: {row.error_message}" if row.error_type else ""
            message = f"job {self.id} ({row.task}) ended {row.state}({row.reason}){why}"
            raise JobFailed(self.id, row.state, row.reason, message)
        return None if row.result is None else msgspec.json.decode(row.result)

    aresult = twin(result)

    @property
    def note(self) -> str | None:
        """What is to be known of the result, for one: that it could not be stored."""
        return self.row.note

    def cancel(self) -> Job:
        """Discard a waiting job; ask the worker of a running one to stop it.

        Raises Refused when the job is over.
        """
        origin = self.row.origin
        if origin is not None:
            raise Refused(
                f"job {self.id} cannot be cancelled here: it is a job of {origin}'s own; cancel it"
                f" there, and its row follows"
            )
        done = self._database.transact(lambda tx: ledger.acts.cancel(tx, self._number, tx.now()))
        if not done:
            raise Refused(f"job {self.id} cannot be cancelled: it is {self.refresh().state}")
        self._database.wake()
        return self.refresh()

    acancel = twin(cancel)

    def retry(self) -> Job:
        """Make a failed job wait again with fresh budgets, now.

        Raises Refused, saying why, when it is not failed, has expired, a live job has its unique
        key, or an effect of it is in doubt and its task has no `verify`: see `confirm`.
        """
        refused = self._database.transact(lambda tx: ledger.acts.retry(tx, self._number, tx.now()))
        if refused is not None:
            raise Refused(f"job {self.id} cannot be retried: {refused}")
        self._database.wake(1)
        return self.refresh()

    aretry = twin(retry)

    def edit_and_retry(
        self,
        args: Mapping[str, Any],
        *,
        actor: str | None = None,
        note: str | None = None,
        confirm: bool = False,
    ) -> Job:
        """Make a job like this failed one, with corrected arguments, and put this one aside.

        `args`: the arguments that are others, by parameter; `...` takes one away; of a record, the
        key will do. Returns the new job: of the same task, queue, priority and tags, with fresh
        budgets and keys of its own. This one ends `discarded(by_operator)` in the same
        transaction. Its effects are not the new job's: with such, or where the task asks for it,
        nothing is done unless `confirm`. `actor`, `note`: who asks for it, and why, to be kept.

        Raises Refused, saying why, when the app does not allow it (`App(…, allow_edit=True)`),
        the job is not failed, its task is never to be run again, a live job has the new unique
        key, or a record is not there; TypeError for an argument that does not fit, ValueError for
        none.
        """
        if self._editor is None:
            raise Refused(f"job {self.id} cannot be edited: ask an App with its task for it")
        return self._editor(self, args, By(actor, note, confirm))

    aedit_and_retry = twin(edit_and_retry)

    @property
    def edited_from(self) -> Edit | None:
        """How this job was made of a failed one with other arguments; None: it was not."""
        return _edit(ledger.edits.made_of(self._database, self._number))

    @property
    def edited_as(self) -> Edit | None:
        """How this job was last retried with other arguments; None: it was not."""
        return _edit(ledger.edits.made_from(self._database, self._number))

    def confirm(
        self,
        effect: str | None = None,
        *,
        happened: bool,
        result: Any = None,
        actor: str = "a person",
    ) -> Job:
        """Settle an effect in doubt of a failed job, as a person who has found out.

        `effect`: its name, where several are in doubt. With `happened`, a later attempt's `once`
        returns `result` (kept as JSON) instead of running it; without, it runs it. The job stays
        failed until it is retried. Raises Refused, saying why; TypeError for a result that has
        no form in JSON.
        """
        text = msgspec.json.encode(result).decode() if happened else None
        refused = self._database.transact(
            lambda tx: ledger.effects.confirm(
                tx, self._number, effect, text, actor[:100], tx.now(), happened=happened
            )
        )
        if refused is not None:
            raise Refused(f"nothing of job {self.id} can be confirmed: {refused}")
        return self.refresh()

    aconfirm = twin(confirm)

    def discard(self) -> Job:
        """Put a failed job aside for good. Raises Refused when it is not failed."""
        refused = self._database.transact(
            lambda tx: ledger.acts.discard(tx, self._number, tx.now())
        )
        if refused is not None:
            raise Refused(f"job {self.id} cannot be discarded: {refused}")
        return self.refresh()

    adiscard = twin(discard)


def _at(value: int) -> datetime:
    found = to_datetime(value)
    assert found is not None
    return found


def _edit(row: EditRow | None) -> Edit | None:
    if row is None:
        return None
    return Edit(
        ids.to_text(row.job_id),
        ids.to_text(row.original),
        tuple(msgspec.json.decode(row.changed, type=list[str])),
        row.actor,
        row.note,
        _at(row.at),
    )


def _end_of(hold: HoldRow) -> str:
    what = f"{hold.kind} {hold.name}"
    if not hold.active:
        return f"its turn: {what} is no longer paused, and its jobs are let go of one by one"
    by = f" by {hold.actor}" if hold.actor else ""
    why = f": {hold.reason}" if hold.reason else ""
    return f"{what} to be resumed (paused{by}{why})"


def _attempt(job: str, row: AttemptRow) -> Attempt:
    return Attempt(
        f"{job}.{row.fence}",
        row.number,
        row.cause,
        row.state,
        row.reason,
        to_datetime(row.run_at),
        to_datetime(row.begun_at),
        _at(row.ended_at),
        row.worker,
        row.code,
        row.error_type,
        row.error_message,
        row.traceback,
        {} if row.evidence is None else msgspec.json.decode(row.evidence),
    )
