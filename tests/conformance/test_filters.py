"""What may be asked of jobs, and which jobs that means; each also the other way round."""

from __future__ import annotations

import os
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.conformance.kit import NOW, POLICY, SECOND, Ledger, ending, new_worker

import failbetter
from failbetter import App
from failbetter.ledger import registry
from failbetter.ledger.endings import Error
from failbetter.lifecycle.states import Cause

HOUR = 3600 * SECOND
TIMEOUT = Error(
    "requests.ReadTimeout", "timed out", None, "1-aa11", ("requests.Timeout", "OSError")
)
RESET = Error(
    "ConnectionResetError", "reset by peer", None, "1-aa22", ("ConnectionError", "OSError")
)
MISSING = Error("KeyError", "'size'", None, "1-bb33", ("LookupError", "Exception"))


@pytest.fixture
def jobs(worked: Ledger) -> dict[str, str]:
    """Jobs that differ in all that a filter can tell apart: the name of each by its id."""
    with worked.database.write() as tx:
        registry.register(tx, new_worker(2, name="other:7"))
    found: dict[str, str] = {}

    def failed(name: str, error: Error, args: Any, at: int, worker: int = 1, **given: Any) -> None:
        number = worked.add(payload=msgspec.json.encode(args).decode(), **given)
        (job,) = worked.claim(worker)
        known = "other:7" if worker == 2 else "worker-1"
        worked.end(job, Cause.RAISED, verdict="fail", error=error, now=at, worker=known)
        found[failbetter.ids.to_text(number)] = name

    failed("a", TIMEOUT, {"path": "cat.png", "size": 3}, NOW + HOUR, task="up", tags='["x","y"]')
    failed("b", RESET, {"path": "dog.gif", "size": "3"}, NOW + 2 * HOUR, task="up", queue="slow")
    failed("c", MISSING, {"path": None, "deep": {"er": True, "l": [1, 2]}}, NOW + 3 * HOUR, 2)
    secret = msgspec.structs.replace(POLICY, redact=("path",))
    failed("d", MISSING, {"path": "cat.png"}, NOW + 4 * HOUR, policy=secret)
    done = worked.add(payload='{"path":"\\u0000.png"}')
    worked.end(worked.claim_one(), now=NOW + 5 * HOUR)
    found[failbetter.ids.to_text(done)] = "e"
    waiting = worked.add(task="up", created_at=NOW + 6 * HOUR)
    found[failbetter.ids.to_text(waiting)] = "f"
    return found


def at(hours: float) -> datetime:
    return datetime.fromtimestamp(NOW / SECOND, UTC) + timedelta(hours=hours)


