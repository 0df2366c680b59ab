"""When an alert is told (A13): at once, not again for the quiet time, and when it has ended."""

from __future__ import annotations

import pytest

from failbetter.lifecycle.alerting import Standing, step

MINUTE = 60_000_000
QUIET = 600.0


def story(*moments: tuple[int, bool], lasting: bool = True) -> list[str | None]:
    """What is told at each moment (minutes), given whether it is so."""
    standing, said = Standing(), []
    for at, is_so in moments:
        made = step(standing, is_so=is_so, lasting=lasting, quiet=QUIET, now=at * MINUTE)
        standing = made.standing
        said.append(made.tell)
    return said


@pytest.mark.parametrize(
    ("moments", "told"),
    [
        ([(1, False), (2, False)], [None, None]),
        ([(1, True), (2, True), (3, False)], ["began", None, "recovered"]),
        # It goes on for longer than it is quiet.
        ([(1, True), (10, True), (11, True), (12, True)], ["began", None, "goes on", None]),
        # It comes and goes: within the quiet time nobody is told, nor of the end of such.
        (
            [(1, True), (2, False), (3, True), (4, False), (5, True), (11, True), (12, False)],
            ["began", "recovered", None, None, None, "began", "recovered"],
        ),
        ([(1, True), (2, False), (12, True)], ["began", "recovered", "began"]),
    ],
)
def test_a_state(moments: list[tuple[int, bool]], told: list[str | None]) -> None:
    assert story(*moments) == told


def test_what_happens_and_does_not_last() -> None:
    """What came in the quiet time is told after it, and nothing recovers."""
    moments = [(1, True), (2, False), (3, True), (11, True), (12, False)]
    assert story(*moments, lasting=False) == ["began", None, None, "began", None]


def test_what_was_not_told_is_kept() -> None:
    before = Standing(None, 1 * MINUTE, 1 * MINUTE)
    made = step(before, is_so=True, lasting=False, quiet=QUIET, now=2 * MINUTE)
    assert made.standing.after == 1 * MINUTE
    made = step(before, is_so=False, lasting=False, quiet=QUIET, now=2 * MINUTE)
    assert made.standing.after == 2 * MINUTE
