"""How fast an operation goes on, and what it holds back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from failbetter.lifecycle import ramp
from failbetter.lifecycle.ramp import SECOND, Course, Options

NOW = 1_700_000_000 * SECOND


class Tally(msgspec.Struct, frozen=True):
    """How the first attempts of a cause went."""

    fingerprint: str
    moved: int
    alike: int = 0
    otherwise: int = 0
    good: int = 0

    @property
    def judged(self) -> int:
        return self.alike + self.otherwise + self.good


def test_without_pace_and_canary_all_go_at_once() -> None:
    assert not Options().paced
    assert ramp.begin(Options(), NOW).stage == "all"


def test_shares_are_even_as_far_as_there_are_so_many() -> None:
    assert ramp.shares({"a": 100, "b": 100}, 10) == {"a": 5, "b": 5}
    assert ramp.shares({"a": 100, "b": 2}, 10) == {"a": 8, "b": 2}
    assert ramp.shares({"a": 3, "b": 2}, 10) == {"a": 3, "b": 2}
    assert ramp.shares({"a": 9, "b": 9, "c": 9}, 2) == {"a": 1, "b": 1, "c": 0}
    assert ramp.shares({}, 5) == {}


# -- a rate


def test_a_rate_is_kept_however_often_it_is_looked_at() -> None:
    options = Options(rate=10)
    course = ramp.begin(options, NOW)
    released = 0
    for at in range(1, 101):
        step = ramp.step(course, options, [], NOW + at * SECOND // 10)
        course, released = step.course, released + step.release
        assert step.gap == 100_000
    assert 100 <= released <= 101


def test_a_rate_below_one_a_second() -> None:
    options = Options(rate=0.5)
    course = ramp.begin(options, NOW)
    releases = []
    for at in range(1, 9):
        step = ramp.step(course, options, [], NOW + at * SECOND)
        course = step.course
        releases.append(step.release)
    assert sum(releases) == 5
    assert max(releases) == 1


def test_what_was_missed_while_nobody_drove_is_not_made_up_for() -> None:
    options = Options(rate=10)
    step = ramp.step(ramp.begin(options, NOW), options, [], NOW + 3600 * SECOND)
    assert step.release == 21


def test_a_clock_that_goes_back_releases_nothing() -> None:
    options = Options(rate=10)
    assert ramp.step(ramp.begin(options, NOW), options, [], NOW - SECOND).release == 1


# -- canaries


def judged(tallies: list[Tally], at: int = SECOND, **options: Any) -> Course:
    """The course after a look at the canaries."""
    asked = Options(canary=5, **options)
    step = ramp.step(ramp.begin(asked, NOW), asked, tallies, NOW + at)
    assert step.release == 0
    return step.course


def test_while_a_canary_is_not_judged_all_wait() -> None:
    assert judged([Tally("a", 3, good=2), Tally("b", 2, good=2)]).stage == "canary"


def test_a_cause_that_still_fails_is_held_back_and_others_go_on() -> None:
    course = judged([Tally("bug", 3, alike=3), Tally("outage", 2, good=2)])
    assert (course.stage, course.held) == ("ramp", {"bug": "3 of 3 failed alike again"})


@pytest.mark.parametrize(
    ("tally", "share", "held"),
    [
        (Tally("a", 10, alike=2, good=8), 0.2, False),
        (Tally("a", 10, alike=3, good=7), 0.2, True),
        (Tally("a", 10, alike=3, good=7), 0.3, False),
        (Tally("a", 10, otherwise=5, good=5), 0.2, False),
        (Tally("a", 10, otherwise=6, good=4), 0.2, True),
        (Tally("a", 1, alike=1), 1.0, False),
    ],
)
def test_how_many_may_fail(tally: Tally, share: float, held: bool) -> None:
    assert ("a" in judged([tally], share=share).held) is held


def test_canaries_that_never_end_hold_their_cause_back() -> None:
    tallies = [Tally("slow", 2), Tally("half", 2, good=1), Tally("good", 2, good=2)]
    assert judged(tallies, at=599 * SECOND).stage == "canary"
    course = judged(tallies, at=600 * SECOND)
    assert course.held == {"slow": "no canary of it came to an end in time"}


# -- the ramp


def test_the_pace_doubles_up_to_the_rate() -> None:
    options = Options(rate=80, canary=2)
    course = judged([Tally("a", 2, good=2)], rate=80)
    paces = [course.pace]
    for at in range(1, 8):
        now = NOW + SECOND + at * ramp.DOUBLES_EVERY
        course = ramp.step(course, options, [Tally("a", 20, good=20)], now).course
        paces.append(course.pace)
    assert paces == [10, 20, 40, 80, 80, 80, 80, 80]


def test_without_a_rate_it_doubles_on() -> None:
    course = judged([Tally("a", 2, good=2)])
    for at in range(1, 4):
        now = NOW + SECOND + at * ramp.DOUBLES_EVERY
        course = ramp.step(course, Options(canary=5), [Tally("a", 9, good=9)], now).course
    assert course.pace == 80


def test_without_evidence_the_pace_stays() -> None:
    course = judged([Tally("a", 2, good=2)], rate=80)
    now = NOW + SECOND + ramp.DOUBLES_EVERY
    for tallies in ([], [Tally("a", 30)], [Tally("a", 30, alike=30)]):
        assert ramp.step(course, Options(rate=80, canary=5), tallies, now).course.pace == 10


def test_a_cause_that_fails_on_the_way_is_held_back_from_then_on() -> None:
    options = Options(rate=50)
    course = ramp.begin(options, NOW)
    few = ramp.step(course, options, [Tally("a", 9, alike=3)], NOW + SECOND).course
    assert few.held == {}
    course = ramp.step(few, options, [Tally("a", 9, alike=5)], NOW + 2 * SECOND).course
    assert list(course.held) == ["a"]
    assert ramp.step(course, options, [], NOW + 3 * SECOND).course.held == course.held


def test_resumed_it_goes_on_with_what_was_held_back() -> None:
    options = Options(rate=80, canary=5)
    course = judged([Tally("a", 2, alike=2)], rate=80)
    again = ramp.resume(msgspec.structs.replace(course, why="x", after=9), options, NOW)
    assert (again.held, again.why, again.after, again.stage) == ({}, None, 0, "ramp")
    assert (again.pace, again.since) == (10, NOW)


def test_only_what_was_moved_lately_is_looked_at() -> None:
    course = ramp.begin(Options(rate=5), NOW)
    assert ramp.looks_since(course, NOW + SECOND) == NOW
    late = NOW + 3600 * SECOND
    assert ramp.looks_since(course, late) == late - ramp.LOOK_BACK
    canaries = ramp.begin(Options(canary=5), NOW)
    assert ramp.looks_since(canaries, late) == NOW
