"""Logging: every record about a job carries its keys; the two formats of a worker's output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from failbetter import logs

KEYS = {"job_id": "0123456789abc", "task": "work", "attempt": 2, "queue": "default"}


@pytest.fixture
def in_job() -> Iterator[None]:
    token = logs.context.set(KEYS)
    yield
    logs.context.reset(token)


def record(message: str = "hello %s", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("shop.orders", logging.WARNING, "f.py", 1, message, ("you",), None)
    vars(made).update(extra)
    return made


def test_a_users_own_record_gets_the_jobs_keys(in_job: None) -> None:
    made = record()
    assert logs.JobFilter().filter(made)
    assert {key: vars(made)[key] for key in KEYS} == KEYS


def test_what_a_record_says_itself_stays(in_job: None) -> None:
    made = record(task="mine")
    logs.JobFilter().filter(made)
    assert vars(made)["task"] == "mine"
    assert vars(made)["job_id"] == KEYS["job_id"]


def test_outside_a_job_nothing_is_added() -> None:
    made = record()
    assert logs.JobFilter().filter(made)
    assert "job_id" not in vars(made)


def test_one_json_object_a_line(in_job: None) -> None:
    made = record("two\nlines %s")
    logs.JobFilter().filter(made)
    line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert {key: found[key] for key in KEYS} == KEYS
    assert (found["level"], found["logger"], found["message"]) == (
        "warning",
        "shop.orders",
        "two\nlines you",
    )


def test_json_keeps_tracebacks_and_odd_values() -> None:
    made = record(job_id=object())
    try:
        raise ValueError("x")
    except ValueError:
        made.exc_info = sys.exc_info()
    found = json.loads(logs.JsonFormatter().format(made))
    assert "ValueError: x" in found["traceback"]
    assert found["job_id"].startswith("<object")


def test_one_readable_line(in_job: None) -> None:
    made = record()
    logs.JobFilter().filter(made)
    line = logs.TextFormatter().format(made)
    assert line.endswith("warning hello you  job=0123456789abc")


def test_the_library_is_silent_unless_asked() -> None:
    handlers = logging.getLogger("failbetter").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_the_task_logger_prefixes() -> None:
    made = logs.TaskLogger(logging.getLogger("x"), {"task": "work"})
    assert made.process("done", {"extra": {"queue": "q"}}) == (
        "[work] done",
        {"extra": {"task": "work", "queue": "q"}},
    )
