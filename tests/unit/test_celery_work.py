"""What a Celery worker is to failbetter, by the pool it has. D1."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import prefork, solo, thread

from failbetter.celery import work


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> work.Here:
    """As in a worker that has just started."""
    made = work.Here()
    made._app = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setattr(work, "here", made)
    return made


def set_up(pool: Any) -> None:
    work._set_up("w@shop", SimpleNamespace(pool_cls=pool, concurrency=4))


@pytest.mark.parametrize(
    ("pool", "slots", "has_children"),
    [(prefork.TaskPool, 1, True), (thread.TaskPool, 4, False), (solo.TaskPool, 1, False)],
)
def test_the_place_that_a_pool_makes(
    here: work.Here, pool: Any, slots: int, has_children: bool
) -> None:
    """Only children are watched by somebody who outlives them, and tells how they died."""
    set_up(pool)
    assert here.place is not None
    assert (here.place.slots, here.place.has_children) == (slots, has_children)
    keeper = here.place.keeper()
    assert (keeper.name, keeper.pid, keeper.tells) == ("w@shop", os.getpid(), has_children)
    assert work._who(None)["pid"] == keeper.pid


def test_a_pool_of_greenlets_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_code:
        set_up(type("TaskPool", (), {"is_green": True}))
    assert exit_code.value.code == work.EX_CONFIG
    assert "take prefork or threads" in caplog.text
