"""What is handed to Celery, without a broker: kombu's own, in memory. D1."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import celery
import pytest

import failbetter
from failbetter import ids
from failbetter.engine import Ticket
from failbetter.engines import celery as module
from failbetter.errors import ConfigurationError


@pytest.fixture
def celery_app() -> celery.Celery:
    # The transport's queues are the process's: a name of its own keeps tests apart.
    app = celery.Celery("tests", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False)
    app.conf.update(task_time_limit=5, task_soft_time_limit=4, task_acks_late=True)
    return app


def messages(app: celery.Celery, queue: str) -> list[Any]:
    """What waits in a queue."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message)
    return found


def test_a_message_holds_the_id_and_the_limits_of_its_task_alone(celery_app: celery.Celery) -> None:
    """The application's own limits would else kill a body that has more time."""
    queue = uuid.uuid4().hex
    engine = failbetter.Celery(celery_app)
    engine.send([Ticket(77, 3, "mail", queue, 0, 60.0), Ticket(78, 0, "mail", queue, 0, None)])
    timed, endless = messages(celery_app, queue)
    args, kwargs, _ = timed.decode()
    assert (args, kwargs) == ([ids.to_text(77)], {})
    assert timed.headers["task"] == module.TASK
    assert timed.headers["shadow"] == "mail"
    assert timed.headers["ignore_result"] is True
    assert timed.headers["timelimit"] == [60 + module.MARGIN] * 2
    assert endless.headers["timelimit"][0] > 365 * 86_400
    assert timed.headers["id"] != endless.headers["id"]
    engine.close()


@pytest.mark.parametrize(("base", "expected"), [(None, [0, 0, 3, 9]), (5, [0, 5, 8, 9])])
def test_priorities_count_from_celerys_own(
    celery_app: celery.Celery, base: int | None, expected: list[int]
) -> None:
    celery_app.conf.task_default_priority = base
    queue = uuid.uuid4().hex
    engine = failbetter.Celery(celery_app)
    engine.send([Ticket(n, 0, "mail", queue, p, 1.0) for n, p in enumerate([-9, 0, 3, 99])])
    found = {ids.from_text(one.decode()[0][0]): one for one in messages(celery_app, queue)}
    assert [found[n].properties["priority"] for n in range(4)] == expected
    engine.close()


def test_a_queue_that_nobody_has_sent_to_holds_nothing(celery_app: celery.Celery) -> None:
    engine = failbetter.Celery(celery_app)
    with engine._reached() as sender:
        assert sender.depth(uuid.uuid4().hex) == 0
    engine.close()


def test_an_import_path_is_followed_at_first_use(
    celery_app: celery.Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = failbetter.Celery("shop_celery:apps.main")
    shop = type(sys)("shop_celery")
    shop.apps = type("Apps", (), {"main": celery_app})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_celery", shop)
    queue = uuid.uuid4().hex
    engine.send([Ticket(1, 0, "mail", queue, 0, 1.0)])
    assert len(messages(celery_app, queue)) == 1
    engine.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("shop", "names no Celery application; write module:attribute"),
        ("nowhere:app", "cannot be loaded"),
        ("os:nothing", "cannot be loaded"),
        ("os:path", "not a celery.Celery"),
    ],
)
def test_a_path_that_leads_nowhere_is_said_to(given: str, words: str) -> None:
    engine = failbetter.Celery(given)
    with pytest.raises(ConfigurationError, match=words):
        engine.send([Ticket(1, 0, "mail", "default", 0, 1.0)])


def test_something_else_than_an_application_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="or its import path, not int"):
        failbetter.Celery(3)


def test_without_celery_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    engine = failbetter.Celery("shop:app")
    with pytest.raises(ConfigurationError, match=r"pip install 'failbetter\[celery\]'"):
        engine.send([Ticket(1, 0, "mail", "default", 0, 1.0)])
