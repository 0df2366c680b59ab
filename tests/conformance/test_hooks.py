"""Hooks (A14): each event once, in the transaction of the ending, whoever writes it; promise 10."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, ending, new_job, set_clocks

from failbetter import App, Event
from failbetter.durations import to_datetime
from failbetter.ids import to_text
from failbetter.ledger import acts, events, hooks, losses, supersession
from failbetter.ledger.endings import Error, settle
from failbetter.ledger.supersession import About
from failbetter.lifecycle.events import DISCARDED, FAILED, GROUP_OPENED, Hook
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause
from failbetter.recovery.sweeper import Sweeper

SILENT = Policy(silent=True)


def hook(kind: str, task: str | None = None, **given: Any) -> Hook:
    """A hook of such events, whose task is named for it."""
    fields: dict[str, Any] = {
        "event": kind,
        "task": task or f"on_{kind}",
        "queue": "hooks",
        "priority": 3,
        "policy": SILENT.to_json(),
        "expires_after": None,
        "tags": None,
        "parameter": "event",
        **given,
    }
    return Hook(**fields)


ALL = [hook(FAILED), hook(DISCARDED), hook(GROUP_OPENED)]


def register(ledger: Ledger, *known: Hook, tasks: tuple[str, ...] = ()) -> None:
    """Have code with these hooks loaded."""
    with ledger.database.write() as tx:
        hooks.register(tx, known, [*tasks, *(one.task for one in known)])


@pytest.fixture
def heard(worked: Ledger) -> Ledger:
    """A ledger with worker 1 and a hook of each kind."""
    register(worked, *ALL)
    return worked


def told(ledger: Ledger, kind: str | None = None) -> list[Event]:
    """What hooks were told, oldest first."""
    rows = [row for row in ledger.rows() if row.queue == "hooks"]
    rows.sort(key=lambda row: row.id)
    found = [msgspec.json.decode(row.payload, type=dict[str, Event])["event"] for row in rows]
    return [one for one in found if kind in (None, one.kind)]


def fail(ledger: Ledger, mark: str | None = "1-a", *, at: int = NOW, **given: Any) -> int:
    """A job that has failed; its id."""
    number = ledger.add(**given)
    (job,) = (job for job in ledger.claim(now=ledger.soon()) if job.id == number)
    said = Error("shop.Down", "no\nluck", None, mark)
    assert ledger.settle(ending(job, Cause.RAISED, verdict="fail", error=said, now=at)) == []
    return number


# -- failed, discarded


def test_what_a_failed_job_tells(heard: Ledger) -> None:
    """A14: all that its row knows, and a stable id."""
    number = fail(heard, at=NOW + SECOND, subject="image:5", tags='["a","b"]')
    (event,) = told(heard, FAILED)
    assert event == Event(
        id=f"{to_text(number)}.{heard.row(number).fence}.failed",
        kind="failed",
        at=to_datetime(NOW + SECOND),
        job=to_text(number),
        task="work",
        queue="default",
        reason="error",
        error_type="shop.Down",
        error_message="no\nluck",
        fingerprint="1-a",
        attempts=1,
        subject="image:5",
        tags=("a", "b"),
    )
    assert event.title == "work: shop.Down"


def test_its_job_is_made_as_the_hook_says(worked: Ledger) -> None:
    register(worked, hook(FAILED, parameter="what", expires_after=5 * SECOND, tags='["x"]'))
    fail(worked)
    (row,) = (row for row in worked.rows() if row.task == "on_failed")
    assert (row.queue, row.priority, row.state, row.tags) == ("hooks", 3, "pending", '["x"]')
    assert row.policy == SILENT.to_json()
    assert row.expires_at == row.run_at + 5 * SECOND
    assert list(msgspec.json.decode(row.payload)) == ["what"]


def test_who_succeeds_or_runs_again_tells_nothing(heard: Ledger) -> None:
    numbers = heard.insert(*[new_job() for _ in range(3)])
    one, other, third = heard.claim()
    heard.end(one)
    heard.end(other, Cause.RAISED)
    heard.give_back(third)
    assert {heard.row(number).state for number in numbers} == {"succeeded", "pending"}
    assert told(heard) == []


def test_each_event_is_told_once(heard: Ledger) -> None:
    """A14: a late ending of the same attempt changes nothing, and tells nothing."""
    heard.add()
    job = heard.claim_one()
    late = ending(job, Cause.RAISED, verdict="fail")
    assert heard.settle(late) == []
    assert heard.settle(late) == [late]
    assert len(told(heard)) == 1


def test_each_failure_of_a_job_is_an_event(heard: Ledger) -> None:
    number = fail(heard)
    assert heard.retry(number) is None
    (job,) = heard.claim(queues=["default"], now=heard.soon())
    heard.end(job, Cause.RAISED, verdict="fail")
    first, second = told(heard, FAILED)
    assert first.job == second.job == to_text(number)
    assert first.id != second.id
    assert second.attempts == 2


def test_a_transaction_that_is_undone_leaves_neither(heard: Ledger) -> None:
    """Promise 10: no event without its ending."""
    number = heard.add()
    job = heard.claim_one()
    with pytest.raises(ZeroDivisionError), heard.database.write() as tx:
        settle(tx, [ending(job, Cause.RAISED, verdict="fail")])
        raise ZeroDivisionError
    assert heard.row(number).state == "pending"
    assert told(heard) == []


def test_what_a_person_does(heard: Ledger) -> None:
    """A14: cancelling and discarding are events; retrying and restoring are none."""
    cancelled = heard.add()
    assert heard.cancel(cancelled)
    assert not heard.cancel(cancelled)
    failed = fail(heard)
    assert heard.retry(failed) is None
    assert heard.cancel(failed)
    other = fail(heard)
    assert heard.discard(other) is None
    assert heard.discard(other) is not None
    assert [(one.job, one.reason) for one in told(heard, DISCARDED)] == [
        (to_text(cancelled), "cancelled"),
        (to_text(failed), "cancelled"),
        (to_text(other), "by_operator"),
    ]
    assert [one.job for one in told(heard, FAILED)] == [to_text(failed), to_text(other)]


def test_cancelled_while_it_was_claimed(heard: Ledger) -> None:
    heard.insert(new_job(), new_job())
    one, other = heard.claim()
    assert heard.cancel(one.id)
    heard.give_back(one, other)
    assert [(event.job, event.reason) for event in told(heard)] == [(to_text(one.id), "cancelled")]
    with heard.database.write() as tx:
        acts.cancel_as_asked(tx, [one.id, other.id], NOW)
    assert len(told(heard)) == 1


def test_many_at_once(app: App, heard: Ledger) -> None:
    """A14: an operation tells of each job that it discards, and of none that it retries."""
    numbers = [fail(heard, f"1-{at % 3}") for at in range(7)]
    assert len(told(heard, FAILED)) == 7
    operation = app.failed.preview().discard()
    assert {one.job for one in told(heard, DISCARDED)} == {to_text(number) for number in numbers}
    operation.undo()
    app.jobs.where(state="discarded", task="work").restore()
    assert (len(told(heard, FAILED)), len(told(heard, DISCARDED))) == (7, 7)
    app.failed.preview().retry()
    assert (len(told(heard, FAILED)), len(told(heard, DISCARDED))) == (7, 7)


def test_a_batch_of_endings(heard: Ledger) -> None:
    count = 120
    heard.insert(*[new_job() for _ in range(count)])
    said = Error("shop.Down", "no", None, "1-a")
    made = [ending(job, Cause.RAISED, verdict="fail", error=said) for job in heard.claim(1, count)]
    assert heard.settle(*made) == []
    assert len({one.id for one in told(heard, FAILED)}) == count
    assert len(told(heard, GROUP_OPENED)) == 1


def test_what_expires(heard: Ledger, stopped_clock: None) -> None:
    heard.add(expires_at=NOW - 1)
    Sweeper(heard.database, own=1).tick(0.0)
    assert [(one.kind, one.reason) for one in told(heard)] == [("discarded", "expired")]


def test_what_a_gone_worker_held(heard: Ledger) -> None:
    """A14: declared by whoever sweeps, as the dead worker itself could not tell."""
    number = heard.add(policy=Policy(on_lost="fail"))
    heard.begin(heard.claim_one())
    heard.remove(1)
    heard.register(2)
    Sweeper(heard.database, own=2).tick(0.0)
    assert heard.row(number).state == "failed"
    (event,) = told(heard, FAILED)
    assert (event.reason, event.error_type) == ("lost", "failbetter.WorkerLost")


def test_what_is_lost_and_cancelled(heard: Ledger) -> None:
    heard.add()
    job = heard.claim_one()
    heard.begin(job)
    heard.cancel(job.id)
    loss = losses.Loss(job.id, job.fence, 1, 1, NOW, Error("L", "lost"), "{}", None)
    with heard.database.write() as tx:
        assert losses.hand_back(tx, [loss], "worker-1", None, NOW)
    assert [one.reason for one in told(heard)] == ["cancelled"]


def test_what_is_superseded(heard: Ledger) -> None:
    with heard.database.write() as tx:
        supersession.record(tx, [(5, About("work", "s", 9))], NOW)
    number = heard.add(subject="s", version=8)
    assert heard.claim() == []
    assert [(one.job, one.reason) for one in told(heard)] == [(to_text(number), "superseded")]


# -- which hooks


def test_what_is_edited(app: App, heard: Ledger) -> None:
    """Whose arguments are corrected is put aside for another job: that is an event, too."""
    app.allow_edit = True

    @app.task
    def work(n: int = 0) -> None: ...

    number = fail(heard, payload='{"n":1}')
    app.job(to_text(number)).edit_and_retry({"n": 2})
    (event,) = told(heard, DISCARDED)
    assert (event.job, event.reason) == (to_text(number), "by_operator")


def test_only_of_some_tasks(worked: Ledger) -> None:
    register(worked, hook(FAILED, only=("pay", "ship")), hook(FAILED, "other", only=("work",)))
    fail(worked, task="pay")
    fail(worked)
    assert [row.task for row in worked.rows() if row.queue == "hooks"] == ["other", "on_failed"]


def test_hooks_of_hooks_are_not_called(heard: Ledger) -> None:
    """A14: what a hook fails of is no event, so that nothing goes on for ever."""
    fail(heard)
    number = heard.add(task="on_failed", policy=SILENT)
    (job,) = (job for job in heard.claim(now=heard.soon()) if job.id == number)
    heard.end(job, Cause.RAISED, verdict="fail")
    assert heard.row(number).state == "failed"
    assert heard.discard(number) is None
    assert len(told(heard, FAILED)) == 1
    assert told(heard, DISCARDED) == []


def test_a_drill_fails_on_purpose(heard: Ledger) -> None:
    fail(heard, task="failbetter.drill.work")
    assert told(heard) == []


def test_without_hooks_nothing_is_made(worked: Ledger) -> None:
    fail(worked)
    assert len(worked.rows()) == 1


def test_a_hook_that_came_to_be_another(worked: Ledger) -> None:
    register(worked, hook(FAILED))
    register(worked, hook(FAILED, queue="others", only=("pay",)))
    with worked.database.look() as tx:
        assert events.registered(tx) == [hook(FAILED, queue="others", only=("pay",))]


def test_hooks_that_no_live_worker_knows_are_forgotten(worked: Ledger) -> None:
    """A14: as long as one of a rolling deploy knows it, it stays."""
    now = worked.soon()
    worked.register(2, tasks='["work","on_failed"]', renewed_at=now)
    register(worked, hook(FAILED))
    register(worked, tasks=("work",))
    assert known(worked) == ["on_failed"]
    worked.remove(2)
    with worked.database.write() as tx:
        hooks.tidy(tx)
    assert known(worked) == ["on_failed"]  # nobody is there to say
    worked.register(3, tasks='["failbetter.drill.work"]', renewed_at=now)
    with worked.database.write() as tx:
        hooks.tidy(tx)
    assert known(worked) == ["on_failed"]
    worked.register(4, renewed_at=now)
    with worked.database.write() as tx:
        hooks.tidy(tx)
    assert known(worked) == []


def known(ledger: Ledger) -> list[str]:
    with ledger.database.look() as tx:
        return [one.task for one in events.registered(tx)]


# -- groups


def test_a_group_opens_once(app: App, heard: Ledger) -> None:
    """A14: at its first failure, and no more at others, nor when one is retried in vain."""
    first = fail(heard)
    fail(heard)
    heard.retry(first)
    (job,) = heard.claim(queues=["default"], now=heard.soon())
    heard.end(job, Cause.RAISED, verdict="fail", error=Error("shop.Down", "no", None, "1-a"))
    other = fail(heard, "1-b")
    fail(heard, None)
    opened = told(heard, GROUP_OPENED)
    assert [(one.job, one.fingerprint) for one in opened] == [
        (to_text(first), "1-a"),
        (to_text(other), "1-b"),
    ]
    assert not any(one.reopened for one in opened)
    assert opened[0].id.endswith(".group_opened")


def test_nobody_has_said_anything_of_a_group_that_was_only_seen(app: App, heard: Ledger) -> None:
    fail(heard)
    (group,) = app.failed.where(fingerprint="1-a").groups()
    assert (group.state, group.reopened, group.changed_at, group.actor) == (
        "open",
        False,
        None,
        None,
    )
    group.ignore(note="known", actor="ann")
    (group,) = app.failed.where(fingerprint="1-a").groups()
    assert (group.state, group.note, group.actor) == ("ignored", "known", "ann")


def test_a_resolved_group_that_recurs(
    app: App, heard: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: it opens again, once, and keeps who had resolved it, until that is done again."""
    set_clocks(monkeypatch, NOW)
    fail(heard)
    (group,) = app.failed.where(fingerprint="1-a").groups()
    group.resolve(note="mended", actor="ann")
    fail(heard, at=NOW + 1)
    fail(heard, at=NOW + 2)
    assert [one.reopened for one in told(heard, GROUP_OPENED)] == [False, True]
    (group,) = app.failed.where(fingerprint="1-a").groups()
    assert (group.state, group.reopened, group.recurred, group.note, group.actor) == (
        ("open", True, 2, "mended", "ann")
    )
    set_clocks(monkeypatch, NOW + 3)
    group.resolve()
    fail(heard, at=NOW + 4)
    assert [one.reopened for one in told(heard, GROUP_OPENED)] == [False, True, True]


