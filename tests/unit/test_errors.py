"""The tree of errors is the one drawn at the top of its module."""

from __future__ import annotations

import inspect
import re

import pytest

import failbetter
from failbetter import errors

SAID = (failbetter.Release, failbetter.Retry, failbetter.Fail, failbetter.Discard)
INSIDE = (
    failbetter.TimedOut,
    failbetter.Stalled,
    failbetter.Interrupted,
    failbetter.Cancelled,
)
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException)
}


@pytest.mark.parametrize("kind", [*SAID, *INSIDE])
def test_what_is_said_or_done_to_a_body_is_not_swallowed(kind: type[BaseException]) -> None:
    assert not issubclass(kind, Exception)


def test_everything_else_is_a_failbetter_error() -> None:
    others = set(CLASSES.values()) - set(SAID) - set(INSIDE) - {errors.Said}
    assert all(issubclass(kind, failbetter.FailbetterError) for kind in others)


def test_the_drawing_names_them_all() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__ or ""))
    assert set(CLASSES) - {"FailbetterError", "Said"} <= drawn


def test_the_drawing_shows_the_bases() -> None:
    drawing = errors.__doc__ or ""
    for name in re.findall(r"^    [│ ]   *[├└]── (\w+)", drawing, re.MULTILINE):
        assert issubclass(CLASSES[name], failbetter.LedgerError)


def test_what_was_said_keeps_what_it_was_given() -> None:
    assert failbetter.Release("2m").after == "2m"
    assert failbetter.Release().after is None
    assert failbetter.Retry(5).after == 5
    assert failbetter.Fail("why").message == "why"
    assert failbetter.Discard().message == ""


def test_a_failed_job_says_what_became_of_it() -> None:
    error = failbetter.JobFailed("0123456789abc", "failed", "error", "text")
    assert (error.job_id, error.state, error.reason, str(error)) == (
        "0123456789abc",
        "failed",
        "error",
        "text",
    )
