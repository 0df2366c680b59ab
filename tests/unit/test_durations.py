"""Durations and moments as users write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter.durations import micros, moment, seconds, to_datetime


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("250ms", 0.25),
        ("2m", 120),
        ("2h", 7200),
        ("7d", 604800),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 1.5h ", 5400),
        ("1d 2h 3m 4s 5ms", 93784.005),
        (timedelta(hours=1, milliseconds=1), 3600.001),
    ],
)
def test_read(text: Any, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "soon",
        "1y",
        "h",
        "-5s",
        "5s-",
        "1h30",
        "nan",
        "inf",
        "1e400",
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        10**400,
        1e11,
        timedelta(seconds=-1),
        timedelta.max,
        "9" * 500 + "s",
    ],
)
def test_no_duration(bad: Any) -> None:
    with pytest.raises(ValueError):
        seconds(bad)


@pytest.mark.parametrize("bad", [None, True, False, [1], b"5s", object(), 1j])
def test_no_type_for_a_duration(bad: Any) -> None:
    with pytest.raises(TypeError, match="duration"):
        seconds(bad)


@given(st.floats(0, 1e9) | st.integers(0, 10**9))
def test_numbers_are_seconds(value: float) -> None:
    assert seconds(value) == value
    assert seconds(repr(value)) == value


@given(st.text(max_size=12))
def test_text_is_read_or_refused(text: str) -> None:
    try:
        found = seconds(text)
    except ValueError:
        return
    assert 0 <= found < 1e11


def test_a_moment_from_now_or_given() -> None:
    assert moment(60, 1000.0) == 1060
    assert moment("1m", 1000.0) == 1060
    at = datetime(2026, 11, 22, 3, 0, tzinfo=timezone(timedelta(hours=2)))
    assert moment(at, 0.0) == datetime(2026, 11, 22, 1, 0, tzinfo=UTC).timestamp()


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        moment(datetime(2026, 1, 1), 0.0)  # noqa: DTZ001  # that is the point


def test_the_ledgers_unit() -> None:
    assert micros(1.5) == 1_500_000
    assert micros(0.0000004) == 0
    assert to_datetime(None) is None
    assert to_datetime(1_500_000) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


@given(st.integers(0, 4_000_000_000_000_000))
def test_moments_survive_the_way_through_a_datetime(value: int) -> None:
    at = to_datetime(value)
    assert at is not None
    assert micros(at.timestamp()) == value
