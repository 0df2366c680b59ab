"""What users are told of a job's end (C5): one safe sentence, and the job's id."""

from __future__ import annotations

import itertools

import pytest

from failbetter.lifecycle.public import LONGEST, public_reason
from failbetter.lifecycle.states import REASONS, Reason, State

JOB = "0sa5yjwn5j896"
ENDS = [
    (state, reason)
    for state in (State.FAILED, State.DISCARDED)
    for reason in sorted(REASONS[state])
]


@pytest.mark.parametrize(("state", "reason"), ENDS)
def test_nothing_of_an_error_is_told(state: State, reason: Reason) -> None:
    """C5: neither its type nor its message, whatever the reason."""
    said = public_reason(JOB, state, reason, "psycopg.OperationalError", "password of 10.0.0.7")
    assert said is not None
    assert said.endswith(f". (job {JOB})")
    assert len(said) <= LONGEST
    assert not any(word in said for word in ("psycopg", "Operational", "password", "10.0"))


@pytest.mark.parametrize(("state", "reason"), ENDS)
def test_each_end_has_a_sentence_of_its_own_sort(state: State, reason: Reason) -> None:
    said = public_reason(JOB, state, reason, None, None)
    assert said is not None
    assert said.startswith(("It ", "The ", "Only ", "What ", "There ", "Something "))


@pytest.mark.parametrize(
    ("state", "reason"),
    [*itertools.product((State.PENDING, State.RUNNING), [None]), (State.SUCCEEDED, Reason.PARTIAL)],
)
def test_where_all_is_well_nothing_is_said(state: State, reason: Reason | None) -> None:
    assert public_reason(JOB, state, reason, "ValueError", "an earlier attempt's") is None


def test_what_the_author_says_is_passed_on() -> None:
    """C5: said for users to read."""
    failed = public_reason(JOB, State.FAILED, Reason.BY_TASK, "failbetter.Fail", " not an image\n")
    assert failed == f"not an image (job {JOB})"
    discarded = public_reason(
        JOB, State.DISCARDED, Reason.BY_TASK, "failbetter.Discard", "already there"
    )
    assert discarded == f"already there (job {JOB})"


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        (State.FAILED, "failbetter.Fail", "It cannot be done."),
        (State.DISCARDED, "failbetter.Discard", "There was nothing to do."),
    ],
)
@pytest.mark.parametrize("message", ["", " \n", None])
def test_who_says_nothing(state: State, kind: str, said: str, message: str | None) -> None:
    assert public_reason(JOB, state, Reason.BY_TASK, kind, message) == f"{said} (job {JOB})"


def test_an_exception_that_discards_says_nothing() -> None:
    """C5: `discard_on` ends a job by the task, too, but its message was not meant for users."""
    said = public_reason(JOB, State.DISCARDED, Reason.BY_TASK, "shop.Gone", "row 5 of secrets")
    assert said == f"There was nothing to do. (job {JOB})"


def test_what_was_said_earlier_is_not_said_of_another_end() -> None:
    said = public_reason(JOB, State.DISCARDED, Reason.BY_OPERATOR, "failbetter.Fail", "no image")
    assert said == f"It was put aside. (job {JOB})"


@pytest.mark.parametrize("length", [1, 179, 180, 181, 5_000])
def test_it_is_cut_so_that_the_id_stays(length: int) -> None:
    said = public_reason(JOB, State.FAILED, Reason.BY_TASK, "failbetter.Fail", "é" * length)
    assert said is not None
    assert len(said) <= LONGEST
    assert said.endswith(f"(job {JOB})")
    assert ("…" in said) is (length > LONGEST - len(f" (job {JOB})"))