ALL = "abcdef"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ALL),
        ({"task": "up"}, "abf"),
        ({"task": ["up", "no"]}, "abf"),
        ({"task": ["u*", "w*"]}, ALL),
        ({"task": []}, ""),
        ({"task": None}, ALL),
        ({"queue": "slow"}, "b"),
        ({"queue": ("slow", "default")}, ALL),
        ({"state": ["succeeded", "pending"]}, "ef"),
        ({"reason": "error"}, "abcd"),
        ({"error": "ReadTimeout"}, "a"),
        ({"error": "requests.ReadTimeout"}, "a"),
        ({"error": "Timeout"}, "a"),
        ({"error": "requests.Timeout"}, "a"),
        ({"error": "OSError"}, "ab"),
        ({"error": "IOError"}, "ab"),
        ({"error": "LookupError"}, "cd"),
        ({"error": ["KeyError", "ConnectionError"]}, "bcd"),
        ({"error": "*Timeout"}, "a"),
        ({"error": "OS*"}, ""),
        ({"error": "requests.*"}, "a"),
        ({"error": "meout"}, ""),
        ({"message": "*timed*"}, "a"),
        ({"message": ["timed out", "'size'"]}, "acd"),
        ({"tag": "x"}, "a"),
        ({"tag": ["y", "z"]}, "a"),
        ({"fingerprint": "1-bb33"}, "cd"),
        ({"fingerprint": ["1-aa11", "1-aa22"]}, "ab"),
        ({"fingerprint": "1-aa*"}, "ab"),
        ({"worker": "other:7"}, "c"),
        ({"worker": "worker-*"}, "abde"),
        ({"code": "v1"}, "abcde"),
        ({"code": "v2"}, ""),
        ({"attempts": 1}, "abcde"),
        ({"attempts": "1"}, "abcde"),
        ({"attempts": ">=1"}, "abcde"),
        ({"attempts": "<1"}, "f"),
        ({"attempts": "> 1"}, ""),
        ({"attempts": "<=1"}, ALL),
        ({"attempts": (None, 0)}, "f"),
        ({"attempts": (1, None)}, "abcde"),
        ({"args": {"path": "*.png"}}, "a"),
        ({"args": {"path": "dog.gif"}}, "b"),
        ({"args": {"size": 3}}, "ab"),
        ({"args": {"size": "3"}}, "ab"),
        ({"args": {"size": 3, "path": "*.png"}}, "a"),
        ({"args": {"path": None}}, "c"),
        ({"args": {"deep.er": True}}, "c"),
        ({"args": {"deep.l": [1, 2]}}, "c"),
        ({"args": {"deep": {"er": True, "l": [1, 2]}}}, "c"),
        ({"args": {"deep.none": None}}, ""),
        ({"args": {"none": "*"}}, ""),
        ({"since": at(3)}, "cdef"),
        ({"until": at(2)}, "a"),
        ({"since": at(2), "until": at(3)}, "b"),
        ({"since": "2023-11-15T00:13:20Z"}, "bcdef"),
        ({"since": date(2100, 1, 1)}, ""),
        ({"until": date(2000, 1, 1)}, ""),
        ({"until": "2000-01-01"}, ""),
        ({"until": "yesterday"}, ALL),
        ({"since": "today"}, ""),
        ({"since": "1h"}, ""),
        ({"until": 60}, ALL),
        ({"task": "up", "error": "OSError", "queue": "slow"}, "b"),
    ],
    ids=str,
)
def test_what_matches_and_what_does_not(
    app: App, jobs: dict[str, str], filters: dict[str, Any], expected: str
) -> None:
    def names(found: failbetter.Jobs) -> str:
        assert found.count() == len(list(found))
        return "".join(sorted(jobs[job.id] for job in found))

    assert names(app.jobs.where(**filters)) == expected
    failed = "".join(name for name in expected if name in "abcd")
    assert names(app.failed.where(**filters)) == failed
    assert names(app.failed.where(task="*").where(**filters)) == failed
    assert sum(group.count for group in app.failed.where(**filters).groups()) == len(failed)
    if any(value is not None for value in filters.values()):
        rest = "".join(name for name in ALL if name not in expected)
        assert names(app.jobs.exclude(**filters)) == rest
        assert names(app.failed.exclude(**filters).where(task="*")) == "".join(
            name for name in "abcd" if name not in expected
        )
        assert names(app.jobs.exclude(**filters).exclude(queue="slow")) == rest.replace("b", "")


def test_leaving_out_what_matches_all_or_any(app: App, jobs: dict[str, str]) -> None:
    all_of_it = app.failed.exclude(task="up", queue="slow")
    assert sorted(jobs[job.id] for job in all_of_it) == ["a", "c", "d"]
    any_of_it = app.failed.exclude(task="up").exclude(queue="slow")
    assert sorted(jobs[job.id] for job in any_of_it) == ["c", "d"]


def test_a_running_job_is_on_its_next_attempt(app: App, worked: Ledger) -> None:
    number = worked.add()
    worked.begin(worked.claim_one())
    assert app.job(failbetter.ids.to_text(number)).attempt == 1
    assert app.jobs.where(attempts=1).count() == 1


def test_the_last_attempt_is_what_counts(app: App, worked: Ledger) -> None:
    number = worked.add()
    for version in ("v1", "v2"):
        job = worked.claim_one(now=worked.soon())
        made = ending(job, Cause.RAISED, verdict="fail", error=MISSING, worker=f"on-{version}")
        assert worked.settle(msgspec.structs.replace(made, code=version)) == []
        if version == "v1":
            assert worked.retry(number) is None
    assert app.failed.where(code="v2", worker="on-v2").count() == 1
    assert app.failed.where(code="v1").count() == 0
    assert app.failed.where(worker="on-v1").count() == 0
    assert app.jobs.where(code="v2").count() == 1


