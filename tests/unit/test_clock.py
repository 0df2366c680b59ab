"""The server's time, told by this host: whatever happens to this host's own."""

from __future__ import annotations

import pytest

from failbetter.ledger.kinds import clock
from failbetter.ledger.kinds.clock import Clock

HOUR = 3_600_000_000


class Host:
    """This host's two clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_000 * HOUR
        self.steady = 5 * HOUR
        monkeypatch.setattr(clock.time, "time_ns", lambda: self.wall * 1000)
        monkeypatch.setattr(clock.time, "clock_gettime_ns", lambda _: self.steady * 1000)

    def pass_(self, micros: int) -> None:
        """Let time pass."""
        self.wall += micros
        self.steady += micros


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_until_they_are_compared_it_is_this_hosts(host: Host) -> None:
    clock = Clock()
    assert not clock.is_set
    assert clock.now() == host.wall


@pytest.mark.parametrize("off", [-HOUR, 0, HOUR])
def test_a_host_whose_clock_is_wrong(host: Host, off: int) -> None:
    clock = Clock()
    clock.compare(lambda: host.wall + off)
    assert clock.is_set
    assert clock.now() == host.wall + off
    host.steady += 7
    assert clock.now() == host.wall + off + 7


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_clock_that_is_set_meanwhile_moves_nothing(host: Host, jump: int) -> None:
    clock = Clock()
    clock.compare(lambda: host.wall)
    before = clock.now()
    host.wall += jump
    host.steady += 1
    assert clock.now() == before + 1


@pytest.mark.parametrize(
    ("ways", "off"),
    [
        ([(0, 0)], 0),
        ([(1_000, 1_000)], 0),
        ([(0, 2_000)], 1_000),
        ([(2_000, 0)], -1_000),
        ([(50_000, 10_000), (500, 500)], 0),
        ([(50_000, 10_000), (6_000, 2_000), (10_000, 10_000)], -2_000),
        ([(8_000, 0), (0, 10_000), (10_000, 0)], -4_000),
    ],
)
def test_what_an_answer_takes_is_heeded(host: Host, ways: list[tuple[int, int]], off: int) -> None:
    """There and back it takes so long, each time it is asked; slow answers are asked for again."""
    clock, asked = Clock(), []

    def ask() -> int:
        there, back = ways[len(asked)]
        host.pass_(there)
        said = host.wall
        asked.append(said)
        host.pass_(back)
        return said

    clock.compare(ask)
    assert len(asked) == len(ways)
    assert host.wall - clock.now() == off


def test_compared_anew_once_a_minute(host: Host) -> None:
    clock = Clock()
    assert clock.is_old
    clock.compare(lambda: host.wall)
    assert not clock.is_old
    host.steady += 61_000_000
    assert clock.is_old
    clock.compare(lambda: host.wall + 61_000_000)
    assert not clock.is_old
