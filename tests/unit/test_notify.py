"""What a service manager is told, on a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from failbetter.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), "PATH": "x", **more}


def test_the_words(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    notifier.ready("at work")
    notifier.status("a line")
    notifier.stopping("at its end")
    assert heard(manager) == [
        "READY=1\nSTATUS=at work",
        "STATUS=a line",
        "STOPPING=1\nSTATUS=at its end",
    ]


def test_signs_of_life_come_at_half_of_what_is_allowed(manager: socket.socket) -> None:
    given = environment(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    notifier = Notifier(given)
    assert notifier.interval == 1.5
    for now in (100.0, 100.1, 101.4, 101.5, 102.9, 103.0):
        notifier.alive(now)
    assert heard(manager) == ["WATCHDOG=1"] * 3
    assert given == {"PATH": "x"}  # nothing of it is left for child processes


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},  # meant for another process
    ],
)
def test_no_signs_of_life_where_none_are_wanted(
    manager: socket.socket, more: dict[str, str]
) -> None:
    notifier = Notifier(environment(manager, **more))
    notifier.alive(100.0)
    assert heard(manager) == []


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0failbetter-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@failbetter-test-{os.getpid()}"}).status("here")
        assert listening.recv(100) == b"STATUS=here"


def test_a_manager_that_is_not_there_stops_nobody(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("x")
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 300}).ready("x")
    Notifier({}).ready("x")
