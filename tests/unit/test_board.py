"""The board: begun bodies, seen by another process and after the writer's death."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter import board
from failbetter.board import RING, Ring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    board.create(tmp_path / "board", children=3)
    return tmp_path / "board"


def test_empty(path: Path) -> None:
    assert Ring(path, 0).news() == []
    assert board.begun(path) == set()


def test_what_a_child_notes_its_supervisor_reads(path: Path) -> None:
    child, supervisor = Ring(path, 1), Ring(path, 1)
    child.begin(10, 1, 111)
    child.begin(11, 1, 112)
    assert supervisor.news() == [(10, 1, 111), (11, 1, 112)]
    assert supervisor.news() == []
    child.begin(10, 3, 113)
    assert supervisor.news() == [(10, 3, 113)]


def test_children_do_not_see_each_other(path: Path) -> None:
    first, last = Ring(path, 0), Ring(path, 2)
    first.begin(1, 1, 1)
    last.begin(2, 2, 2)
    assert Ring(path, 1).news() == []
    assert board.begun(path) == {(1, 1), (2, 2)}


def test_it_outlives_its_writer(path: Path) -> None:
    child = Ring(path, 0)
    child.begin(5, 7, 1)
    child.close()
    assert board.begun(path) == {(5, 7)}


def test_a_new_child_goes_on_where_the_dead_one_stopped(path: Path) -> None:
    supervisor = Ring(path, 0)
    Ring(path, 0).begin(1, 1, 1)
    Ring(path, 0).begin(2, 1, 2)
    assert supervisor.news() == [(1, 1, 1), (2, 1, 2)]


def test_it_wraps_around(path: Path) -> None:
    child, supervisor = Ring(path, 1), Ring(path, 1)
    for number in range(RING - 1):
        child.begin(number, 1, number)
    assert len(supervisor.news()) == RING - 1
    for number in range(RING - 1, RING + 10):
        child.begin(number, 1, number)
    assert supervisor.news() == [(n, 1, n) for n in range(RING - 1, RING + 10)]
    assert board.begun(path) == {(n, 1) for n in range(10, RING + 10)}


def test_a_reader_that_slept_too_long_gets_the_newest(path: Path) -> None:
    child, supervisor = Ring(path, 0), Ring(path, 0)
    for number in range(2 * RING + 5):
        child.begin(number, 1, 0)
    assert supervisor.news() == [(n, 1, 0) for n in range(RING + 5, 2 * RING + 5)]


@given(st.lists(st.integers(0, 400), max_size=12))
def test_reading_in_any_rhythm_loses_nothing(steps: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board"
        board.create(path, children=1)
        child, supervisor = Ring(path, 0), Ring(path, 0)
        written = 0
        for step in steps:
            for number in range(written, written + step):
                child.begin(number, 2, number)
            assert supervisor.news() == [(n, 2, n) for n in range(written, written + step)]
            written += step
        child.close()
        supervisor.close()


def test_no_board_is_not_an_empty_board(tmp_path: Path) -> None:
    assert board.begun(tmp_path / "none") is None


def test_a_board_is_made_once(path: Path) -> None:
    with pytest.raises(FileExistsError):
        board.create(path, children=1)
