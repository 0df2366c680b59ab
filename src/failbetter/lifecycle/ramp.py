"""How fast an operation goes on, and what it holds back. Pure.

First come the canaries: a few of each cause. Once they are judged, by their first attempt since
they were moved, the causes that still fail are held back; the others follow at a pace that doubles
for as long as it goes well. A cause that fails again on the way is held back from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec


class OperationState(StrEnum):
    """Where an operation is. The first two are a preview's."""

    SELECTING = "selecting"
    PREVIEWED = "previewed"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    ABORTED = "aborted"
    UNDOING = "undoing"
    UNDONE = "undone"


Stage = Literal["all", "canary", "ramp"]

SECOND = 1_000_000
LOOK_BACK = 60 * SECOND
"""What was moved so long ago at most speaks for or against going on."""
DOUBLES_EVERY = 5 * SECOND
# Fewer than this say nothing, once the canaries are through.
_ENOUGH = 5
# Whatever the error: when more than this share fails, something is wrong with going on.
_TOO_MANY = 0.5
# The pace begins at this part of the one asked for; without one, at so many jobs a second.
_START = 8
_SLOWEST = 1.0
_UNHURRIED = 10.0
# After a time in which nobody drove it, no more is made up for than this.
_AT_ONCE = 2 * SECOND


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for. `rate`: jobs a second at most; None: no limit. `within`: seconds."""

    rate: float | None = None
    canary: int = 0
    share: float = 0.2
    within: float = 600.0
    confirm: bool = False
    aside: bool = False

    @property
    def paced(self) -> bool:
        """Whether it is to be driven; else it is done at once."""
        return self.rate is not None or self.canary > 0


class Course(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far it has come. Times in microseconds since the epoch.

    `after`: up to which job everything was dealt with. `pace`: jobs a second now. `owed`: what
    part of a job its time has come for. `since`: when the stage, or the pace, began. `held`:
    causes that are held back, each with why. `why`: it is paused.
    """

    stage: Stage = "all"
    after: int = 0
    pace: float = 0.0
    owed: float = 0.0
    since: int = 0
    doubled_at: int = 0
    ticked_at: int = 0
    held: dict[str, str] = {}
    why: str | None = None


class Tally(Protocol):
    """First attempts of the jobs of one cause that were moved lately."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def moved(self) -> int: ...
    @property
    def alike(self) -> int: ...
    @property
    def otherwise(self) -> int: ...
    @property
    def judged(self) -> int: ...


class Step(msgspec.Struct, frozen=True):
    """What to do now: move `release` more, their times `gap` microseconds apart."""

    course: Course
    release: int = 0
    gap: int = 0


def begin(options: Options, now: int) -> Course:
    """The course of an operation that begins."""
    if options.canary:
        return Course(stage="canary", since=now, ticked_at=now)
    return _ramp(options, Course(), now) if options.rate is not None else Course()


def resume(course: Course, options: Options, now: int) -> Course:
    """The course of one that a person lets go on, with all that was held back."""
    if not options.paced:
        return msgspec.structs.replace(course, why=None)
    going = msgspec.structs.replace(course, held={}, why=None, after=0)
    return _ramp(options, going, now)


def _ramp(options: Options, course: Course, now: int) -> Course:
    rate = options.rate
    if not options.canary and rate is not None:
        pace = rate
    else:
        pace = _UNHURRIED if rate is None else min(rate, max(_SLOWEST, rate / _START))
    return msgspec.structs.replace(
        course, stage="ramp", pace=pace, owed=1.0, since=now, doubled_at=now, ticked_at=now
    )


def shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """How many of each cause go first, `count` in all: as evenly as there are so many of each."""
    found = dict.fromkeys(sizes, 0)
    left = min(count, sum(sizes.values()))
    while left:
        for cause, size in sizes.items():
            if left and found[cause] < size:
                found[cause] += 1
                left -= 1
    return found


def looks_since(course: Course, now: int) -> int:
    """From when on moved jobs are to be tallied for `step`."""
    return course.since if course.stage == "canary" else max(course.since, now - LOOK_BACK)


def step(course: Course, options: Options, tallies: Sequence[Tally], now: int) -> Step:
    """What to do now, by how those fared that were moved."""
    if course.stage == "canary":
        return _judge_canaries(course, options, tallies, now)
    held = {**course.held, **_failing(course.held, options, tallies)}
    pace, doubled_at = course.pace, course.doubled_at
    going_well = any(one.judged and one.fingerprint not in held for one in tallies)
    if going_well and now - doubled_at >= DOUBLES_EVERY:
        pace = 2 * pace if options.rate is None else min(2 * pace, options.rate)
        doubled_at = now
    elapsed = min(max(0, now - course.ticked_at), _AT_ONCE)
    owed = course.owed + pace * elapsed / SECOND
    release = int(owed)
    going = msgspec.structs.replace(
        course,
        held=held,
        pace=pace,
        owed=owed - release,
        doubled_at=doubled_at,
        ticked_at=now,
    )
    return Step(going, release, round(SECOND / pace))


def _judge_canaries(course: Course, options: Options, tallies: Sequence[Tally], now: int) -> Step:
    over = now - course.since >= options.within * SECOND
    if not over and any(one.judged < one.moved for one in tallies):
        return Step(msgspec.structs.replace(course, ticked_at=now))
    held = dict(course.held)
    for one in tallies:
        why = _too_bad(one, options) if one.judged else "no canary of it came to an end in time"
        if why is not None:
            held[one.fingerprint] = why
    going = msgspec.structs.replace(course, held=held, after=0)
    return Step(_ramp(options, going, now))


def _failing(held: Mapping[str, str], options: Options, tallies: Sequence[Tally]) -> dict[str, str]:
    """Causes that are to be held back from now on, each with why."""
    found = {}
    for one in tallies:
        if one.judged < _ENOUGH or one.fingerprint in held:
            continue
        why = _too_bad(one, options)
        if why is not None:
            found[one.fingerprint] = why
    return found


def _too_bad(one: Tally, options: Options) -> str | None:
    if one.alike > options.share * one.judged:
        return f"{one.alike} of {one.judged} failed alike again"
    failed = one.alike + one.otherwise
    if failed > max(_TOO_MANY, options.share) * one.judged:
        return f"{failed} of {one.judged} failed again"
    return None
