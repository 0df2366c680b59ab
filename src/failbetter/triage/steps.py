"""One step of an operation: a bounded transaction, after which it can be gone on with by anyone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from failbetter import ledger
from failbetter.errors import OperationNotFound, Refused
from failbetter.faultpoints import passing
from failbetter.lifecycle import ramp
from failbetter.lifecycle.ramp import OperationState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.lists import Looked
    from failbetter.ledger.operations import Row

BATCH = 1_000
"""Jobs that one transaction moves: few enough that others write in between without a wait."""

# While it is paced, it is looked at this often (µs).
_TICK = 500_000

_options = msgspec.json.Decoder(ramp.Options)
_course = msgspec.json.Decoder(ramp.Course)


class Stepped(msgspec.Struct, frozen=True):
    """What a step did: how many jobs moved; `more`: whether another can be made at once."""

    more: bool = False
    moved: int = 0


def options_of(row: Row) -> ramp.Options:
    """What was asked for."""
    return ramp.Options() if row.options is None else _options.decode(row.options)


def course_of(row: Row) -> ramp.Course:
    """How far it has come."""
    return ramp.Course() if row.course is None else _course.decode(row.course)


def text_of(value: msgspec.Struct) -> str:
    """Options or a course as the row keeps them."""
    return msgspec.json.encode(value).decode()


def locked(tx: Tx, number: int) -> Row:
    """The operation, locked. Raises OperationNotFound."""
    row = ledger.operations.lock(tx, number)
    if row is None:
        raise OperationNotFound("it was cleared away meanwhile")
    return row


def begin(
    tx: Tx, number: int, verb: str, options: ramp.Options, actor: str | None, note: str | None
) -> Row:
    """Make a preview an operation that runs. Raises Refused when it was acted on already."""
    row = locked(tx, number)
    if row.state != OperationState.PREVIEWED:
        raise Refused(
            "this preview is not complete"
            if row.state == OperationState.SELECTING
            else f"this preview was acted on already: it is an operation, {row.state}"
        )
    now = tx.now()
    if options.canary:
        ledger.lists.draw_canaries(tx, number, options.canary, confirm=options.confirm)
    row.verb, row.actor, row.note = verb, actor, note
    row.state = OperationState.RUNNING.value
    row.begun_at = now
    row.options = text_of(options)
    row.course = text_of(ramp.begin(options, now))
    row.next_at = now if options.paced else now + ledger.operations.TAKEN_OVER
    ledger.operations.save(tx, row)
    return row


def step(tx: Tx, number: int, size: int = BATCH) -> Stepped:
    """Go on with an operation, or clear away what ended or was previewed long ago."""
    row = ledger.operations.lock(tx, number)
    if row is None or row.state not in _STEPS:
        return Stepped()
    ledger.lists.in_order(tx)
    stepped = _STEPS[row.state](tx, row, size)
    passing("in_operation")
    return stepped


def _run(tx: Tx, row: Row, size: int) -> Stepped:
    course = course_of(row)
    if course.stage != "all":
        return _pace(tx, row, course, size)
    looked = ledger.lists.look(tx, row.id, course.after, size)
    if not looked:
        _finish(tx, row, OperationState.DONE)
        return Stepped()
    moved = _move(tx, row, looked, 0)
    _go_on(tx, row, msgspec.structs.replace(course, after=looked[-1].job_id))
    return Stepped(True, moved)


def _move(tx: Tx, row: Row, looked: Sequence[Looked], gap: int) -> int:
    options = options_of(row)
    ask = ledger.moving.Ask(options.confirm, options.aside, gap)
    movers = {
        "retry": ledger.moving.retry,
        "discard": ledger.moving.discard,
        "restore": ledger.moving.restore,
    }
    return movers[row.verb or ""](tx, row.id, looked, ask, tx.now())


def _go_on(tx: Tx, row: Row, course: ramp.Course) -> None:
    row.course = text_of(course)
    row.next_at = tx.now() + ledger.operations.TAKEN_OVER
    ledger.operations.save(tx, row)


def _finish(tx: Tx, row: Row, state: OperationState) -> None:
    if state is OperationState.DONE:
        ledger.lists.note_gone(tx, row.id)
    row.state = state.value
    end(row, tx.now())
    ledger.operations.save(tx, row)


def end(row: Row, now: int) -> None:
    """Nothing more is to be done with it but, one day, to clear it away."""
    row.ended_at = now
    row.next_at = now + ledger.operations.ENDED_KEPT


def _pace(tx: Tx, row: Row, course: ramp.Course, size: int) -> Stepped:
    now = tx.now()
    if course.stage == "canary":
        looked = ledger.lists.look_at_canaries(tx, row.id, course.after, size)
        if looked:
            return _released(tx, row, course, looked, 0)
    tallies = ledger.outcomes.tally(tx, row.id, ramp.looks_since(course, now))
    step = ramp.step(course, options_of(row), tallies, now)
    if not step.release:
        _tick(tx, row, step.course, now)
        return Stepped()
    count = min(step.release, size)
    looked = ledger.lists.look_at_open(tx, row.id, step.course.after, list(step.course.held), count)
    if looked:
        return _released(tx, row, step.course, looked, step.gap)
    if ledger.lists.look(tx, row.id, 0, 1):
        held = step.course.held
        why = "held back, as they still fail: " + "; ".join(
            f"{mark} ({said})" for mark, said in sorted(held.items())
        )
        row.state = OperationState.PAUSED.value
        row.course = text_of(msgspec.structs.replace(step.course, why=why))
        row.next_at = None
        ledger.operations.save(tx, row)
    else:
        row.course = text_of(step.course)
        _finish(tx, row, OperationState.DONE)
    return Stepped()


def _released(tx: Tx, row: Row, course: ramp.Course, looked: Sequence[Looked], gap: int) -> Stepped:
    moved = _move(tx, row, looked, gap)
    after = looked[-1].job_id if course.stage == "canary" or not course.held else course.after
    _tick(tx, row, msgspec.structs.replace(course, after=after), tx.now())
    return Stepped(False, moved)


def _tick(tx: Tx, row: Row, course: ramp.Course, now: int) -> None:
    row.course = text_of(course)
    row.next_at = now + _TICK
    ledger.operations.save(tx, row)


def _undo(tx: Tx, row: Row, size: int) -> Stepped:
    course = course_of(row)
    looked = ledger.lists.look_back(tx, row.id, course.after, size)
    if not looked:
        _finish(tx, row, OperationState.UNDONE)
        return Stepped()
    given_back = ledger.moving.give_back(tx, row.id, looked)
    # One that has changed at this very moment may not have begun: it is looked at again.
    after = looked[-1].job_id if given_back == len(looked) else course.after
    _go_on(tx, row, msgspec.structs.replace(course, after=after))
    return Stepped(True)


def _clear(tx: Tx, row: Row, size: int) -> Stepped:
    if row.next_at is None or row.next_at > tx.now():
        return Stepped()
    return Stepped(ledger.operations.forget_some(tx, row.id, size))


_STEPS: dict[str, Callable[[Tx, Row, int], Stepped]] = {
    OperationState.RUNNING: _run,
    OperationState.UNDOING: _undo,
    OperationState.SELECTING: _clear,
    OperationState.PREVIEWED: _clear,
    OperationState.DONE: _clear,
    OperationState.ABORTED: _clear,
    OperationState.UNDONE: _clear,
}
