"""A look at a ledger that takes its time: who asks is answered all the same."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from failbetter.errors import LedgerUnavailable
from failbetter.health import looker
from failbetter.health.looker import TOO_LATE, Looker


class Slow:
    """Stands for a database: looks wait for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.looks = 0
        self.error: Exception | None = None

    def let_go_of_reads(self) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()

    def look(database: Slow) -> Any:
        database.looks += 1
        database.gate.wait(30)
        if database.error is not None:
            raise database.error
        return "figures"

    monkeypatch.setattr(looker, "look", look)
    return made


def test_a_ledger_that_hangs_is_given_up_in_time_and_holds_one_thread(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looker, "PATIENCE", 0.05)
    asked = Looker(slow)  # type: ignore[arg-type]
    began = time.monotonic()
    assert [asked.see() for _ in range(20)] == [TOO_LATE] * 20
    # Only the first had to wait: the others were told at once what is known by then.
    assert time.monotonic() - began < 20 * 0.05
    assert slow.looks == 1
    first = asked._current
    assert first is not None
    slow.gate.set()
    assert first[0].result(30).figures == "figures"
    assert asked.see().figures == "figures"
    assert slow.looks == 2


def test_those_who_ask_at_once_share_a_look(slow: Slow) -> None:
    asked = Looker(slow)  # type: ignore[arg-type]
    futures = [asked.begin() for _ in range(10)]
    slow.gate.set()
    assert {future.result(30).figures for future in futures} == {"figures"}
    assert slow.looks == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (LedgerUnavailable("no such host"), "no such host"),
        (ValueError("secret"), "the ledger could not be looked at: ValueError"),
    ],
)
def test_what_goes_wrong_is_said(slow: Slow, error: Exception, why: str) -> None:
    slow.error = error
    slow.gate.set()
    seen = Looker(slow).see()  # type: ignore[arg-type]
    assert (seen.figures, seen.why) == (None, why)
