"""Rate limits: what a user may say, and that no window holds more bodies than it may. A16."""

from __future__ import annotations

import bisect
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import failbetter
from failbetter import RateLimit
from failbetter.lifecycle import limits
from failbetter.lifecycle.limits import Log, Rate
from failbetter.lifecycle.policy import Limiting, from_json

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
TEN = Rate(10, SECOND)


# -- what may be said


def test_what_the_rows_keep() -> None:
    assert RateLimit(10, per=1).policy("mail") == Limiting("mail", 10, 1.0)
    assert RateLimit(3, "1m", name="mailer").policy("mail") == Limiting("mailer", 3, 60.0)
    assert RateLimit(1, dt.timedelta(hours=1)).policy("mail").per == 3600


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_counts_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        RateLimit(count, 1)


@pytest.mark.parametrize("count", [True, 1.5, "10", None])
def test_counts_that_are_none(count: Any) -> None:
    with pytest.raises(TypeError, match="count"):
        RateLimit(count, 1)


@pytest.mark.parametrize("per", [0, 0.001, -1, "400d", "soon", float("nan")])
def test_times_that_cannot_be(per: Any) -> None:
    with pytest.raises(ValueError, match=r"per|duration"):
        RateLimit(1, per)


def test_names_that_cannot_be() -> None:
    for name in ("", "  ", "x" * 101):
        with pytest.raises(ValueError, match="name"):
            RateLimit(1, 1, name=name)
    with pytest.raises(TypeError, match="name"):
        RateLimit(1, 1, name=3)  # type: ignore[arg-type]


def test_the_option_takes_nothing_else() -> None:
    app = failbetter.App("sqlite:///unused.db")
    with pytest.raises(TypeError, match=r"failbetter\.RateLimit"):

        @app.task(rate_limit=10)  # type: ignore[call-overload]
        def send() -> None: ...


def test_it_goes_into_the_policy() -> None:
    app = failbetter.App("sqlite:///unused.db")

    @app.task(rate_limit=RateLimit(10, per=1))
    def send() -> None: ...

    assert from_json(send.options.policy.to_json()).rate_limit == Limiting("send", 10, 1.0)


# -- permits


def test_a_burst_is_allowed_and_then_none() -> None:
    log, term = limits.take(TEN, (), NOW, 10)
    assert NOW < term <= NOW + SECOND // 30
    assert limits.free(TEN, log, NOW) == 0
    at = limits.next_free(TEN, log, NOW)
    assert at == term + SECOND
    assert limits.free(TEN, log, at - 1) == 0
    assert limits.free(TEN, log, at) == 10
    assert limits.next_free(TEN, log, at) == 0


def test_a_lower_count_waits_until_enough_no_longer_count() -> None:
    log, first = limits.take(TEN, (), NOW, 5)
    log, second = limits.take(TEN, log, NOW + SECOND // 2, 5)
    three = Rate(3, SECOND)
    assert limits.free(three, log, NOW + SECOND // 2) == 0
    assert first < second
    assert limits.next_free(three, log, NOW + SECOND // 2) == second + SECOND


def test_what_was_given_back_is_free_again() -> None:
    log, term = limits.take(TEN, (), NOW, 10)
    log = limits.give_back(log, term, 3)
    assert limits.free(TEN, log, NOW) == 3
    assert limits.give_back(log, term + 1) == log
    assert limits.give_back(log, term, 7) == ()


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    log, _ = limits.take(TEN, (), NOW + 3600 * SECOND, 10)
    assert limits.free(TEN, log, NOW) == 10
    assert limits.next_free(TEN, log, NOW) == 0


def test_who_comes_too_late_gets_more_time() -> None:
    terms = [limits.take(TEN, (), NOW, 1, tries)[1] for tries in range(8)]
    assert terms == sorted(terms)
    assert terms[1] < terms[5]
    assert terms[6] == terms[7]


def test_the_log_stays_small() -> None:
    rate = Rate(1_000_000, SECOND)
    log: Log = ()
    for turn in range(10_000):
        log, _ = limits.take(rate, log, NOW + turn * 500, 50)
    assert len(log) <= 105


@pytest.mark.parametrize(("count", "per"), [(10, 1.0), (1, 1.0), (1000, 60.0), (100, 3600.0)])
def test_with_enough_work_almost_all_of_it_is_used(count: int, per: float) -> None:
    """Each permit is given as soon as it may be, by workers that wake 2 ms late."""
    rate = Rate(count, round(per * SECOND))
    log: Log = ()
    now = begun = 0
    while now < 100 * rate.per:
        now = max(limits.next_free(rate, log, now), now) + 2_000
        room = limits.free(rate, log, now)
        log, _ = limits.take(rate, log, now, room)
        begun += room
    assert begun >= 0.95 * 100 * count


pauses = st.integers(0, 300_000)
parts = st.floats(0, 1)
steps = st.lists(st.tuples(pauses, st.integers(1, 5), st.integers(0, 8), parts, parts), max_size=80)


@given(st.integers(1, 7), st.integers(10_000, 400_000), steps)
def test_no_window_holds_more_than_its_count(
    count: int, per: int, steps: list[tuple[int, int, int, float, float]]
) -> None:
    """Bodies begin anywhere within their terms; some never do, and some of those give it back."""
    rate = Rate(count, per)
    log: Log = ()
    now = NOW
    begins: list[int] = []
    for pause, wanted, tries, when, fate in steps:
        now += pause
        given_now = min(limits.free(rate, log, now), wanted)
        if not given_now:
            assert limits.next_free(rate, log, now) > now
            continue
        assert limits.next_free(rate, log, now) == 0
        log, term = limits.take(rate, log, now, given_now, tries)
        if fate < 0.2:
            log = limits.give_back(log, term, given_now)
        elif fate < 0.9:
            begins += [now + round((term - now) * when)] * given_now
    begins.sort()
    for index, begin in enumerate(begins):
        assert bisect.bisect_left(begins, begin + per) - index <= count
