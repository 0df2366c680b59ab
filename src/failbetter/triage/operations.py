"""Bulk acts: begun from a preview, reported on, stopped, undone."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, seconds, to_datetime
from failbetter.errors import OperationNotFound, Refused
from failbetter.lifecycle import ramp
from failbetter.lifecycle.ramp import OperationState
from failbetter.triage import report, steps
from failbetter.triage.report import OperatedJob, Report
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from failbetter.ledger.database import Database
    from failbetter.ledger.operations import Row

MANY = 100
"""From more jobs on than this, those that are made to wait again do so behind others."""

LONGEST_ACTOR = 100
LONGEST_NOTE = 2_000


class Operation:
    """One bulk act: a retry, a discard or a restore of a frozen list of jobs."""

    def __init__(self, database: Database, row: Row) -> None:
        self._database = database
        self._row = row

    def __repr__(self) -> str:
        return f"<Operation {self.id} {self.verb} {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and other._row.id == self._row.id

    def __hash__(self) -> int:
        return hash(self._row.id)

    @property
    def id(self) -> str:
        """Its id: 13 characters, those of its preview's token."""
        return ids.to_text(self._row.id)

    @property
    def verb(self) -> str:
        """`retry`, `discard` or `restore`."""
        return self._row.verb or ""

    @property
    def state(self) -> str:
        """As last read: `running`, `paused`, `done`, `aborted`, `undoing` or `undone`.

        `done`: all that was to be moved is moved; what becomes of it, `report` says.
        """
        return self._row.state

    @property
    def why(self) -> str | None:
        """Why it is paused."""
        return steps.course_of(self._row).why if self.state == OperationState.PAUSED else None

    @property
    def held(self) -> dict[str, str]:
        """Groups (fingerprints, `-` for none) that are held back, each with why."""
        return dict(steps.course_of(self._row).held)

    @property
    def pace(self) -> float | None:
        """Jobs a second that it moves now; None while it is not paced, or at its canaries."""
        course = steps.course_of(self._row)
        return course.pace if course.stage == "ramp" else None

    @property
    def actor(self) -> str | None:
        """Who asked for it."""
        return self._row.actor

    @property
    def note(self) -> str | None:
        """What they said of it."""
        return self._row.note

    @property
    def filters(self) -> dict[str, Any]:
        """By what its jobs were selected."""
        found: dict[str, Any] = msgspec.json.decode(self._row.filters)
        return found

    @property
    def total(self) -> int:
        """How many jobs were selected."""
        return self._row.total

    @property
    def created_at(self) -> datetime:
        """When its jobs were selected."""
        found = to_datetime(self._row.created_at)
        assert found is not None
        return found

    @property
    def begun_at(self) -> datetime | None:
        """When it began."""
        return to_datetime(self._row.begun_at)

    @property
    def ended_at(self) -> datetime | None:
        """When there was nothing left to move."""
        return to_datetime(self._row.ended_at)

    @property
    def moved(self) -> int:
        """How many jobs were acted on, those that were returned since left out."""
        return ledger.outcomes.moved(self._database, self._row.id)

    @property
    def refused(self) -> dict[str, str]:
        """Of each job that was skipped, by its id, why."""
        found = ledger.outcomes.refused(self._database, self._row.id)
        return {ids.to_text(number): why for number, why in found}

    def report(self) -> Report:
        """What became of each of its jobs, as the ledger has it now."""
        return report.make(self._database, self._row.id, self._row.total)

    areport = twin(report)

    def jobs(self) -> Iterator[OperatedJob]:
        """What became of each job, newest first."""
        return report.jobs(self._database, self._row.id)

    def refresh(self) -> Operation:
        """Read its state again; returns the operation itself."""
        self._row = loaded(self._database, self._row.id)
        return self

    arefresh = twin(refresh)

    def wait(self, timeout: Duration | None = None) -> Report:
        """Wait until nothing more comes of it by itself, and report.

        That is when it has nothing more to move, or is paused, and none of its jobs is live.
        `timeout`: None waits for ever. Raises TimeoutError. A paced operation is driven by any
        worker, or `failbetter maintain`, not by this.
        """
        limit = None if timeout is None else time.monotonic() + seconds(timeout)
        pause = 0.01
        while self.refresh().state in (
            OperationState.RUNNING,
            OperationState.UNDOING,
        ) or ledger.outcomes.any_live(self._database, self._row.id):
            if limit is not None and time.monotonic() >= limit:
                raise TimeoutError(f"operation {self.id} is not at its end: {self.report()}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return self.report()

    def abort(self) -> Operation:
        """Move no more jobs; what was moved stays so. Raises Refused when there is no more."""
        self._change("aborted", (OperationState.RUNNING, OperationState.PAUSED), _aborted)
        return self

    aabort = twin(abort)

    def resume(self) -> Operation:
        """Go on after a pause, also with what was held back. Raises Refused unless paused."""
        self._change("resumed", (OperationState.PAUSED,), _resumed)
        return self

    aresume = twin(resume)

    def undo(self, *, progress: Callable[[int, int], object] | None = None) -> Report:
        """Move no more jobs, and make those that have not begun failed again, as they were.

        What already ran stays as it is: `jobs` says which. A discard is taken back whole. A
        restore is undone by a discard. Raises Refused when it cannot be undone.
        """
        if self.verb == "restore":
            raise Refused(f"operation {self.id} is a restore: discard its jobs again instead")
        self._change(
            "undone",
            (
                OperationState.RUNNING,
                OperationState.PAUSED,
                OperationState.DONE,
                OperationState.ABORTED,
            ),
            _undoing,
        )
        finish(self._database, self._row.id, progress)
        return self.refresh().report()

    aundo = twin(undo)

    def _change(
        self, done: str, states: tuple[OperationState, ...], change: Callable[[Row, int], None]
    ) -> None:
        def work(tx: ledger.kinds.Tx) -> str:
            row = steps.locked(tx, self._row.id)
            if row.state in states:
                change(row, tx.now())
                ledger.operations.save(tx, row)
                return ""
            return row.state

        refused = self._database.transact(work)
        if refused:
            raise Refused(f"operation {self.id} cannot be {done}: it is {refused}")
        self.refresh()


def _aborted(row: Row, now: int) -> None:
    row.state = OperationState.ABORTED.value
    steps.end(row, now)


def _resumed(row: Row, now: int) -> None:
    row.state, row.next_at = OperationState.RUNNING.value, now
    row.course = steps.text_of(ramp.resume(steps.course_of(row), steps.options_of(row), now))


def _undoing(row: Row, now: int) -> None:
    row.state, row.ended_at = OperationState.UNDOING.value, None
    row.next_at = now + ledger.operations.TAKEN_OVER
    row.course = steps.text_of(msgspec.structs.replace(steps.course_of(row), after=0, why=None))


def checked_options(
    *,
    rate: float | None,
    canary: int | None,
    confirm: bool,
    tolerate: float = 0.2,
    within: Duration = "10m",
) -> ramp.Options:
    """The pace that is asked for. Raises ValueError or TypeError for what cannot be."""
    if rate is not None and not (_is_number(rate) and 0 < rate <= 1e6):
        raise ValueError(f"a rate is a number of jobs a second above 0, not {rate!r}")
    if canary is not None and not (_is_number(canary, int) and 1 <= canary <= 1_000):
        raise ValueError(f"canary is a number of jobs from 1 to 1000, not {canary!r}")
    if not 0 <= tolerate <= 1:
        raise ValueError(f"tolerate is a share from 0 to 1, not {tolerate!r}")
    return ramp.Options(
        rate=None if rate is None else float(rate),
        canary=canary or 0,
        share=float(tolerate),
        within=seconds(within),
        confirm=confirm,
    )


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds or (int, float)) and not isinstance(value, bool)


