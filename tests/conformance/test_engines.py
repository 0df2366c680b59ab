"""The ledger under an engine: what is sent, what is sent again, and what runs in a guest. C6, D1.

The engine here is a list of ids: what it carries, loses and repeats is up to each test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import failbetter
from failbetter import App, ids
from failbetter.engine import Capabilities, Keeper, Ticket
from failbetter.errors import EngineUnavailable, LedgerUnavailable
from failbetter.job import Job
from failbetter.ledger import registry, sending
from failbetter.ledger.claims import Claimed
from failbetter.ledger.prepared import ONE, Prepared
from failbetter.ledger.schema import jobs
from failbetter.worker.desk import Desk
from failbetter.worker.dispatch import LOST_AFTER, Dispatcher
from failbetter.worker.guest import Guest


class Carrier:
    """An engine that is a list."""

    name = "list"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.carried: list[Ticket] = []
        self.is_up = True

    def send(self, tickets: Sequence[Ticket]) -> None:
        if not self.is_up:
            raise EngineUnavailable("the list is out of reach")
        self.carried += tickets

    def missing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        there = {(one.id, one.fence) for one in self.carried}
        return [one for one in tickets if (one.id, one.fence) not in there]

    def is_gone(self, keeper: Keeper) -> str | None:
        return None

    def close(self) -> None:
        pass

    def ids(self) -> list[int]:
        return [ticket.id for ticket in self.carried]


def number_of(job: Job) -> int:
    return ids.from_text(job.id)


class Place:
    """An app on the carrier, and a guest of it in this process."""

    def __init__(self, app: App, carrier: Carrier) -> None:
        self.app, self.carrier = app, carrier
        self.dispatcher = Dispatcher(app.database, carrier)
        self.guest = Guest(app, "list", Keeper("worker"))
        self._now = time.monotonic()

    def dispatch(self, seconds: float = 100.0) -> int:
        """What whoever maintains does, some time later by its own clock; how many were sent."""
        self._now += seconds
        report = self.dispatcher.tick(self._now)
        return report.sent + report.again

    def deliver(self) -> None:
        """Run all that is carried."""
        while self.carrier.carried:
            self.guest.run(self.carrier.carried.pop(0).id)

    def age(self, job: Job) -> None:
        """As if it had been sent long ago."""
        with self.app.database.write() as tx:
            ticket = Ticket(number_of(job), 0, "", "", 0, None)
            sending.mark_sent(tx, [ticket], tx.now() - round(2 * LOST_AFTER * 1e6))


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    carrier = Carrier()
    app = App(database_url, engine=carrier, fleet_folder=tmp_path / "fleet", lease=2)
    made = Place(app, carrier)
    yield made
    made.guest.leave()
    app.close()


def test_what_is_enqueued_is_sent_and_runs_once(place: Place) -> None:
    seen = []

    @place.app.task
    def note(n: int) -> int:
        seen.append(n)
        return n + 1

    job = note.enqueue(1)
    (ticket,) = place.carrier.carried
    assert (ticket.id, ticket.queue, ticket.timeout) == (number_of(job), "default", 3600)
    place.carrier.carried *= 3
    place.deliver()
    assert seen == [1]
    assert (job.refresh().state, job.result()) == ("succeeded", 2)
    assert place.dispatch() == 0


def test_many_are_sent_at_once(place: Place) -> None:
    @place.app.task
    def note(n: int) -> None: ...

    jobs = note.enqueue_many([(n,) for n in range(20)])
    assert place.carrier.ids() == [number_of(job) for job in jobs]


def test_a_unique_job_that_lives_is_not_sent_again(place: Place) -> None:
    @place.app.task(unique=lambda n: n)
    def note(n: int) -> None: ...

    note.enqueue(1)
    assert not note.enqueue(1).created
    assert len(place.carrier.carried) == 1


def test_what_cannot_be_sent_is_accepted_and_sent_later(place: Place) -> None:
    """C6: a row whose enqueue never reached the engine does not wait for ever."""

    @place.app.task
    def note() -> None: ...

    place.carrier.is_up = False
    job = note.enqueue()
    assert job.refresh().state == "pending"
    assert place.dispatch() == 0
    place.carrier.is_up = True
    assert place.dispatch() == 1
    place.deliver()
    assert job.refresh().state == "succeeded"


def test_what_the_engine_loses_is_sent_again(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    lost, kept = note.enqueue(), note.enqueue()
    place.age(lost), place.age(kept)
    place.carrier.carried = [one for one in place.carrier.carried if one.id == number_of(kept)]
    assert place.dispatch() == 1
    assert sorted(place.carrier.ids()) == [number_of(lost), number_of(kept)]
    assert place.dispatch() == 0


def test_what_was_sent_just_now_is_not_asked_about(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    note.enqueue()
    place.carrier.carried.clear()
    assert place.dispatch() == 0


def test_a_job_made_in_a_callers_transaction_is_sent_once_it_is_committed(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    with place.app.database.engine.connect() as connection, connection.begin():
        job = note.using(connection=connection).enqueue()
        assert place.carrier.carried == []
    assert place.dispatch() == 1
    place.deliver()
    assert job.refresh().state == "succeeded"


def test_what_is_put_off_is_sent_when_it_is_due(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    note.using(run_after="1h").enqueue()
    assert place.carrier.carried == []
    assert place.dispatch() == 0


def test_a_failure_is_tried_again_by_another_sending(place: Place) -> None:
    tries = []

    @place.app.task(max_attempts=2, backoff=failbetter.fixed(0))
    def fail() -> None:
        tries.append(1)
        raise ValueError("no")

    job = fail.enqueue()
    place.deliver()
    assert job.refresh().state == "pending"
    assert place.dispatch() == 1
    place.deliver()
    job.refresh()
    assert (job.state, job.reason, len(job.attempts), len(tries)) == ("failed", "error", 2, 2)
    job.retry()
    assert place.dispatch() == 1


def test_a_paused_queue_is_not_sent_and_not_begun(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    job = note.enqueue()
    place.app.pause("default")
    place.deliver()
    assert job.refresh().state == "pending"
    assert place.dispatch() == 0
    place.app.resume("default")
    assert place.dispatch() == 1
    place.deliver()
    assert job.refresh().state == "succeeded"


def test_a_paused_task_waits_under_its_hold(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    job = note.enqueue()
    place.app.pause(task="note")
    place.deliver()
    assert place.dispatch() == 0
    assert "task note" in (job.refresh().waiting_for() or "")
    place.app.resume(task="note")
    while failbetter.holds.tick(place.app.database):
        pass
    assert place.dispatch() == 1
    place.deliver()
    assert job.refresh().state == "succeeded"


def test_jobs_of_one_exclusive_key_run_one_after_another(place: Place) -> None:
    states = []
    elsewhere = Guest(place.app, "list", Keeper("other"), slots=2)

    @place.app.task(exclusive=lambda n: "all")
    def note(n: int) -> None:
        if n == 1:
            assert not elsewhere.run(number_of(other))
            states.append(other.refresh().state)

    first, other = note.enqueue(1), note.enqueue(2)
    place.carrier.carried.pop()
    place.deliver()
    assert (states, first.refresh().state) == (["pending"], "succeeded")
    assert place.dispatch() == 1
    place.deliver()
    assert other.refresh().state == "succeeded"
    elsewhere.leave()


def test_a_rate_limit_is_kept_and_what_waited_is_sent_in_time(place: Place) -> None:
    @place.app.task(rate_limit=failbetter.RateLimit(1, per=0.2))
    def note(n: int) -> None: ...

    jobs = note.enqueue_many([(n,) for n in range(3)])
    place.deliver()
    assert [job.refresh().state for job in jobs] == ["succeeded", "pending", "pending"]
    limit = time.monotonic() + 20
    while any(job.refresh().state != "succeeded" for job in jobs):
        assert time.monotonic() < limit
        place.dispatch()
        place.deliver()
        threading.Event().wait(0.05)


def test_effects_progress_and_results_are_written_as_by_a_worker(place: Place) -> None:
    calls = []

    @place.app.task(max_attempts=2, backoff=failbetter.fixed(0))
    def work() -> list[int]:
        job = failbetter.current_job()
        job.once("charge", lambda: calls.append(1))
        done = []
        for n in job.remaining([1, 2, 3]):
            if n == 2 and job.attempt == 1:
                raise ValueError("half way")
            done.append(n)
        return done

    job = work.enqueue()
    place.deliver()
    place.dispatch()
    place.deliver()
    assert job.refresh().state == "succeeded"
    assert (calls, job.result()) == ([1], [2, 3])


def test_an_async_body_runs(place: Place) -> None:
    @place.app.task
    async def note() -> str:
        return "done"

    job = note.enqueue()
    place.deliver()
    assert job.refresh().result() == "done"


def test_a_body_that_runs_too_long_is_stopped(place: Place) -> None:
    @place.app.task(timeout=0.3, max_attempts=1)
    def sleep() -> None:
        time.sleep(30)

    job = sleep.enqueue()
    place.deliver()
    job.refresh()
    assert (job.state, job.reason) == ("failed", "timeout")


def test_a_long_body_keeps_its_lease(place: Place) -> None:
    during: dict[str, Any] = {}

    @place.app.task
    def sleep() -> None:
        limit = time.monotonic() + 10
        while time.monotonic() < limit and during.get("beats", 0) < 2:
            with place.app.database.look() as tx:
                (worker,) = registry.all_workers(tx)
            during.update(beats=worker.beats, engine=worker.engine, state=job.refresh().state)
            time.sleep(0.02)

    job = sleep.enqueue()
    place.deliver()
    assert during["beats"] >= 2
    assert (during["engine"], during["state"]) == ("list", "running")


def test_a_cancelled_body_is_stopped(place: Place) -> None:
    @place.app.task
    def sleep() -> None:
        job.cancel()
        time.sleep(30)

    job = sleep.enqueue()
    place.deliver()
    job.refresh()
    assert (job.state, job.reason) == ("discarded", "cancelled")


def test_a_task_that_nobody_knows_is_unloadable(place: Place, database_url: str) -> None:
    other = App(database_url, engine=place.carrier, fleet_folder=place.app.fleet_folder)

    @other.task
    def gone() -> None: ...

    job = gone.enqueue()
    other.close()
    place.deliver()
    job = place.app.job(job.id)
    assert (job.state, job.reason) == ("failed", "unloadable")


def test_two_bodies_at_once_in_one_process(place: Place) -> None:
    guest = Guest(place.app, "list", Keeper("threads"), slots=2)
    meeting = threading.Barrier(2, timeout=10)

    @place.app.task
    def meet() -> None:
        meeting.wait()

    jobs = meet.enqueue_many([(), ()])
    threads = [threading.Thread(target=guest.run, args=(number_of(job),)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.refresh().state for job in jobs] == ["succeeded", "succeeded"]
    guest.leave()


def test_a_process_for_one_job_leaves_nothing_behind(place: Place) -> None:
    ran: list[Callable[[], None]] = []

    @place.app.task
    def note() -> None:
        ran.append(note)

    job = note.enqueue()
    guest = Guest(place.app, "list", Keeper("horse"), for_one=True)
    assert guest.run(number_of(job))
    assert not guest.run(number_of(job))
    assert job.refresh().state == "succeeded"
    with place.app.database.look() as tx:
        assert registry.all_workers(tx) == []
    assert place.app.fleet_folder is not None
    left = [path.name for path in place.app.fleet_folder.iterdir()]
    assert [name for name in left if name.endswith((".lock", ".board", ".stacks"))] == []


def test_health_knows_that_an_engine_carries_the_jobs(place: Place) -> None:
    @place.app.task
    def note() -> None: ...

    def finding(name: str) -> failbetter.Finding:
        return next(one for one in place.app.health().findings if one.name == name)

    assert finding("workers").status == "warn"
    with place.app.database.write() as tx:
        sending.note_engine(tx, "list")
    assert (finding("workers").status, finding("engine").status) == ("pass", "pass")
    place.carrier.is_up = False
    note.enqueue()
    assert finding("engine").observed["unsent"] == 1
    with place.app.database.write() as tx:
        tx.run(Prepared(update(jobs).values(run_at=ONE)))
    assert finding("engine").status == "warn"
    assert "list" in (finding("engine").output or "")
    with place.app.database.write() as tx:
        sending.note_engine(tx, None)
    assert finding("workers").status == "warn"


def test_a_claim_that_was_not_heard_of_is_given_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 2: else it would be held for as long as the process lives, by nobody."""

    @place.app.task
    def note() -> None: ...

    job = note.enqueue()
    claim = Desk.claim_one
    calls: list[int] = []

    def unheard(desk: Desk, number: int) -> Claimed | None:
        found = claim(desk, number)
        calls.append(number)
        if len(calls) == 1:
            raise LedgerUnavailable("the connection broke in the commit")
        return found

    monkeypatch.setattr(Desk, "claim_one", unheard)
    monkeypatch.setattr("failbetter.worker.guest._PAUSE", 0.0)
    place.deliver()
    assert (len(calls), job.refresh().state) == (2, "pending")
    assert place.dispatch() == 1
    place.deliver()
    assert job.refresh().state == "succeeded"


def test_what_an_earlier_body_left_as_stacks_is_not_the_next_ones(place: Place) -> None:
    path: list[Path] = []

    @place.app.task
    def look() -> int:
        (found,) = place.app.database.fleet.folder.glob("*.stacks")
        path.append(found)
        return found.stat().st_size

    first = look.enqueue()
    place.deliver()
    path[0].write_text("Timeout (0:00:01)!")
    second = look.enqueue()
    place.deliver()
    assert (first.refresh().result(), second.refresh().result()) == (0, 0)
