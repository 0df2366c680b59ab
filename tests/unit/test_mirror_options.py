"""What `App.mirror` takes, and what it says of what it cannot take (C1). No ledger is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from failbetter import App, ConfigurationError
from failbetter.limits import KEY_LENGTH
from failbetter.mirror.options import Mirror

GOOD: dict[str, Any] = {"table": "images", "key": "id", "from_arg": "image", "status": "status"}


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path / 'never-made.db'}")


def upload(image: str, size: int = 1) -> None: ...


def clean(rest: int, *image: str) -> None: ...


def mirror_of(app: App, name: str = "upload") -> Mirror:
    found = app.tasks[name].mirror
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"table": 5}, TypeError, "table is a text, not 5"),
        ({"table": ""}, ValueError, "table is the name of one, or schema.table, not ''"),
        ({"table": "a.b.c"}, ValueError, "schema.table"),
        ({"table": "images; DROP TABLE images"}, ValueError, "schema.table"),
        ({"table": 'ima"ges'}, ValueError, "schema.table"),
        ({"key": "the id"}, ValueError, "key is the name of a column, not 'the id'"),
        ({"key": None}, TypeError, "key is a text, not None"),
        ({"from_arg": 1}, TypeError, "from_arg is a text, not 1"),
        ({"status": "a.b"}, ValueError, "status is the name of a column"),
        ({"error": "1st"}, ValueError, "error is the name of a column"),
        ({"ended_at": b"x"}, TypeError, "ended_at is a text"),
        ({"status": None}, ConfigurationError, "name at least one column to write"),
        ({"status": "id"}, ConfigurationError, "a column is named twice"),
        ({"error": "status"}, ConfigurationError, "a column is named twice"),
        ({"values": ["x"]}, TypeError, "values is a dict from states"),
        ({"values": {1: "x"}}, TypeError, "a key of values is a text, not 1"),
        ({"values": {"done": "x"}}, ValueError, "'done' is no state; write one of pending, run"),
        ({"values": {"failed(sad)": "x"}}, ValueError, "'sad' is no reason for failed; there are"),
        ({"values": {"pending(error)": "x"}}, ValueError, "it has none"),
        ({"values": {"failed()": "x"}}, ValueError, "is no state"),
        ({"values": {"failed": 1.5}}, TypeError, r"values\['failed'\] is a text, a whole number"),
        ({"status": None, "error": "e", "values": {}}, ConfigurationError, "name it with status="),
        ({"tasks": "upload"}, TypeError, "tasks is a list of tasks or their names"),
        ({"tasks": [5]}, TypeError, "tasks are named by a text"),
        ({"url": "nonsense"}, ConfigurationError, "the mirror's URL is no URL"),
        ({"url": "nosuch://host/db"}, ConfigurationError, "the mirror's URL is no URL"),
        ({"url": "sqlite+aiosqlite:///x.db"}, ConfigurationError, "a driver that is not async"),
    ],
)
def test_what_cannot_be(app: App, given: dict[str, Any], kind: Any, says: str) -> None:
    app.task(upload)
    with pytest.raises(kind, match=says):
        app.mirror(**{**GOOD, **given})
    assert app.mirrors == []
    assert app.tasks["upload"].mirror is None


def test_a_password_is_in_no_error(app: App) -> None:
    with pytest.raises(ConfigurationError) as raised:
        app.mirror(**GOOD, url="post gres://bob:hush@host/db:x")
    assert "hush" not in str(raised.value)


def test_it_counts_for_tasks_before_and_after(app: App) -> None:
    """C1: whatever the order of the modules that make them."""

    def before(image: int) -> None: ...

    def after(*, image: int = 3) -> None: ...

    def other(picture: int) -> None: ...

    app.task(before)
    app.mirror(**GOOD)
    for function in (after, other, clean):
        app.task(function)
    mirrored = {name for name, task in app.tasks.items() if task.mirror is not None}
    assert mirrored == {"before", "after"}


def test_it_can_be_narrowed(app: App) -> None:
    def early(image: int) -> None: ...

    def late(image: int) -> None: ...

    def left_out(image: int) -> None: ...

    app.mirror(**GOOD, tasks=[app.task(early), "late"])
    app.task(late)
    app.task(left_out)
    assert mirror_of(app, "early") is mirror_of(app, "late")
    assert app.tasks["left_out"].mirror is None


def test_a_task_that_has_no_such_parameter(app: App) -> None:
    app.mirror(**GOOD, tasks=["clean"])
    with pytest.raises(ConfigurationError, match="task clean has no parameter 'image'"):
        app.task(clean)
    with pytest.raises(ConfigurationError, match="no parameter 'picture'"):
        app.mirror(**GOOD | {"from_arg": "picture", "tasks": [app.task(upload)]})


def test_two_mirrors_of_one_task(app: App) -> None:
    app.task(upload)
    app.mirror(**GOOD)
    app.mirror(**GOOD)  # the same once more: a module that is loaded twice
    with pytest.raises(ConfigurationError, match="task upload has two mirrors, of images and of p"):
        app.mirror(**GOOD | {"table": "pictures"})
    assert [mirror.table for mirror in app.mirrors] == ["images"]
    app.mirror(**GOOD | {"table": "pictures", "tasks": ["later"]})

    def later(image: int) -> None: ...

    with pytest.raises(ConfigurationError, match="two mirrors"):
        app.task(later)


def of(app: App, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    task = app.tasks["upload"]
    spec, key = mirror_of(app).of("upload", task.arguments.signature, args, kwargs)
    return None if spec is None else msgspec.json.decode(spec), key


def test_what_is_kept_with_a_job(app: App) -> None:
    """C1: all that a supervisor needs, which imports none of the user's code."""
    app.task(upload)
    app.mirror(
        "shop.images",
        key="id",
        from_arg="image",
        status="status",
        error="why",
        ended_at="done",
        values={"failed": 3, "succeeded": None},
    )
    spec, key = of(app, "cat")
    assert spec == {
        "table": "shop.images",
        "key": "id",
        "value": "cat",
        "status": "status",
        "error": "why",
        "ended_at": "done",
        "values": {"failed": 3, "succeeded": None},
    }
    assert key == '|shop.images.id|status|"cat"'
    assert of(app, image="cat") == (spec, key)
    assert of(app, None) == (None, None)


