"""Progress in the ledger: items, lists, cursors. Fenced, and what is told twice counts once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.kit import NOW, Ledger

from failbetter.ledger import progress
from failbetter.ledger.claims import Claimed
from failbetter.ledger.progress import FailedItem, Vanished
from failbetter.lifecycle.states import Cause

Failed = tuple[str, str, str]


class Attempt:
    """One attempt of a job, as its supervisor writes for it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.job: Claimed = ledger.claim_one()

    def _do(self, function: Any, *given: Any) -> Any:
        with self.ledger.database.write() as tx:
            return function(tx, self.job.id, self.job.fence, self.job.worker, *given)

    def start(self, total: int | None = None, series: str = "l") -> tuple[int, int] | None:
        return self._do(progress.start, series, total, NOW)  # type: ignore[no-any-return]

    def advance(
        self,
        finished: list[str] | None = None,
        failed: list[Failed] | None = None,
        ask: list[str] | None = None,
        series: str = "l",
    ) -> set[str] | None:
        given = (series, finished or [], failed or [], ask or [], NOW)
        return self._do(progress.advance, *given)  # type: ignore[no-any-return]

    def close(self, series: str = "l") -> Vanished | None:
        return self._do(progress.close, series, NOW)  # type: ignore[no-any-return]

    def count(self, done: int, total: int | None = None) -> bool:
        return self._do(progress.count, done, total, NOW)  # type: ignore[no-any-return]

    def save_cursor(self, cursor: str) -> bool:
        return self._do(progress.save_cursor, cursor, NOW)  # type: ignore[no-any-return]

    def lose(self) -> Attempt:
        """The attempt is lost; the next one."""
        self.ledger.end(self.job, Cause.LOST)
        return Attempt(self.ledger)

    def seen(self, series: str = "l") -> tuple[int, int, int, int | None]:
        """Done, failed, vanished and total."""
        found = progress.series_of(self.ledger.database, self.job.id)
        (one,) = (one for one in found if one.series == series)
        return one.done, one.failed, one.vanished, one.total

    def failures(self) -> list[FailedItem]:
        return progress.failed_items(self.ledger.database, self.job.id, 100)


@pytest.fixture
def attempt(worked: Ledger) -> Attempt:
    worked.add()
    return Attempt(worked)


def test_a_list_from_its_beginning(attempt: Attempt) -> None:
    assert attempt.start(3) == (0, 0)
    assert attempt.advance(ask=["a"]) == set()
    assert attempt.advance(["a"], ask=["b"]) == set()
    assert attempt.advance(["b"], ask=["a"]) == {"a"}
    assert attempt.seen() == (2, 0, 0, 3)
    assert attempt.close() == Vanished(0, [])


def test_a_later_attempt_knows_what_is_finished(attempt: Attempt) -> None:
    attempt.start(4)
    attempt.advance(["a", "b", "c"])
    later = attempt.lose()
    assert later.start(4) == (3, 0)
    assert later.advance(ask=["a", "b", "c", "d"]) == {"a", "b", "c"}
    later.advance(["d"])
    assert later.seen() == (4, 0, 0, 4)


def test_what_is_told_twice_counts_once(attempt: Attempt) -> None:
    """A commit that was not heard of is told again."""
    attempt.start()
    for _ in range(2):
        attempt.advance(["a", "b", "c", "d", "e"], [("x", "E", "no")])
    assert attempt.seen() == (5, 1, 0, None)


def test_failed_items(attempt: Attempt) -> None:
    attempt.start()
    attempt.advance([], [("x", "ValueError", "no"), ("y", "KeyError", "neither")])
    assert attempt.seen() == (0, 2, 0, None)
    assert [(one.key, one.error_type, one.error_message) for one in attempt.failures()] == [
        ("x", "ValueError", "no"),
        ("y", "KeyError", "neither"),
    ]
    later = attempt.lose()
    assert later.start() == (0, 2)
    assert later.advance(ask=["x", "y"]) == set()
    later.advance(["x"], [("y", "OSError", "again")])
    assert later.seen() == (1, 1, 0, None)
    assert [(one.key, one.error_type) for one in later.failures()] == [("y", "OSError")]