def test_newest_first_whatever_is_asked(app: App, jobs: dict[str, str]) -> None:
    assert [jobs[job.id] for job in app.failed] == list("dcba")
    assert [jobs[job.id] for job in app.failed.where(error="OSError")] == list("ba")
    assert [jobs[job.id] for job in app.failed.exclude(task="up").limit(1)] == ["d"]


def test_days_begin_where_one_is(app: App, worked: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC) - timedelta(hours=9)  # in Tokyo
    worked.add(created_at=round(midnight.timestamp() * SECOND), run_at=NOW)
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for day in (date(2026, 3, 1), "2026-03-01", "2026-03-01T00:00", "2026-02-28T15:00Z"):
            assert app.jobs.where(since=day).count() == 1
            assert app.jobs.where(until=day).count() == 0
        assert app.jobs.where(since="2026-03-01T00:00:01").count() == 0
    finally:
        monkeypatch.undo()
        assert os.environ.get("TZ") == before
        time.tzset()


@pytest.mark.parametrize(
    ("filters", "kind", "says"),
    [
        ({"exception": "x"}, TypeError, "there is no filter 'exception'; there are: ids, task, "),
        ({"task": 5}, TypeError, "task: a text or a list of texts, not 5"),
        ({"task": ["a", 5]}, TypeError, "task: a text or a list of texts, not 5 in it"),
        ({"queue": b"x"}, TypeError, "queue: "),
        ({"ids": "0000000000000"}, TypeError, "ids: a list of ids"),
        ({"ids": ["x"]}, ValueError, "'x' is no job id"),
        ({"state": "broken"}, ValueError, "'broken' is no state; there are: pending"),
        ({"reason": ["error", "why"]}, ValueError, "'why' is no reason; there are: "),
        ({"since": "soon"}, ValueError, "since: 'soon' is no duration"),
        ({"since": -5}, ValueError, "since: a duration must be finite and not negative"),
        ({"since": datetime(2026, 1, 1)}, ValueError, "has no time zone"),  # noqa: DTZ001
        ({"until": "2026-13-01"}, ValueError, "until: '2026-13-01' is no date"),
        ({"until": []}, TypeError, "until: "),
        ({"attempts": "many"}, ValueError, "attempts: 'many' is no number of attempts"),
        ({"attempts": True}, TypeError, "attempts: "),
        ({"attempts": 1.5}, TypeError, "attempts: "),
        ({"attempts": (1, 2, 3)}, TypeError, "attempts: a range is a pair"),
        ({"args": "path"}, TypeError, "args: values by the names of parameters"),
        ({"args": {5: 1}}, TypeError, "args: a parameter has a name, not 5"),
        ({"args": {'a"b': 1}}, ValueError, "is no parameter's name"),
        ({"args": {"a..b": 1}}, ValueError, "is no parameter's name"),
        ({"args": {"a": 1j}}, TypeError, "args: a cannot be"),
        ({"args": {"a": float("nan")}}, ValueError, "args: a can never be nan"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(
    app: App, filters: dict[str, Any], kind: type[Exception], says: str
) -> None:
    for narrow in (app.failed.where, app.jobs.exclude):
        with pytest.raises(kind) as raised:
            narrow(**filters)
        assert says in str(raised.value)


def test_leaving_out_nothing_in_particular(app: App) -> None:
    for filters in ({}, {"task": None}):
        with pytest.raises(ValueError, match="say which"):
            app.failed.exclude(**filters)


def test_acting_on_what_is_not_left_out(app: App, jobs: dict[str, str]) -> None:
    assert app.failed.exclude(error="OSError").discard().moved == 2
    assert sorted(jobs[job.id] for job in app.failed) == ["a", "b"]


def test_what_a_type_derives_from_is_learned_once(worked: Ledger) -> None:
    for _ in range(3):
        worked.add()
    claimed = worked.claim()
    for job in claimed[:2]:
        worked.end(job, Cause.RAISED, verdict="fail", error=RESET)
    other = msgspec.structs.replace(RESET, bases=("ConnectionError", "Sudden"))
    worked.end(claimed[2], Cause.RAISED, error=other)
    with worked.database.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT error_type, base FROM failbetter_bases").all()
    assert sorted(map(tuple, found)) == [
        ("ConnectionResetError", base) for base in ("ConnectionError", "OSError", "Sudden")
    ]
