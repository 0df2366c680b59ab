"""Turns of writers: one at a time, fairly, with a limit, free when the holder dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.processes import other

from failbetter.ledger.turnstile import Turnstile

BUSY = """
    import sys, time
    from pathlib import Path
    from failbetter.ledger.turnstile import Turnstile
    turnstile = Turnstile(Path(sys.argv[1]))
    print("ready")
    sys.stdin.readline()
    end = time.monotonic() + 1.0
    turns, longest = 0, 0.0
    while (now := time.monotonic()) < end:
        assert turnstile.enter(now + 10)
        longest = max(longest, time.monotonic() - now)
        time.sleep(0.001)
        turnstile.leave()
        turns += 1
    print(turns, longest)
"""
HOLD = """
    import sys, time
    from pathlib import Path
    from failbetter.ledger.turnstile import Turnstile
    turnstile = Turnstile(Path(sys.argv[1]))
    assert turnstile.enter(time.monotonic() + 10)
    print("in")
    sys.stdin.readline()
    turnstile.leave()
    print("out")
    sys.stdin.readline()
"""


@pytest.fixture
def turnstile(tmp_path: Path) -> Iterator[Turnstile]:
    made = Turnstile(tmp_path)
    yield made
    made.close()


def soon() -> float:
    return time.monotonic() + 0.05


def test_one_at_a_time(turnstile: Turnstile, tmp_path: Path) -> None:
    with other(HOLD, tmp_path) as holder:
        assert holder.hear() == "in"
        assert not turnstile.enter(soon())
        holder.tell()
        assert holder.hear() == "out"
        assert turnstile.enter(soon())
        turnstile.leave()


def test_waiting_ends_at_the_deadline(turnstile: Turnstile, tmp_path: Path) -> None:
    with other(HOLD, tmp_path) as holder:
        holder.hear()
        started = time.monotonic()
        assert not turnstile.enter(started + 0.2)
        assert 0.2 <= time.monotonic() - started < 5
        assert not turnstile.enter(started)  # long over


def test_giving_up_leaves_the_way_free(turnstile: Turnstile, tmp_path: Path) -> None:
    third = Turnstile(tmp_path)
    with other(HOLD, tmp_path) as holder:
        holder.hear()
        assert not turnstile.enter(soon())  # waited at `now`, holding `next`
        assert not third.enter(soon())
        holder.tell()
        holder.hear()
        assert third.enter(soon())
        third.leave()
    third.close()


def test_a_dead_holder_holds_nothing(turnstile: Turnstile, tmp_path: Path) -> None:
    with other(HOLD, tmp_path) as holder:
        holder.hear()
        holder.kill()
        assert turnstile.enter(soon())
        turnstile.leave()


def test_two_busy_writers_get_their_share(tmp_path: Path) -> None:
    with other(BUSY, tmp_path) as one, other(BUSY, tmp_path) as two:
        for writer in (one, two):
            assert writer.hear() == "ready"
        for writer in (one, two):
            writer.tell()
        turns, waits = zip(
            *(map(float, writer.hear().split()) for writer in (one, two)), strict=True
        )
    assert sum(turns) > 20
    assert min(turns) > 0.25 * max(turns)
    assert max(waits) < 2
