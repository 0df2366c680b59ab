"""How hooks are declared (A14), what is refused and how that is said. No ledger is opened."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from failbetter import App, Event, Task
from failbetter.lifecycle.policy import from_json
from failbetter.worker.wire import Hello, encode

EVENT = Event(
    id="0sa5yjwn5j896.4.failed",
    kind="failed",
    at=datetime(2026, 5, 1, tzinfo=UTC),
    job="0sa5yjwn5j896",
    task="pay",
    queue="default",
)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path / 'never-made.db'}")


def tell(event: Event) -> str:
    """Tell somebody."""
    return event.id


def test_a_hook_is_an_ordinary_task(app: App) -> None:
    """A14: bare, it may be called, and its argument goes through the ledger as an Event."""
    hook = app.on_failed(tell)
    assert isinstance(hook, Task)
    assert app.tasks == {"tell": hook}
    assert hook(EVENT) == EVENT.id
    stored = hook.arguments.encode((EVENT,), {})
    assert hook.arguments.decode(stored) == ((EVENT,), {})
    (known,) = app.hooks
    assert (known.event, known.task, known.parameter, known.only) == (
        ("failed", "tell", "event", None)
    )
    assert known.means(EVENT)


def test_with_options(app: App) -> None:
    pay = app.task(name="pay")(lambda: None)
    app.on_discarded(
        task=[pay, "ship"], name="x", queue="hooks", priority=4, max_attempts=2, tags=("a",),
        expires_after="1m",
    )(tell)  # fmt: skip
    (known,) = app.hooks
    assert (known.event, known.task, known.queue, known.priority) == ("discarded", "x", "hooks", 4)
    assert (known.only, known.tags, known.expires_after) == (("pay", "ship"), '["a"]', 60_000_000)
    assert from_json(known.policy).max_attempts == 2
    assert not known.means(EVENT)
    assert known.means(msgspec.structs.replace(EVENT, kind="discarded"))
    assert not known.means(msgspec.structs.replace(EVENT, kind="discarded", task="other"))


def test_its_jobs_make_no_events(app: App) -> None:
    """A14: so that nothing loops. A task's do."""
    hook = app.on_group_opened(tell)
    assert from_json(hook.options.policy.to_json()).silent
    assert not app.task(name="work")(tell).options.policy.silent


def test_an_event_comes_as_one_without_an_annotation(app: App) -> None:
    def bare(what):  # type: ignore[no-untyped-def]
        return what

    hook: Any = app.on_failed(bare)
    assert hook.arguments.decode(hook.arguments.encode((EVENT,), {})) == ((EVENT,), {})
    assert app.hooks[0].parameter == "what"


def test_a_module_that_is_loaded_twice(app: App) -> None:
    app.on_failed(tell)
    app.on_failed(queue="other")(tell)
    assert [(one.task, one.queue) for one in app.hooks] == [("tell", "other")]


def test_how_a_supervisor_hears_of_it(app: App) -> None:
    app.on_failed(task="pay")(tell)
    hello = Hello("u", 1.0, True, None, None, "c", ["tell"], hooks=app.hooks)
    assert msgspec.json.decode(encode(hello), type=Hello) == hello


@pytest.mark.parametrize("option", ["unique", "exclusive", "subject", "version"])
def test_keys_that_only_your_code_could_compute(app: App, option: str) -> None:
    with pytest.raises(TypeError, match=f"a hook has no {option}: its jobs are made"):
        app.on_failed(**{option: lambda event: "x"})(tell)
    assert app.tasks == {}


@pytest.mark.parametrize(
    "function",
    [lambda: None, lambda a, b: None, lambda a, b=1: None, lambda *a: None, lambda *, a: None],
)
def test_functions_that_take_no_event(app: App, function: Any) -> None:
    with pytest.raises(TypeError, match="a hook takes one argument, the event"):
        app.on_failed(name="x")(function)


def test_what_is_no_plain_function(app: App) -> None:
    hook: Any = app.on_failed(tell)
    for wrong in (hook, "pay"):
        with pytest.raises(TypeError, match=r"@app\.on_discarded decorates a plain function"):
            app.on_discarded(wrong)


@pytest.mark.parametrize("task", [[], "", 5, [5], [""]])
def test_tasks_that_are_none(app: App, task: Any) -> None:
    with pytest.raises(TypeError, match="task= names"):
        app.on_failed(task=task)


def test_options_are_those_of_tasks(app: App) -> None:
    with pytest.raises(TypeError, match="there is no option color"):
        app.on_failed(color="red")(tell)