def test_keys_that_are_one_and_keys_that_are_not(app: App) -> None:
    app.task(upload)
    app.mirror(**GOOD)
    assert of(app, 5)[1] == of(app, "5")[1] != of(app, "05")[1]
    number = UUID(int=7)
    assert of(app, number)[1] == of(app, str(number))[1]
    assert "\0" not in of(app, "\0")[1]
    long = {of(app, "x" * 500 + end)[1] for end in "ab"}
    assert len(long) == 2
    assert all(len(key) <= KEY_LENGTH for key in long)


@pytest.mark.parametrize("value", [True, 1.5, ["a"], {"a": 1}])
def test_what_cannot_be_a_key(app: App, value: Any) -> None:
    app.task(upload)
    app.mirror(**GOOD)
    with pytest.raises(TypeError, match=r"upload\(\): argument 'image' is the key of a row"):
        of(app, value)


def test_another_database_is_named_without_its_url(app: App) -> None:
    """C1: the URL, and with it the password, stays with the app and its workers."""
    app.task(upload)
    url = "postgresql+psycopg://bob:hush@host/shop"
    app.mirror(**GOOD, url=url)
    spec, key = of(app, "cat")
    assert app.mirror_urls == {spec["database"]: url}
    assert not any(part in str(spec) + key for part in ("hush", "bob", "host"))
    other = App(app.url)
    other.task(upload)
    other.mirror(**GOOD, url=url.replace("hush", "changed"))
    assert list(other.mirror_urls) == list(app.mirror_urls)


def test_the_ledgers_own_url_is_no_other(app: App) -> None:
    app.task(upload)
    app.mirror(**GOOD, url=app.url)
    assert app.mirror_urls == {}
    assert "database" not in of(app, "cat")[0]
