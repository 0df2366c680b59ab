"""Jobs of an engine's own in the ledger: they follow the engine, and are never claimed (D2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger

from failbetter import App, Job, Refused, ids
from failbetter.ledger import adopted, claims
from failbetter.lifecycle.adopting import Sight, ended_in_rq
from failbetter.lifecycle.states import Reason, State

TEXT = """Traceback (most recent call last):
  File "/srv/shop/mail.py", line 12, in send
    connect(host)
ConnectionError: no route to mail.example
"""


def failed(name: str = "a", at: int = NOW, **given: object) -> Sight:
    """A job that RQ has as failed since `at`."""
    end = ended_in_rq("shop.send", TEXT)
    fields: dict[str, object] = {
        "name": name, "task": "shop.send", "queue": "mail", "mark": f"failed {at}",
        "state": State.FAILED, "reason": end.reason, "cause": end.cause, "run": str(at),
        "created_at": NOW, "run_at": NOW, "begun_at": at - SECOND, "ended_at": at,
        "worker": "w1", "said": "shop.send('ann')", "trouble": end.trouble,
        "evidence": {"exit": 1}, "message": '{"id":"a"}', **given,
    }  # fmt: skip
    return Sight(**fields)  # type: ignore[arg-type]


def waits(name: str = "a", mark: str = "queued") -> Sight:
    return Sight(
        name=name, task="shop.send", queue="mail", mark=mark, state=State.PENDING,
        created_at=NOW, run_at=NOW,
    )  # fmt: skip


def runs(name: str = "a", mark: str = "started") -> Sight:
    return Sight(
        name=name, task="shop.send", queue="mail", mark=mark, state=State.RUNNING,
        created_at=NOW, run_at=NOW, begun_at=NOW,
    )  # fmt: skip


def follow(app: App, *sights: Sight) -> int:
    return app.database.transact(lambda tx: adopted.follow(tx, "rq", sights))


def the_job(app: App) -> Job:
    (found,) = app.jobs
    return found


def to_send(app: App) -> list[str]:
    with app.database.look() as tx:
        return [one.name for one in adopted.to_send(tx, "rq", 0, 100)[0]]


def test_a_failure_is_a_row_with_its_evidence(app: App) -> None:
    assert follow(app, failed()) == 1
    job = the_job(app)
    assert (job.state, job.reason, job.origin) == ("failed", "error", "rq")
    assert (job.task, job.queue, job.error_type) == ("shop.send", "mail", "ConnectionError")
    assert job.error_message == "no route to mail.example"
    (attempt,) = job.attempts
    assert (attempt.number, attempt.cause, attempt.worker) == (1, "raised", "w1")
    assert attempt.traceback == TEXT
    assert attempt.evidence == {"exit": 1}
    assert job.args == {"description": "shop.send('ann')"}
    # As ours are: filters, groups.
    assert app.failed.where(error="ConnectionError", queue="mail").count() == 1
    assert [group.count for group in app.failed.groups()] == [1]


def test_what_is_seen_again_by_whoever_looks_changes_nothing(app: App) -> None:
    follow(app, failed())
    before = the_job(app).row
    assert follow(app, failed()) == 0
    assert follow(app, failed(mark="told by another")) == 0
    assert the_job(app).row == before
    assert len(the_job(app).attempts) == 1


def test_a_job_that_was_never_in_trouble_has_no_row(app: App) -> None:
    assert follow(app, waits(), runs("b")) == 0
    assert app.jobs.count() == 0


def test_retries_there_are_attempts_of_one_job(app: App) -> None:
    """Each with its own error; the ledger's state is what RQ says."""
    follow(app, failed(state=State.PENDING, reason=None, ended_at=NOW))
    assert the_job(app).state == "pending"
    follow(app, runs())
    job = the_job(app)
    assert (job.state, job.attempt, job.waiting_for()) == ("running", 2, "runs in rq")
    follow(app, failed(at=NOW + SECOND))
    job = the_job(app)
    assert (job.state, job.attempt) == ("failed", 2)
    assert [one.state for one in job.attempts] == ["pending", "failed"]
    follow(app, waits(), runs(mark="again"))
    follow(app, Sight(**{**_fields(runs()), "state": State.SUCCEEDED, "mark": "done"}))
    assert the_job(app).state == "succeeded"


def _fields(sight: Sight) -> dict[str, object]:
    return {name: getattr(sight, name) for name in sight.__struct_fields__}


@pytest.mark.parametrize("sight", [waits(), runs()])
def test_it_is_never_claimed(app: App, worked: Ledger, sight: Sight) -> None:
    """Neither as the engine says it waits, nor after a retry, an undo or a restore."""

    def claimable() -> list[object]:
        with app.database.write() as tx:
            return list(claims.claim(tx, 1, (), 10, tx.now() + 10**12)[0])

    follow(app, failed())
    follow(app, sight)
    assert claimable() == []
    follow(app, failed(at=NOW + SECOND))
    the_job(app).retry()
    assert claimable() == []
    follow(app, failed(at=NOW + 2 * SECOND))
    app.failed.where(task="shop.send").retry()
    assert claimable() == []
    follow(app, failed(at=NOW + 3 * SECOND))
    operation = app.failed.where(task="shop.send").retry()
    operation.undo()
    assert the_job(app).state == "failed"
    operation = app.failed.where(task="shop.send").discard()
    operation.undo()
    assert the_job(app).state == "failed"
    assert claimable() == []
    app.pause(task="shop.send")
    the_job(app).retry()
    assert claimable() == []
    app.resume(task="shop.send")
    assert claimable() == []


