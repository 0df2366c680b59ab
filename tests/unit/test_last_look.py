"""The last look before a body begins: what a child does with a job that is out of date by then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from failbetter import App
from failbetter.worker.execute import Executor
from failbetter.worker.wire import Ended, Handout


def executor(*, outdated: bool) -> tuple[Executor, list[Any], list[int]]:
    """With a line that answers so; what is told on it, and which jobs it was asked about."""
    app = App("sqlite:///never-made.db")
    app.task(name="save")(_save)
    told: list[Any] = []
    asked: list[int] = []

    def is_outdated(handout: Handout) -> bool:
        asked.append(handout.id)
        return outdated

    line: Any = SimpleNamespace(tell=told.append, is_outdated=is_outdated)
    ring: Any = SimpleNamespace(begin=lambda *_: None)
    return Executor(app, line, ring, 1, "v1"), told, asked


def _save() -> None: ...


def handout(version: int | None) -> Handout:
    return Handout(7, 1, 1, 1, "save", "default", None, 0, version)


def test_an_outdated_job_is_refused_before_it_begins() -> None:
    made, told, asked = executor(outdated=True)
    assert made.prepare(handout(3), b"{}") is None
    assert asked == [7]
    (ended,) = told
    assert isinstance(ended, Ended)
    assert (ended.cause, ended.verdict, ended.begun_at) == ("refused", "discard", None)


def test_a_job_that_is_not_out_of_date_begins() -> None:
    made, told, _ = executor(outdated=False)
    attempt = made.prepare(handout(3), b"{}")
    assert attempt is not None
    assert attempt.running.version == 3
    assert told == []


def test_nobody_asks_about_a_job_without_a_version() -> None:
    made, _, asked = executor(outdated=True)
    assert made.prepare(handout(None), b"{}") is not None
    assert asked == []
