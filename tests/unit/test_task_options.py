"""What `App` and `@app.task` accept, what they refuse and how they say so. No ledger is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from failbetter import App, ConfigurationError, UnknownTask
from failbetter.drill.processes import environment
from failbetter.lifecycle.policy import Policy
from failbetter.limits import KEY_LENGTH, bounded_key
from failbetter.retention import Keep
from failbetter.task import key_text


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path / 'never-made.db'}")


def work(path: str, token: str = "") -> None:
    """Do it."""


# -- App


def test_where_the_ledger_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/b.db")
    assert App().database.name == f"sqlite:///{tmp_path}/b.db"
    monkeypatch.setenv("FAILBETTER_URL", f"sqlite:///{tmp_path}/a.db")
    assert App().database.name == f"sqlite:///{tmp_path}/a.db"
    assert App(f"sqlite:///{tmp_path}/c.db").database.name == f"sqlite:///{tmp_path}/c.db"


def test_nowhere() -> None:
    with pytest.raises(ConfigurationError, match="FAILBETTER_URL"):
        App()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "oracle://scott:tiger@host/db",
        "no url",
        "://",
    ],
)
def test_urls_that_cannot_hold_a_ledger(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        App(url)
    assert "tiger" not in str(caught.value)


def test_passwords_are_not_shown_for_a_url_that_is_none() -> None:
    with pytest.raises(ConfigurationError) as caught:
        App("not//a:url@hunter2")
    assert "hunter2" not in str(caught.value)


def test_the_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    assert App(url).lease == 30
    monkeypatch.setenv("FAILBETTER_LEASE", "1m")
    assert App(url).lease == 60
    assert App(url, lease=5).lease == 5


@pytest.mark.parametrize("lease", [0, 1, 1.9, -1, "soon", None, 90_000, float("nan"), [5]])
def test_leases_that_cannot_be(lease: Any, tmp_path: Path) -> None:
    if lease is None:
        lease = "2d"
    with pytest.raises(ConfigurationError, match="lease"):
        App(f"sqlite:///{tmp_path}/a.db", lease=lease)


def test_how_long_jobs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    day = 86_400
    assert App(url).keep == Keep(succeeded=7 * day, discarded=30 * day, failed=90 * day)
    monkeypatch.setenv("FAILBETTER_KEEP_SUCCEEDED", "1h")
    monkeypatch.setenv("FAILBETTER_KEEP_FAILED", "forever")
    assert App(url).keep == Keep(succeeded=3600, discarded=30 * day, failed=None)
    assert App(url, keep_failed="1d", keep_discarded=None).keep == Keep(3600, None, day)


@pytest.mark.parametrize("kept", [0, 59, "0", "-1d", "soon", -5, [5], float("inf")])
def test_times_that_no_job_can_be_kept(
    kept: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(ConfigurationError, match="keep_failed"):
        App(url, keep_failed=kept)
    if isinstance(kept, str):
        monkeypatch.setenv("FAILBETTER_KEEP_FAILED", kept)
        with pytest.raises(ConfigurationError, match="keep_failed"):
            App(url)


def test_a_drill_deletes_nothing_of_the_users(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/a.db")
    found = environment(app, tmp_path)
    assert {found[f"FAILBETTER_KEEP_{end}"] for end in ("SUCCEEDED", "DISCARDED", "FAILED")} == {
        "forever"
    }
    app.close()


def test_durability(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="durability"):
        App(f"sqlite:///{tmp_path}/a.db", durability="none")  # type: ignore[arg-type]


def test_nothing_is_opened_before_it_is_needed(app: App, tmp_path: Path) -> None:
    app.task(work)
    assert repr(app)
    assert list(tmp_path.iterdir()) == []


# -- names


def test_a_task_is_its_function(app: App) -> None:
    task = app.task(work)
    assert (task.name, task.__doc__, task.__wrapped__) == ("work", "Do it.", work)
    assert app.tasks == {"work": task}
    assert app.find_task("work") is task
    assert repr(task) == "<Task work>"
    assert not task.is_async


def test_calling_it_runs_it_here_and_now(app: App) -> None:
    @app.task
    def add(one: int, other: int) -> int:
        return one + other

    assert add(1, other=2) == 3


def test_async_bodies(app: App) -> None:
    @app.task(timeout=5)
    async def nap(seconds: float) -> None: ...

    assert nap.is_async


def test_a_name_of_ones_own(app: App) -> None:
    assert app.task(name="shop.work:v2")(work).name == "shop.work:v2"


@pytest.mark.parametrize("name", ["a b", "x" * 151, "a/b", "\n", "a\0", 5])
def test_names_that_cannot_be(app: App, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        app.task(name=name)(work)


def test_a_lambda_needs_a_name(app: App) -> None:
    with pytest.raises(ConfigurationError, match="name="):
        app.task(lambda: None)
    assert app.task(name="small")(lambda: None).name == "small"


def test_a_name_is_taken_once(app: App) -> None:
    app.task(work)
    with pytest.raises(ConfigurationError, match="already"):
        app.task(name="work")(lambda: None)


def test_the_same_function_may_come_again(app: App) -> None:
    """A module that is loaded twice, as `__main__` and by its name."""
    app.task(work)
    assert app.task(work).name == "work"


def test_an_unknown_task_names_the_known(app: App) -> None:
    app.task(work)
    with pytest.raises(UnknownTask, match="work"):
        app.find_task("wrok")


# -- options


def policy(app: App, **options: Any) -> Policy:
    return app.task(name=f"t{len(app.tasks)}", **options)(
        lambda path, token="": None
    ).options.policy


def test_the_defaults_are_the_contracts(app: App) -> None:
    options = app.task(work).options
    assert options.policy == Policy()
    assert (options.queue, options.priority) == ("default", 0)
    assert (options.retry_on, options.fail_on, options.discard_on) == ((Exception,), (), ())
    assert options.expires_after is None
    assert options.tags == ()


def test_durations_are_read_everywhere(app: App) -> None:
    found = policy(app, timeout="2m", release_within="1h", backoff=["1s", "1m"])
    assert (found.timeout, found.release_within) == (120, 3600)
    assert found.backoff.delays == (1, 60)
    assert policy(app, timeout=None).timeout is None
    assert app.task(name="e", expires_after="1h")(lambda: None).options.expires_after == 3600


def test_a_callable_backoff_stays_with_the_code(app: App) -> None:
    task = app.task(name="b", backoff=lambda attempt: attempt)(lambda: None)
    assert task.options.delays is not None
    assert task.options.policy == Policy()


def test_what_must_never_run_again_by_hand_is_not_run_again_by_chance(app: App) -> None:
    assert policy(app, replay="never").on_lost == "fail"
    assert policy(app, replay="confirm").on_lost == "retry"


def test_one_exception_type_needs_no_tuple(app: App) -> None:
    assert app.task(name="x", fail_on=KeyError)(lambda: None).options.fail_on == (KeyError,)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"max_attempts": 0}, ValueError, "max_attempts"),
        ({"max_attempts": 1.5}, ValueError, "max_attempts"),
        ({"max_attempts": True}, ValueError, "max_attempts"),
        ({"max_crashes": -1}, ValueError, "max_crashes"),
        ({"max_losses": "3"}, ValueError, "max_losses"),
        ({"on_lost": "perhaps"}, ValueError, "on_lost"),
        ({"replay": "always"}, ValueError, "replay"),
        ({"queue": ""}, ValueError, "queue"),
        ({"queue": " a"}, ValueError, "queue"),
        ({"queue": "q" * 101}, ValueError, "queue"),
        ({"queue": 5}, ValueError, "queue"),
        ({"queue": "failbetter.drill.x"}, ValueError, "failbetter drill"),
        ({"priority": 40_000}, ValueError, "priority"),
        ({"priority": 1.5}, ValueError, "priority"),
        ({"priority": True}, ValueError, "priority"),
        ({"timeout": -1}, ValueError, "negative"),
        ({"timeout": "soon"}, ValueError, "soon"),
        ({"timeout": [1]}, TypeError, "duration"),
        ({"expires_after": -1}, ValueError, "negative"),
        ({"release_within": None}, TypeError, "duration"),
        ({"backoff": []}, ValueError, "empty"),
        ({"backoff": object()}, TypeError, "duration"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on"),
        ({"fail_on": (int,)}, TypeError, "fail_on"),
        ({"discard_on": ValueError()}, TypeError, "discard_on"),
        ({"unique": "path"}, TypeError, "unique"),
        ({"exclusive": True}, TypeError, "exclusive"),
        ({"subject": "x"}, TypeError, "subject"),
        ({"tags": "one"}, TypeError, "tags"),
        ({"tags": [1]}, TypeError, "tags"),
        ({"redact": "token"}, TypeError, "redact"),
        ({"redact": ["nope"]}, ValueError, "nope"),
        ({"retries": 3}, TypeError, "retries"),
        ({"max_atempts": 3, "quue": "x"}, TypeError, "max_atempts, quue"),
    ],
)
def test_options_that_cannot_be(
    app: App, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        app.task(**options)(work)
    assert app.tasks == {}


def test_what_is_no_function(app: App) -> None:
    with pytest.raises(TypeError, match="function"):
        app.task("images")  # type: ignore[call-overload]


def test_generators_are_refused_as_nobody_would_run_them(app: App) -> None:
    def lazy() -> Iterator[int]:
        yield 1

    async def async_lazy() -> AsyncIterator[int]:
        yield 1

    for function in (lazy, async_lazy):
        with pytest.raises(TypeError, match="generator"):
            app.task(function)


def test_what_becomes_of_a_job_whose_record_is_gone(app: App) -> None:
    """A12: as the task chooses; it fails unless that says otherwise."""
    assert app.task(name="one")(work).options.on_missing == "fail"
    assert app.task(name="other", on_missing="discard")(work).options.on_missing == "discard"
    with pytest.raises(ValueError, match='on_missing is "fail" or "discard"'):
        app.task(on_missing="ignore")(work)


# -- keys


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (5, "5"), (("a", 1), '["a",1]'), ({"a": None}, '{"a":null}')]
)
def test_a_key_is_any_json(value: object, text: str) -> None:
    assert key_text(value) == text


def test_a_key_that_json_has_not() -> None:
    with pytest.raises(TypeError):
        key_text(object())


def test_a_long_key_keeps_its_beginning_and_stays_apart() -> None:
    assert bounded_key("x" * KEY_LENGTH) == "x" * KEY_LENGTH
    one, other = (bounded_key("x" * 500 + end) for end in "ab")
    assert len(one) == len(other) == KEY_LENGTH
    assert one != other
    assert one.startswith("xxx")


# -- settings of one occasion


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"run_after": "soon"}, ValueError),
        ({"run_after": -5}, ValueError),
        ({"run_after": [1]}, TypeError),
        ({"queue": ""}, ValueError),
        ({"queue": "failbetter.drill.x"}, ValueError),
        ({"priority": 1 << 20}, ValueError),
        ({"expires_after": "never"}, ValueError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_using_checks_at_once(app: App, settings: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        app.task(work).using(**settings)
