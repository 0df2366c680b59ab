"""Failures by cause, and what is said of a cause."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select
from tests.conformance.kit import NOW, SECOND, Ledger, ending, set_clocks

from failbetter import App, Group, Refused
from failbetter.durations import to_datetime
from failbetter.ids import to_text
from failbetter.ledger.endings import Error
from failbetter.ledger.filters import Filters, condition
from failbetter.ledger.schema import jobs
from failbetter.lifecycle.states import Cause

MINUTE = 60 * SECOND


def fail(
    ledger: Ledger,
    mark: str | None = "1-a",
    error: str | None = "ValueError",
    message: str = "no",
    *,
    at: int = NOW,
    code: str = "v1",
    **given: Any,
) -> str:
    """A job that has failed; its id."""
    number = ledger.add(**given)
    (job,) = ledger.claim()
    said = None if error is None else Error(error, message, None, mark)
    made = ending(job, Cause.RAISED, verdict="fail", error=said, now=at)
    assert ledger.settle(msgspec.structs.replace(made, code=code)) == []
    return to_text(number)


def only(app: App, mark: str = "1-a") -> Group:
    (group,) = app.failed.where(fingerprint=mark).groups()
    return group


def test_what_is_known_of_a_group(app: App, worked: Ledger) -> None:
    fail(worked, at=NOW + 2 * MINUTE, queue="slow", code="v2")
    fail(worked, at=NOW + MINUTE)
    newest = fail(worked, message="no,\nnot that", at=NOW + 3 * MINUTE)
    worked.add()
    group = only(app)
    assert (group.title, group.task, group.reason) == ("work: ValueError", "work", "error")
    assert (group.error_type, group.message, group.count) == ("ValueError", "no,\nnot that", 3)
    assert (group.tasks, group.queues, group.code_versions) == (
        ("work",),
        ("default", "slow"),
        ("v1", "v2"),
    )
    assert group.first_seen is not None
    assert group.last_seen is not None
    assert (group.last_seen - group.first_seen).total_seconds() == 120
    assert group.sample.id == newest
    assert (group.state, group.reopened, group.recurred) == ("open", False, 0)
    assert (group.actor, group.note, group.changed_at) == (None, None, None)


def test_the_largest_first_and_of_equal_ones_the_newest(app: App, worked: Ledger) -> None:
    fail(worked, "1-old", "KeyError")
    for _ in range(2):
        fail(worked, "1-many", "OSError")
    fail(worked, "1-new", "TypeError")
    assert [group.fingerprint for group in app.failed.groups()] == ["1-many", "1-new", "1-old"]


def test_titles_tell_groups_apart(app: App, worked: Ledger) -> None:
    fail(worked, "1-a", message="no  disk")
    fail(worked, "1-b", message="x" * 200)
    fail(worked, "1-c", "KeyError", "'size'")
    titles = {group.fingerprint: group.title for group in app.failed.groups()}
    assert titles == {
        "1-a": "work: ValueError: no disk",
        "1-b": f"work: ValueError: {'x' * 80}",
        "1-c": "work: KeyError",
    }


def test_failures_without_a_fingerprint_are_told_apart_as_far_as_can_be(
    app: App, worked: Ledger
) -> None:
    for error in (None, None, "OSError"):
        fail(worked, None, error)
    fail(worked, None, None, task="other", queue="slow", code="v2")
    groups = app.failed.groups()
    assert [(group.title, group.count, group.fingerprint) for group in groups] == [
        ("work: error", 2, None),
        ("other: error", 1, None),
        ("work: OSError", 1, None),
    ]
    assert (groups[1].queues, groups[1].code_versions) == (("slow",), ("v2",))
    assert sum(group.count for group in groups) == app.failed.count() == 4
    for act in (groups[0].resolve, groups[0].ignore, groups[0].reopen):
        with pytest.raises(Refused, match="no fingerprint"):
            act()


def test_groups_of_nothing_and_of_what_has_not_failed(app: App, worked: Ledger) -> None:
    assert app.failed.groups() == []
    worked.add()
    (group,) = app.jobs.groups()
    assert (group.title, group.count, group.first_seen) == ("work: pending", 1, None)


def test_said_of_a_group_and_found_by_it(app: App, worked: Ledger) -> None:
    for mark in ("1-a", "1-b", "1-c"):
        fail(worked, mark, at=worked.database.now() - MINUTE)
    resolved = only(app, "1-a").resolve(note="fixed in v2", actor="ann")
    assert (resolved.state, resolved.note, resolved.actor) == ("resolved", "fixed in v2", "ann")
    ignored = only(app, "1-b").ignore(note="known", actor="bob")
    assert only(app, "1-a") == resolved
    assert only(app, "1-b") == ignored
    assert resolved.changed_at is not None
    for state, marks in (("open", "c"), ("resolved", "a"), ("ignored", "b"), (None, "cba")):
        found = app.failed.groups(state)
        assert [group.fingerprint for group in found] == [f"1-{mark}" for mark in marks]
    # What a person says of a group is nothing that happens to its jobs.
    assert app.failed.count() == 3
    again = ignored.reopen(actor="ann")
    assert (again.state, again.actor, again.note) == ("open", "ann", None)
    assert only(app, "1-b") == again


def test_a_cause_that_recurs_opens_its_group_again(app: App, worked: Ledger) -> None:
    now = worked.database.now()
    for _ in range(3):
        fail(worked, at=now - MINUTE)
    fail(worked, "1-b", at=now + MINUTE)
    assert only(app).resolve(note="fixed", actor="ann").state == "resolved"
    assert only(app).state == "resolved"
    for _ in range(2):
        fail(worked, at=now + MINUTE)
    group = only(app)
    assert (group.state, group.reopened, group.recurred, group.count) == ("open", True, 2, 5)
    assert (group.actor, group.note) == ("ann", "fixed")
    assert [each.fingerprint for each in app.failed.groups("open")] == ["1-a", "1-b"]
    assert app.failed.groups("resolved") == []
    # Also where the question leaves out what has failed since.
    (part,) = app.failed.where(fingerprint="1-a", until=to_datetime(now)).groups()
    assert (part.count, part.state, part.recurred) == (3, "open", 2)


def test_resolved_again_it_stays_so_until_it_recurs_again(
    app: App, worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = worked.database.now()
    fail(worked, at=now - MINUTE)
    only(app).resolve()
    fail(worked, at=now + MINUTE)
    assert only(app).reopened
    set_clocks(monkeypatch, now + 2 * MINUTE)
    only(app).resolve()
    assert (only(app).state, only(app).recurred) == ("resolved", 0)
    fail(worked, at=now + 3 * MINUTE)
    assert (only(app).state, only(app).recurred) == ("open", 1)


def test_an_ignored_group_stays_so_and_its_later_failures_count(app: App, worked: Ledger) -> None:
    now = worked.database.now()
    fail(worked, at=now - MINUTE)
    only(app).ignore()
    fail(worked, at=now + MINUTE)
    group = only(app)
    assert (group.state, group.reopened, group.count) == ("ignored", False, 2)
    assert app.failed.count() == 2
    assert [each.count for each in app.failed.groups("ignored")] == [2]


def test_a_retry_that_fails_alike_has_recurred(app: App, worked: Ledger) -> None:
    job = app.job(fail(worked, at=worked.database.now() - MINUTE))
    only(app).resolve()
    job.retry()
    assert app.failed.groups() == []
    (claimed,) = worked.claim(now=worked.soon())
    said = Error("ValueError", "no", None, "1-a")
    worked.end(claimed, Cause.RAISED, verdict="fail", error=said, now=worked.soon())
    assert (only(app).state, only(app).recurred) == ("open", 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"note": "x" * 4_001}, "note: at most 4000"), ({"actor": "x" * 191}, "actor: at most 190")],
    ids=["note", "actor"],
)
def test_what_is_too_long_is_not_kept(
    app: App, worked: Ledger, given: dict[str, str], says: str
) -> None:
    fail(worked)
    with pytest.raises(ValueError, match=says):
        only(app).ignore(**given)
    assert only(app).state == "open"


def test_no_such_state(app: App) -> None:
    with pytest.raises(ValueError, match="'gone' is no state of a group; there are: open, "):
        app.failed.groups("gone")


def test_many_groups(app: App, worked: Ledger) -> None:
    for _ in range(1_200):
        worked.add()
    said = [
        ending(job, Cause.RAISED, verdict="fail", error=Error("OSError", "no", None, f"1-{n:04}"))
        for n, job in enumerate(worked.claim(limit=500) + worked.claim(limit=500))
    ]
    assert worked.settle(*said) == []
    groups = app.failed.groups()
    assert len(groups) == 1_000
    assert groups[0].sample.error_type == "OSError"


def test_a_cause_is_sought_by_its_index(ledger: Ledger) -> None:
    database = ledger.database
    meant = condition(Filters(states=("failed",), fingerprint=("1-a",)), database.kind)
    compiled = (
        select(func.count())
        .select_from(jobs)
        .where(meant)
        .compile(database.engine, compile_kwargs={"literal_binds": True})
    )
    with database.engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET enable_seqscan = off")
        plan = str(connection.exec_driver_sql(explain + str(compiled)).all())
    assert "failbetter_jobs_by_cause" in plan
    # Of both parts of its key, not only the one that its condition says already.
    assert re.search(r"state = .*fingerprint.* = |state=\? AND fingerprint=\?|const,const", plan), (
        plan
    )
