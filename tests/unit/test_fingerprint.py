"""Fingerprints: pure, stable over what changes from job to job, apart for different causes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from failbetter import Failure, Frame, fingerprint

OWN = Frame(file="/app/shop/orders.py", function="charge", line=10, code="pay()", module="orders")
LIBRARY = Frame(
    file="/venv/lib/python3.11/site-packages/http/client.py", function="request", line=99
)


def of(**changes: object) -> str:
    given = {"task": "t", "error_type": "ValueError", "frames": [OWN, LIBRARY], **changes}
    return fingerprint(Failure(**given))  # type: ignore[arg-type]


def test_its_form() -> None:
    assert re.fullmatch(r"1-[0-9a-f]{16}", of())


def test_a_known_value() -> None:
    """Stored in ledgers: it may change only together with the version."""
    assert of() == "1-46784abacb7a6611"


@given(st.text(), st.integers(0, 10**6), st.text(max_size=20), st.text(max_size=20))
def test_what_changes_from_job_to_job_takes_no_part(
    message: str, line: int, code: str, folder: str
) -> None:
    frame = Frame(
        file=f"/srv/{folder}/orders.py", function="charge", line=line, code=code, module="orders"
    )
    moved = of(message=message, frames=[frame, LIBRARY])
    if frame.is_own:
        assert moved == of()


def test_the_task_counts() -> None:
    assert of(task="u") != of()


def test_the_type_counts() -> None:
    assert of(error_type="KeyError") != of()


def test_the_innermost_own_function_counts() -> None:
    other = Frame(file="/app/shop/orders.py", function="refund", module="orders")
    assert of(frames=[other, LIBRARY]) != of()
    assert of(frames=[OWN, other, LIBRARY]) == of(frames=[other])


def test_libraries_do_not_count() -> None:
    assert of(frames=[OWN]) == of(frames=[OWN, LIBRARY, LIBRARY])


def test_no_frames_at_all() -> None:
    assert of(frames=[]) == of(frames=[LIBRARY])
    assert of(frames=[]) != of()


def test_fields_do_not_run_into_each_other() -> None:
    assert of(task="ab", error_type="c") != of(task="a", error_type="bc")
