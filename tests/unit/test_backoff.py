"""How long to wait: the kinds of backoff, their caps, their jitter."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter import Backoff, exponential, fixed, linear
from failbetter.lifecycle.backoff import coerce, listed


def ceilings(backoff: Backoff, count: int = 6) -> list[float]:
    return [backoff.ceiling(attempt) for attempt in range(1, count + 1)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (fixed(7), [7, 7, 7, 7, 7, 7]),
        (fixed("2m"), [120] * 6),
        (linear(5), [5, 10, 15, 20, 25, 30]),
        (linear(5, cap=12), [5, 10, 12, 12, 12, 12]),
        (exponential(5), [5, 10, 20, 40, 80, 160]),
        (exponential(5, cap=60), [5, 10, 20, 40, 60, 60]),
        (exponential(1, factor=3, cap="1m"), [1, 3, 9, 27, 60, 60]),
        (exponential(timedelta(seconds=2), factor=1), [2] * 6),
        (listed([1, "1m", timedelta(hours=1)]), [1, 60, 3600, 3600, 3600, 3600]),
    ],
)
def test_ceilings(backoff: Backoff, expected: list[float]) -> None:
    assert ceilings(backoff) == expected


def test_what_is_written_out_is_waited_as_written() -> None:
    rng = random.Random(1)
    assert [coerce([1, "2s", 3]).delay(n, rng) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert coerce("90s").delay(5, rng) == 90
    assert coerce(timedelta(minutes=1)).delay(1, rng) == 60
    assert coerce((4,)).delay(9, rng) == 4


def test_a_backoff_is_taken_as_it_is() -> None:
    backoff = exponential(3)
    assert coerce(backoff) is backoff


@pytest.mark.parametrize("bad", [object(), {"a": 1}, True, None])
def test_what_is_no_backoff_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError):
        coerce(bad)


@pytest.mark.parametrize("bad", [[], (), -1, "soon", float("nan"), float("inf"), [1, -1]])
def test_what_cannot_be_waited_is_a_value_error(bad: Any) -> None:
    with pytest.raises(ValueError):
        coerce(bad)


@pytest.mark.parametrize("factor", [0.5, 0, -2, 101, float("nan")])
def test_a_factor_that_makes_no_sense(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        exponential(5, factor=factor)


def test_jitter_is_the_default_of_the_named_kinds_and_can_be_switched_off() -> None:
    for make in (fixed, linear, exponential):
        assert make(5).jitter
        assert not make(5, jitter=False).jitter


def test_full_jitter_spreads_evenly() -> None:
    rng = random.Random(20)
    waits = [fixed(10).delay(1, rng) for _ in range(4_000)]
    assert min(waits) < 0.1
    assert max(waits) > 9.9
    assert 4.8 < sum(waits) / len(waits) < 5.2


backoffs = st.one_of(
    st.builds(fixed, st.floats(0, 1e6), jitter=st.booleans()),
    st.builds(linear, st.floats(0, 1e6), cap=st.none() | st.floats(0, 1e6), jitter=st.booleans()),
    st.builds(
        exponential,
        st.floats(0, 1e6),
        cap=st.none() | st.floats(0, 1e6),
        factor=st.floats(1, 100),
        jitter=st.booleans(),
    ),
    st.builds(listed, st.lists(st.floats(0, 1e6), min_size=1), jitter=st.booleans()),
)


@given(backoffs, st.integers(1, 10_000), st.randoms())
def test_a_wait_is_between_nothing_and_its_ceiling(
    backoff: Backoff, attempt: int, rng: random.Random
) -> None:
    ceiling = backoff.ceiling(attempt)
    delay = backoff.delay(attempt, rng)
    assert 0 <= delay <= ceiling
    if not backoff.jitter:
        assert delay == ceiling
    if backoff.cap is not None:
        assert ceiling <= backoff.cap


@given(backoffs.filter(lambda backoff: backoff.kind != "list"), st.integers(1, 500))
def test_ceilings_never_fall(backoff: Backoff, attempt: int) -> None:
    assert backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1)


@given(backoffs, st.integers(-3, 0), st.randoms())
def test_an_attempt_before_the_first_counts_as_the_first(
    backoff: Backoff, attempt: int, rng: random.Random
) -> None:
    assert 0 <= backoff.delay(attempt, rng) <= backoff.ceiling(1)