def begin(
    database: Database,
    number: int,
    verb: str,
    options: ramp.Options,
    *,
    actor: str | None,
    note: str | None,
    progress: Callable[[int, int], object] | None = None,
) -> Operation:
    """Begin an operation on a preview's list; unless it is paced, also end it. Raises Refused."""
    actor, note = _text("actor", actor, LONGEST_ACTOR), _text("note", note, LONGEST_NOTE)
    row = loaded(database, number)
    if row.total > MANY:
        options = msgspec.structs.replace(options, aside=True)
    database.transact(lambda tx: steps.begin(tx, number, verb, options, actor, note))
    if not options.paced:
        finish(database, number, progress)
    return Operation(database, loaded(database, number))


def finish(
    database: Database, number: int, progress: Callable[[int, int], object] | None = None
) -> None:
    """Make the steps that can be made at once. Interrupted, maintenance makes the others.

    The steps do not wait for the disk, as what follows takes them along to it, and one that a power
    cut has undone is made again. The end does.
    """
    done = 0
    total = loaded(database, number).total
    while True:
        stepped = database.transact(partial(steps.step, number=number), durable=False)
        if stepped.moved:
            database.wake()
        if not stepped.more:
            database.transact(lambda tx: ledger.operations.save(tx, steps.locked(tx, number)))
            return
        done += steps.BATCH
        if progress is not None:
            progress(min(done, total), total)


def loaded(database: Database, number: int) -> Row:
    """An operation's row, or a preview's. Raises OperationNotFound."""
    row = ledger.operations.load(database, number)
    if row is None:
        raise OperationNotFound(
            f"no preview or operation {ids.to_text(number)} is in {database.name}"
        )
    return row


def find(database: Database, text: str) -> Operation:
    """The operation of that id. Raises OperationNotFound; ValueError when the text is no id."""
    row = loaded(database, ids.from_text(text))
    if row.verb is None:
        raise OperationNotFound(f"{text} is a preview that nobody has acted on, no operation")
    return Operation(database, row)


def listed(database: Database, size: int = 200) -> Iterator[Operation]:
    """All operations, the newest first."""
    below = (1 << 63) - 1
    while rows := ledger.operations.page(database, below, size):
        for row in rows:
            yield Operation(database, row)
        below = rows[-1].id


def _text(name: str, value: str | None, longest: int) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {value!r}")
    if value is not None and len(value) > longest:
        raise ValueError(f"{name} has at most {longest} characters, not {len(value)}")
    return value