def test_an_ignored_group_is_not_told_of(app: App, heard: Ledger) -> None:
    fail(heard)
    (group,) = app.failed.where(fingerprint="1-a").groups()
    group.ignore()
    fail(heard, at=heard.soon())
    assert len(told(heard, GROUP_OPENED)) == 1


def test_old_groups_are_no_news_to_a_new_hook(app: App, worked: Ledger) -> None:
    """A14: neither one that had failed before, nor one that had come back before."""
    fail(worked)
    fail(worked, "1-b")
    (group,) = app.failed.where(fingerprint="1-b").groups()
    group.resolve()
    fail(worked, "1-b", at=worked.soon())
    register(worked, *ALL)
    fail(worked, at=worked.soon())
    fail(worked, "1-b", at=worked.soon() + 1)
    assert told(worked, GROUP_OPENED) == []


def test_of_all_who_fail_at_once_one_opens_the_group(
    heard: Ledger, connect: Callable[[], Ledger]
) -> None:
    """A14: two workers that know nothing of each other."""
    count = 6
    heard.insert(*[new_job() for _ in range(count)])
    said = Error("shop.Down", "no", None, "1-a")
    made = [ending(job, Cause.RAISED, verdict="fail", error=said) for job in heard.claim()]
    ready = threading.Barrier(count)
    others = [connect() for _ in made]

    def end(ledger: Ledger, one: Any) -> None:
        with ledger.database.look():
            pass
        ready.wait()
        ledger.settle(one)

    threads = [threading.Thread(target=end, args=pair) for pair in zip(others, made, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told(heard, FAILED)) == count
    assert len(told(heard, GROUP_OPENED)) == 1