def test_what_has_finished_fails_no_more(attempt: Attempt) -> None:
    attempt.start()
    attempt.advance(["x"])
    attempt.advance([], [("x", "E", "a duplicate")])
    assert attempt.seen() == (1, 0, 0, None)
    assert attempt.failures() == []


def test_items_that_have_vanished(attempt: Attempt) -> None:
    """B8: they are reported, and a failure of what is no more is no failure."""
    attempt.start(4)
    attempt.advance(["a", "b"], [("x", "E", "no")])
    later = attempt.lose()
    later.start(2)
    assert later.advance(ask=["b", "c"]) == {"b"}
    later.advance(["c"])
    assert later.close() == Vanished(2, ["a", "x"])
    assert later.seen() == (3, 0, 2, 2)
    assert later.failures() == []
    again = later.lose()
    again.start(4)
    assert again.advance(ask=["a", "b", "c", "x"]) == {"a", "b", "c"}
    again.advance(["x"])
    assert again.close() == Vanished(0, [])
    assert again.seen() == (4, 0, 0, 4)


def test_lists_and_jobs_do_not_mix(worked: Ledger) -> None:
    worked.add()
    worked.add()
    one, other = Attempt(worked), Attempt(worked)
    for attempt in (one, other):
        attempt.start()
        attempt.start(series="m")
    one.advance(["a"])
    assert one.advance(ask=["a"], series="m") == set()
    assert other.advance(ask=["a"]) == set()
    assert other.seen() == one.seen("m") == (0, 0, 0, None)


def test_a_lost_attempt_writes_nothing(attempt: Attempt) -> None:
    """Promise 3: and it is told so."""
    attempt.start()
    later = attempt.lose()
    later.start()
    assert attempt.start() is None
    assert attempt.advance(["a"], [("x", "E", "no")], ["a"]) is None
    assert attempt.close() is None
    assert not attempt.count(5)
    assert not attempt.save_cursor("5")
    assert later.seen() == (0, 0, 0, None)
    assert later.advance(ask=["a"]) == set()


def test_a_count_never_goes_back(attempt: Attempt) -> None:
    assert attempt.count(5, 10)
    assert attempt.count(3, 10)
    assert attempt.seen("") == (5, 0, 0, 10)
    later = attempt.lose()
    later.count(1, 10)
    assert later.seen("") == (5, 0, 0, 10)
    later.count(6, 12)
    assert later.seen("") == (6, 0, 0, 12)


def test_a_cursor_is_kept(attempt: Attempt) -> None:
    def cursor() -> str | None:
        with attempt.ledger.database.look() as tx:
            return progress.cursor(tx, attempt.job.id)

    assert cursor() is None
    attempt.count(1)
    attempt.save_cursor('{"page":1}')
    later = attempt.lose()
    assert cursor() == '{"page":1}'
    later.save_cursor("2")
    assert cursor() == "2"


AWKWARD = [
    "",
    "a'b",
    'a"b',
    "a\\b",
    "a,b{}",
    "ü\u2028\U0001f4a5",
    "NULL",
    "%s :x ?",
    "\t\n",
    "x" * 190,
]


def test_awkward_keys(attempt: Attempt) -> None:
    attempt.start()
    attempt.advance(AWKWARD[:5])
    for key in AWKWARD[5:]:
        attempt.advance([key])
    assert attempt.advance(ask=[*AWKWARD, "other"]) == set(AWKWARD)
    later = attempt.lose()
    later.start()
    assert later.advance(ask=AWKWARD) == set(AWKWARD)
    assert later.close() == Vanished(0, [])


def test_a_long_list(attempt: Attempt) -> None:
    """Many rows, none of them long."""
    attempt.start(20_000)
    keys = [f"item-{n}" for n in range(20_000)]
    for first in range(0, len(keys), 5_000):
        attempt.advance(keys[first : first + 5_000])
    later = attempt.lose()
    assert later.start(20_000) == (20_000, 0)
    assert later.advance(ask=keys[:1_000]) == set(keys[:1_000])
    vanished = later.close()
    assert vanished is not None
    assert vanished.count == 19_000
    assert len(vanished.keys) == 10
