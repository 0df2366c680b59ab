"""A worker's word of itself: what its loop says, and its port when the loop says nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from failbetter.worker import status
from failbetter.worker.endpoint import Endpoint
from failbetter.worker.settings import Settings
from failbetter.worker.status import Pulse, Status


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint("127.0.0.1", 0, Pulse())
    yield made
    made.close()


def get(endpoint: Endpoint, path: str, method: str = "GET") -> requests.Response:
    return requests.request(method, f"http://127.0.0.1:{endpoint.port}{path}", timeout=30)


def turn(pulse: Pulse, ago: float = 0.0, not_ready: str | None = None) -> None:
    pulse.turn(time.monotonic() - ago, not_ready, working=True)


def test_a_loop_that_does_not_come_round_is_not_alive() -> None:
    pulse = Pulse()
    assert pulse.not_alive() is None
    assert "being loaded" in str(pulse.not_ready())
    turn(pulse)
    assert (pulse.not_alive(), pulse.not_ready()) == (None, None)
    turn(pulse, ago=20.0)
    assert pulse.not_alive() is None
    turn(pulse, ago=32.0)
    assert "has not come round for 32 s" in str(pulse.not_alive())
    assert pulse.not_ready() == pulse.not_alive()


def test_loading_an_app_may_take_longer() -> None:
    pulse = Pulse()
    pulse.turn(time.monotonic() - 50, "loading", working=False)
    assert pulse.not_alive() is None
    pulse.turn(time.monotonic() - 61, "loading", working=False)
    assert pulse.not_alive() is not None


def test_a_hanging_loop_is_told_by_its_port(endpoint: Endpoint) -> None:
    pulse: Any = endpoint.process
    turn(pulse)
    assert get(endpoint, "/livez").status_code == 200
    turn(pulse, ago=60.0)
    assert get(endpoint, "/livez").status_code == 503


def test_without_a_ledger_it_lives_and_is_not_ready(endpoint: Endpoint) -> None:
    assert get(endpoint, "/livez?x=1").status_code == 200
    for path in ("/readyz", "/health"):
        found = get(endpoint, path)
        assert found.status_code == 503
        assert "not known yet" in found.text
    assert get(endpoint, "/nope").status_code == 404
    assert get(endpoint, "/livez", "PATCH").status_code == 405
    assert get(endpoint, "/livez", "HEAD").text == ""


def test_a_defect_is_logged_and_answered(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.process = None  # type: ignore[assignment]
    assert get(endpoint, "/livez").status_code == 500
    assert "/livez could not be answered" in caplog.text


def test_who_connects_and_says_nothing_keeps_nobody_waiting(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port)) as silent:
        silent.send(b"GET /livez HT")
        assert get(endpoint, "/livez").status_code == 200


class Manager:
    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *said: self.told.append(name if name != "alive" else "")


def test_the_service_manager_is_told_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager()
    monkeypatch.setattr(status, "Notifier", lambda: manager)
    made = Status(Settings(app="shop:app"))
    made.open()
    made.starting()
    for registered, children, stopping in (
        (True, False, False),
        (True, True, False),
        (True, True, False),
        (False, True, False),
        (True, True, False),
        (True, True, True),
        (True, False, True),
    ):
        made.turn(1.0, registered=registered, children=children, stopping=stopping)
    told = [word for word in manager.told if word]
    assert told == ["status", "ready", "status", "ready", "stopping"]
    assert len(manager.told) - len(told) == 7
