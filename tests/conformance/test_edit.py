"""Edit, then retry (issue 5, item 5): another job with corrected arguments, in the place of one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.kit import NOW, Ledger, unlike
from tests.conformance.test_preview import with_effects

from failbetter import App, Edit, Job, Refused, ids
from failbetter.lifecycle.policy import Policy


@pytest.fixture
def editable(app: App) -> App:
    app.allow_edit = True

    @app.task(tags=("code",), redact=("token",))
    def work(n: int = 0, token: str = "") -> None: ...

    @app.task(unique=lambda key: key, subject=lambda key: key, exclusive=lambda key: key)
    def keyed(key: str) -> None: ...

    return app


def failed(app: App, ledger: Ledger, **given: Any) -> Job:
    given = {"payload": '{"n":1,"token":"secret"}', "tags": '["row"]', **given}
    return app.job(ids.to_text(ledger.fail(**given)))


def test_another_job_in_its_place(editable: App, worked: Ledger) -> None:
    job = failed(editable, worked, queue="slow", priority=3)
    made = job.edit_and_retry({"n": 2}, actor="ann", note="was wrong")
    row = made.refresh().row
    assert row.payload == '{"n":2,"token":"secret"}'
    assert (row.task, row.queue, row.priority, made.tags) == ("work", "slow", 3, ("row",))
    assert (row.state, row.starts, row.attempts, row.error_type) == ("pending", 0, 0, None)
    assert made.args == {"n": 2, "token": "***"}
    job.refresh()
    assert (job.state, job.reason) == ("discarded", "by_operator")
    assert job.note == f"edited: {made.id} runs in its place"
    edit = made.edited_from
    assert edit is not None
    assert edit == Edit(made.id, job.id, ("n",), "ann", "was wrong", edit.at)
    assert job.edited_as == edit
    assert (made.edited_as, job.edited_from) == (None, None)
    assert made.id in {ids.to_text(one.id) for one in worked.claim(now=worked.soon())}


def test_a_redacted_value_can_be_replaced(editable: App, worked: Ledger) -> None:
    made = failed(editable, worked).edit_and_retry({"token": "another"})
    assert made.row.payload == '{"n":1,"token":"another"}'
    assert "another" not in repr(made.edited_from)


def test_arguments_that_no_longer_fit_are_what_it_is_for(editable: App, worked: Ledger) -> None:
    job = failed(editable, worked, payload='{"m":1}')
    assert job.edit_and_retry({"m": ..., "n": 1}).row.payload == '{"n":1}'


def test_keys_are_made_anew(editable: App, worked: Ledger) -> None:
    job = failed(editable, worked, task="keyed", payload='{"key":"a"}', unique="keyed:a")
    row = job.edit_and_retry({"key": "b"}).row
    assert (row.unique_key, row.exclusive_key, row.subject) == ("keyed:b", "keyed:b", "b")


def nothing_changed(app: App, job: Job, act: Callable[[], object], says: str) -> None:
    before, count = job.refresh().row, app.jobs.count()
    with pytest.raises(Refused, match=says):
        act()
    assert unlike(before, job.refresh().row) == {}
    assert app.jobs.count() == count
    assert job.edited_as is None


def test_it_must_be_allowed(editable: App, worked: Ledger) -> None:
    editable.allow_edit = False
    job = failed(editable, worked)
    nothing_changed(editable, job, lambda: job.edit_and_retry({"n": 2}), "allow_edit=True")
    assert App("sqlite:///jobs.db").allow_edit is False


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"n": "x"}, r"work\(\): argument 'n': expected `int`, got `str`"),
        ({"m": 1}, r"work\(\): there is no argument 'm'"),
        ({"n": object()}, r"work\(\): argument 'n'"),
    ],
)
def test_what_does_not_fit_is_named(editable: App, worked: Ledger, args: Any, says: str) -> None:
    job = failed(editable, worked)
    with pytest.raises(TypeError, match=says):
        job.edit_and_retry(args)
    assert (job.refresh().state, editable.jobs.count()) == ("failed", 1)


def test_no_change_is_none(editable: App, worked: Ledger) -> None:
    with pytest.raises(ValueError, match="no argument is to be another"):
        failed(editable, worked).edit_and_retry({})


def test_only_a_failed_job_of_a_known_task(editable: App, worked: Ledger) -> None:
    job = failed(editable, worked, task="gone")
    nothing_changed(editable, job, lambda: job.edit_and_retry({"n": 2}), "no task 'gone'")
    waiting = editable.tasks["work"].enqueue(5)
    nothing_changed(editable, waiting, lambda: waiting.edit_and_retry({"n": 2}), "but pending")


def test_a_live_job_has_the_new_key(editable: App, worked: Ledger) -> None:
    live = editable.tasks["keyed"].enqueue("b")
    job = failed(editable, worked, task="keyed", payload='{"key":"a"}', unique="keyed:a")
    nothing_changed(editable, job, lambda: job.edit_and_retry({"key": "b"}), "its unique key")
    assert live.refresh().state == "pending"


@pytest.mark.parametrize(
    ("done", "in_doubt", "says"),
    [(2, 1, "2 of 3 effects done"), (0, 1, "an effect of it is in doubt")],
)
def test_effects_need_a_word(
    editable: App, worked: Ledger, done: int, in_doubt: int, says: str
) -> None:
    number = with_effects(worked, done, in_doubt, uncertain=bool(not done), payload='{"n":1}')
    job = editable.job(ids.to_text(number))
    nothing_changed(editable, job, lambda: job.edit_and_retry({"n": 2}), says)
    made = job.edit_and_retry({"n": 2}, confirm=True)
    assert made.effects == []


def test_what_its_task_says(editable: App, worked: Ledger) -> None:
    asks = failed(editable, worked, policy=Policy(replay="confirm"))
    nothing_changed(editable, asks, lambda: asks.edit_and_retry({"n": 2}), "its task asks for it")
    asks.edit_and_retry({"n": 2}, confirm=True)
    never = failed(editable, worked, policy=Policy(replay="never"))
    nothing_changed(
        editable, never, lambda: never.edit_and_retry({"n": 2}, confirm=True), "never to be run"
    )


def test_of_two_people_one_wins(editable: App, worked: Ledger, database_url: str) -> None:
    """Compare-and-set on state and fence: one job comes of it."""
    job = failed(editable, worked)
    together = threading.Barrier(2)
    outcomes: list[str] = []

    def edit(n: int) -> None:
        app = App(database_url, allow_edit=True)
        app.task(name="work")(editable.tasks["work"].function)
        own = app.job(job.id)
        together.wait(30)
        try:
            outcomes.append(own.edit_and_retry({"n": n}).id)
        except Refused as error:
            outcomes.append(f"refused: {error}")
        app.close()

    threads = [threading.Thread(target=edit, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 2
    assert sum(one.startswith("refused") for one in outcomes) == 1
    assert editable.jobs.count() == 2
    with pytest.raises(Refused, match="not failed"):
        job.edit_and_retry({"n": 4})


def test_who_looked_before_a_retry_comes_too_late(
    editable: App, worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence: what failed again since is another failure."""
    job = failed(editable, worked)
    arguments = editable.tasks["work"].arguments
    edited = arguments.edited

    def meanwhile(*given: Any) -> Any:
        worked.retry(ids.from_text(job.id), NOW)
        worked.end(worked.claim_one(), worker="worker-1")
        return edited(*given)

    monkeypatch.setattr(arguments, "edited", meanwhile)
    with pytest.raises(Refused, match="not failed any more, or was retried meanwhile"):
        job.edit_and_retry({"n": 2})
    assert editable.jobs.count() == 1


def test_edits_go_with_the_job_that_was_made(editable: App, worked: Ledger) -> None:
    job = failed(editable, worked)
    made = job.edit_and_retry({"n": 2})
    made.cancel()
    editable.jobs.where(ids=[made.id]).prune()
    assert job.edited_as is None
    again = failed(editable, worked)
    kept = again.edit_and_retry({"n": 2})
    editable.jobs.where(ids=[again.id]).prune()
    edit = kept.edited_from
    assert edit is not None
    assert edit.original == again.id
