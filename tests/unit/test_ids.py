"""Job ids: increasing, short as text, never shared between processes."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.processes import in_fork

from failbetter import ids

numbers = st.integers(0, (1 << 63) - 1)


@given(numbers)
def test_text_and_back(number: int) -> None:
    text = ids.to_text(number)
    assert len(text) == 13
    assert ids.from_text(text) == number
    assert ids.from_text(f"  {text.upper()}\n") == number


@given(numbers, numbers)
def test_text_sorts_as_numbers_do(one: int, other: int) -> None:
    assert (one < other) == (ids.to_text(one) < ids.to_text(other))


@given(st.text())
def test_other_text_is_no_id(text: str) -> None:
    try:
        number = ids.from_text(text)
    except ValueError:
        return
    assert ids.to_text(number) == text.strip().lower()


@pytest.mark.parametrize("bad", ["", "short", "0" * 12, "0" * 14, "o" * 13, "z" * 13, "ß" * 13])
def test_no_id(bad: str) -> None:
    with pytest.raises(ValueError, match="no job id"):
        ids.from_text(bad)


def test_each_id_is_larger_than_the_one_before() -> None:
    source = ids.IdSource()
    taken = [source.take() for _ in range(20_000)]
    assert taken == sorted(set(taken))
    assert taken[0] > 0
    assert taken[-1] < 1 << 63


def test_a_block_is_reserved_whole() -> None:
    source = ids.IdSource()
    first = source.take(10_000_000)  # more than one millisecond holds
    assert source.take() >= first + 10_000_000


def test_a_clock_that_jumps_back_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ids.IdSource()
    first = source.take()
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)
    assert source.take() > first


def test_ids_tell_the_time() -> None:
    before = ids.IdSource().take()
    time.sleep(0.003)
    assert ids.IdSource().take() > before


def test_threads_share_a_source() -> None:
    source = ids.IdSource()
    taken: list[int] = []

    def work() -> None:
        own = [source.take() for _ in range(2_000)]
        assert own == sorted(own)
        taken.extend(own)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 8_000


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time()
    made = ids.made_at(ids.IdSource().take())
    assert before - 0.001 <= made <= time.time()


def test_a_forked_process_draws_its_own() -> None:
    """Even in the same millisecond: it must not count on from its parent's last id."""
    mine = ids.take()
    ids._source._last = mine + (1 << 40)  # as if the parent were far ahead
    try:
        theirs = int(in_fork(ids.take))
    finally:
        ids._source._last = mine
    assert theirs < mine + (1 << 40)
