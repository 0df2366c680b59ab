"""The server's time, told by this host: whatever happens to this host's own."""

from __future__ import annotations

import pytest

from failbetter.ledger.kinds.postgres import clock
from failbetter.ledger.kinds.postgres.clock import Clock

HOUR = 3_600_000_000


class Host:
    """This host's two clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_000 * HOUR
        self.steady = 5 * HOUR
        monkeypatch.setattr(clock.time, "time_ns", lambda: self.wall * 1000)
        monkeypatch.setattr(clock.time, "clock_gettime_ns", lambda _: self.steady * 1000)


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
    clock.set(host.wall + off)
    assert clock.is_set
    assert clock.now() == host.wall + off
    host.steady += 7
    assert clock.now() == host.wall + off + 7


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_clock_that_is_set_meanwhile_moves_nothing(host: Host, jump: int) -> None:
    clock = Clock()
    clock.set(host.wall)
    before = clock.now()
    host.wall += jump
    host.steady += 1
    assert clock.now() == before + 1


def test_compared_anew_once_a_minute(host: Host) -> None:
    clock = Clock()
    assert clock.is_old
    clock.set(host.wall)
    assert not clock.is_old
    host.steady += 61_000_000
    assert clock.is_old
    clock.set(host.wall + 61_000_000)
    assert not clock.is_old