def test_a_retry_is_kept_until_the_engine_has_the_job(app: App) -> None:
    follow(app, failed())
    job = the_job(app).retry()
    assert (job.state, to_send(app)) == ("pending", ["a"])
    assert job.waiting_for() == "`failbetter maintain` to put it back into rq"
    # The engine still says that it has failed: that is no news.
    follow(app, failed(), failed(mark="other words"))
    assert (the_job(app).state, to_send(app)) == ("pending", ["a"])
    app.database.transact(lambda tx: adopted.sent(tx, ids.from_text(job.id)))
    assert to_send(app) == []
    assert the_job(app).waiting_for() == "rq, where it waits"
    # It fails anew: that is.
    follow(app, failed(at=NOW + SECOND))
    assert (the_job(app).state, the_job(app).attempt) == ("failed", 2)


def test_an_undo_takes_back_what_the_engine_does_not_have_yet(app: App) -> None:
    follow(app, failed(), failed("b"))
    operation = app.failed.where(task="shop.send").retry()
    assert to_send(app) == ["a", "b"]
    first = next(job for job in app.jobs)
    number = ids.from_text(first.id)
    app.database.transact(lambda tx: adopted.sent(tx, number))
    operation.undo()
    assert to_send(app) == []
    assert first.refresh().state == "pending"
    assert [job.state for job in app.jobs if job.id != first.id] == ["failed"]


def test_what_is_held_is_not_put_back(app: App) -> None:
    follow(app, failed())
    app.pause(task="shop.send")
    the_job(app).retry()
    assert to_send(app) == []
    app.resume(task="shop.send")
    assert to_send(app) == ["a"]


def test_a_paced_retry_is_put_back_at_its_pace(app: App) -> None:
    follow(app, *[failed(f"j{n}") for n in range(5)])
    app.failed.where(task="shop.send").retry(rate=0.001)
    assert len(to_send(app)) <= 1


def test_what_makes_no_sense_is_refused_in_one_line(app: App) -> None:
    follow(app, failed(), failed("b"))
    for job in list(app.jobs):
        with pytest.raises(Refused, match="rq's own"):
            job.cancel()
    app.allow_edit = True
    with pytest.raises(Refused, match="rq's own, whose arguments are not read"):
        next(iter(app.jobs)).edit_and_retry({"x": 1})


def test_an_id_that_was_given_again_is_another_job(app: App) -> None:
    """The old one stays as history, and cannot be put back: its message is gone there."""
    follow(app, failed())
    old = the_job(app)
    preview = app.failed.where(task="shop.send").preview()
    follow(app, failed(at=NOW + 9 * SECOND, created_at=NOW + 5 * SECOND))
    assert app.failed.count() == 2
    with pytest.raises(Refused, match="another job of its id"):
        old.retry()
    assert preview.retry().report().skipped == {"changed": 1}
    again = app.failed.where(task="shop.send").preview()
    assert sorted(one.verdict for one in again) == ["ready", "superseded"]


def test_a_live_job_whose_id_was_given_again_is_put_aside(app: App) -> None:
    follow(app, failed(state=State.PENDING, reason=None))
    follow(app, failed(at=NOW + 9 * SECOND, created_at=NOW + 5 * SECOND))
    assert sorted((job.state, job.reason) for job in app.jobs) == [
        ("discarded", "superseded"),
        ("failed", "error"),
    ]


def test_what_is_discarded_or_deleted_here_stays_away(app: App) -> None:
    """The engine has it for a year; only news brings it back."""
    follow(app, failed(), failed("b"))
    app.failed.where(task="shop.send").discard()
    follow(app, failed(), failed("b", mark="other words"))
    assert {job.state for job in app.jobs} == {"discarded"}
    app.jobs.where(state="discarded").prune(older_than=0, all=True)
    assert app.jobs.count() == 0
    follow(app, failed(), failed("b"))
    assert app.jobs.count() == 0
    follow(app, failed(at=NOW + SECOND))
    assert app.jobs.count() == 1


def test_whoever_tells_first_records_it_once(connect: Callable[[], Ledger], app: App) -> None:
    """A worker and `failbetter maintain` see the same failure."""
    other = connect()
    follow(app, failed())
    with other.database.write() as tx:
        assert adopted.follow(tx, "rq", [failed(mark="by maintain")]) == 0
    assert len(the_job(app).attempts) == 1


def test_hooks_are_told_of_its_end(app: App) -> None:
    """A14: as of ours, once for each ending."""

    @app.on_failed
    def tell(event: object) -> None: ...

    from failbetter.ledger import hooks

    app.database.transact(lambda tx: hooks.register(tx, app.hooks, app.tasks))
    follow(app, failed(state=State.PENDING, reason=None))
    assert app.jobs.where(task="tell").count() == 0
    follow(app, failed(at=NOW + SECOND))
    follow(app, failed(at=NOW + SECOND, mark="other words"))
    assert app.jobs.where(task="tell").count() == 1


def test_what_is_live_there_is_looked_at_again(app: App) -> None:
    follow(app, failed(state=State.PENDING, reason=None), failed("b"))

    def live() -> list[str]:
        with app.database.look() as tx:
            return [one.name for one in adopted.live(tx, "rq", 0, 10)]

    assert live() == ["a"]
    follow(app, runs())
    assert live() == ["a"]
    follow(app, Sight(**{**_fields(runs()), "state": State.SUCCEEDED, "mark": "done"}))
    assert live() == []


def test_stopped_there_is_cancelled_here(app: App) -> None:
    stopped = failed(state=State.DISCARDED, reason=Reason.CANCELLED)
    follow(app, stopped)
    assert (the_job(app).state, the_job(app).reason) == ("discarded", "cancelled")
