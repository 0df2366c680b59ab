"""Whether an alert is told now. Pure.

What is watched is so or is not. Once told, it is not told again for the quiet time, whether it goes
on or comes and goes; if it is so when that is over, it is told again. What was told and has ended
is told to have recovered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

RuleKind = Literal["failure_rate", "oldest_waiting", "depth", "new_group", "growing_group"]


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as those who watch know it: not where it is told. Durations in seconds.

    `over`: a share, an age or a number, as `kind` has it. `queue`: of which it is watched; None: of
    all. `told_on`: the queue of the jobs that tell it. `policy`: of these, as rows keep it.
    """

    name: str
    kind: RuleKind
    over: float
    quiet: float
    policy: str
    within: float = 0.0
    at_least: int = 0
    queue: str | None = None
    told_on: str = "default"


class Standing(msgspec.Struct, frozen=True):
    """How an alert stands. Times in microseconds since the epoch.

    `since`: since when it is so; None: it is not. `told_at`: when it was told last. `after`: of
    what happens and does not last, all until then was told.
    """

    since: int | None = None
    told_at: int | None = None
    after: int = 0


Telling = Literal["began", "goes on", "recovered"]


class Step(msgspec.Struct, frozen=True):
    """How it stands from now on, and what is told, if anything."""

    standing: Standing
    tell: Telling | None = None


def lasts(watched: Watched) -> bool:
    """Whether it is a state that can end; else something that happens."""
    return watched.kind != "new_group"


def step(before: Standing, *, is_so: bool, lasting: bool, quiet: float, now: int) -> Step:
    """What to tell now. `quiet`: seconds."""
    told_at = before.told_at
    may_tell = told_at is None or now - told_at >= quiet * 1_000_000
    if not lasting:
        if not is_so:
            return Step(msgspec.structs.replace(before, after=now))
        if may_tell:
            return Step(Standing(None, now, now), "began")
        return Step(before)  # kept, to be told with what comes until then
    if not is_so:
        was_told = before.since is not None and told_at is not None and told_at >= before.since
        ended = msgspec.structs.replace(before, since=None)
        return Step(ended, "recovered" if was_told else None)
    since = now if before.since is None else before.since
    if not may_tell:
        return Step(msgspec.structs.replace(before, since=since))
    was_told = told_at is not None and told_at >= since
    standing = msgspec.structs.replace(before, since=since, told_at=now)
    return Step(standing, "goes on" if was_told else "began")
