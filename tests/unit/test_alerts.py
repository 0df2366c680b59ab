"""How alerts are declared and told (A13): by callables, and to addresses that nobody else sees."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from failbetter import App, ConfigurationError, Fail, alerts
from failbetter.alerts import Depth, FailureRate, GrowingGroup, NewGroup, Notice, OldestWaiting
from failbetter.worker.wire import Hello, encode

# Of apprise's own imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NOTICE = Notice(
    alert="it", title="it", text="so it is", recovered=False, at=datetime(2026, 5, 1, tzinfo=UTC)
)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path / 'never-made.db'}")


class Receiver:
    """A real HTTP server that keeps what it is sent; `status` is its answer."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, json.loads(text)))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def tell(app: App, notice: Notice = NOTICE) -> None:
    """As a worker does."""
    app.tasks[alerts.TELL](notice)


def test_it_is_sent_to_an_address(app: App, receiver: Receiver) -> None:
    """A13: through apprise, as a real server sees it."""
    app.alert("it", when=NewGroup(), to=f"json://127.0.0.1:{receiver.port}/hunter2")
    tell(app)
    tell(app, msgspec.structs.replace(NOTICE, title="recovered: it", recovered=True))
    (path, first), (_, second) = receiver.got
    assert path.startswith("/hunter2")
    assert (first["title"], first["message"], first["type"]) == ("it", "so it is", "warning")
    assert (second["title"], second["type"]) == ("recovered: it", "success")


def test_who_cannot_be_reached_is_tried_again_and_not_named(
    app: App, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A13: an address is in no error and in no log; others are told all the same."""
    good = f"json://127.0.0.1:{receiver.port}/good"
    receiver.status = 500
    app.alert("it", when=NewGroup(), to=[f"json://user:hunter2@127.0.0.1:1/{'x' * 20}", good])
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectionError) as caught:
        tell(app)
    assert str(caught.value) == "address 1, 2 of 2 of the alert could not be reached"
    assert len(receiver.got) == 1
    assert "hunter2" not in caplog.text
    assert caught.value.__cause__ is None


def test_what_apprise_does_not_know(app: App) -> None:
    app.alert("it", when=NewGroup(), to="nowhere://hunter2")
    with pytest.raises(Fail) as caught:
        tell(app)
    assert str(caught.value) == "address 1 of 1 of the alert is none that apprise knows"


def test_by_a_callable(app: App) -> None:
    heard: list[Notice] = []
    app.alert("it", when=NewGroup(), to=heard.append)
    task = app.tasks[alerts.TELL]
    args, kwargs = task.arguments.decode(task.arguments.encode((NOTICE,), {}))
    task(*args, **kwargs)
    assert heard == [NOTICE]


def test_one_that_is_no_more(app: App) -> None:
    app.alert("other", when=NewGroup(), to=print)
    with pytest.raises(Fail, match="no alert 'it' is in the code"):
        tell(app)


def test_without_the_extra(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, when it is declared; callables need nothing."""
    monkeypatch.setattr(alerts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"the extra `alerts`.*pip install"):
        app.alert("it", when=NewGroup(), to="json://x")
    assert app.alerts == {}
    app.alert("it", when=NewGroup(), to=print)


def test_a_supervisor_hears_of_no_address(app: App) -> None:
    """A13: it needs none to watch."""
    app.alert("it", when=FailureRate(0.2), to="json://hunter2", quiet="2h", queue="ops")
    app.alert("that", when=OldestWaiting("15m", "slow"), to=["json://hunter2"])
    hello = Hello("u", 1.0, True, None, None, "c", [alerts.TELL], alerts=app.watched)
    text = encode(hello)
    assert b"hunter2" not in text
    assert "hunter2" not in repr(app.alerts)
    assert msgspec.json.decode(text, type=Hello) == hello
    first, second = app.watched
    assert (first.over, first.within, first.at_least, first.quiet, first.told_on) == (
        (0.2, 600.0, 20, 7200.0, "ops")
    )
    assert (second.over, second.queue, second.told_on) == (900.0, "slow", "default")


def test_its_jobs_are_no_events(app: App) -> None:
    app.alert("it", when=NewGroup(), to=print)
    assert app.tasks[alerts.TELL].options.policy.silent


@pytest.mark.parametrize(
    "rule",
    [
        FailureRate(1.0), FailureRate(-0.1), FailureRate(0.1, at_least=0), FailureRate(0.1, "0s"),
        FailureRate(float("nan")), OldestWaiting("soon"), OldestWaiting(-1), Depth(-1),
        GrowingGroup(0), GrowingGroup(5, within=0),
    ],
)  # fmt: skip
def test_rules_that_cannot_be(app: App, rule: alerts.Rule) -> None:
    with pytest.raises(ValueError):
        app.alert("it", when=rule, to=print)
    assert app.alerts == {}


@pytest.mark.parametrize("name", ["", " ", "x" * 191])
def test_names_that_cannot_be(app: App, name: str) -> None:
    with pytest.raises(ValueError, match="an alert's name"):
        app.alert(name, when=NewGroup(), to=print)


@pytest.mark.parametrize("to", [[], "", "hunter2", ["hunter2"], [5], 5])
def test_what_is_no_address_is_not_repeated(app: App, to: Any) -> None:
    with pytest.raises(TypeError, match="to= is an address") as caught:
        app.alert("it", when=NewGroup(), to=to)
    assert "hunter2" not in str(caught.value)


def test_what_is_no_rule(app: App) -> None:
    with pytest.raises(TypeError, match="when= is a rule"):
        app.alert("it", when="often", to=print)  # type: ignore[arg-type]
