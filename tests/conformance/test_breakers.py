"""Breakers: an outage holds the work, spends nothing, and a probe ends it. A16, D5."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.conformance.kit import NOW, POLICY, SECOND, Ledger, ending

import failbetter
from failbetter import App, Breaker, holds
from failbetter.ledger import breakers, registry
from failbetter.ledger.claims import Claimed
from failbetter.ledger.endings import Error
from failbetter.ledger.reads import JobRow
from failbetter.lifecycle.decide import Outcome
from failbetter.lifecycle.policy import Breaking, Policy
from failbetter.lifecycle.states import Cause
from failbetter.worker.desk import Desk
from failbetter.worker.judgement import Undecided

BREAKING = Breaking("mail", failures=3, within=60, probe_every=30, rate=2)
GUARDED = msgspec.structs.replace(POLICY, breaker=BREAKING)


class Clock:
    """The ledger's, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, app: App) -> None:
        self.now = NOW
        monkeypatch.setattr(type(app.database.kind), "now", lambda _: self.now)

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


class Site:
    """A ledger, and a worker's desk at it."""

    def __init__(self, app: App, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.ledger = Ledger(app.database)
        self.ledger.register(1)
        with app.database.look() as tx:
            (worker,) = registry.all_workers(tx)
        self.desk = Desk(app.database, worker)

    def add(self, count: int, policy: Policy = GUARDED) -> list[int]:
        return [self.ledger.add(policy=policy, run_at=NOW) for _ in range(count)]

    def claim(self) -> list[Claimed]:
        return self.ledger.claim(now=self.clock.now)

    def fail(self, *jobs: Claimed, outage: bool = True, **outcome: Any) -> None:
        """The bodies raise, as the worker's desk has it."""
        for job in jobs:
            self.desk.ended(
                Undecided(
                    job,
                    Outcome(Cause.RAISED, **outcome),
                    self.clock.now,
                    self.clock.now,
                    "v1",
                    Error("ConnectionError", "it is down", "Traceback", "1-down"),
                    outage=outage,
                )
            )
        self.desk.write(0, 0.0)
        assert self.desk.waiting == 0

    def succeed(self, job: Claimed) -> None:
        self.ledger.settle(ending(job, now=self.clock.now))

    def row(self, number: int) -> JobRow:
        return self.ledger.row(number)

    def is_open(self) -> bool:
        return any(hold.active for hold in self.app.holds())

    def tick(self) -> None:
        holds.tick(self.app.database)


@pytest.fixture
def site(app: App, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(app, Clock(monkeypatch, app))


def opened(site: Site, count: int = 6) -> list[int]:
    """So many jobs, of which three have failed and so opened the breaker."""
    numbers = site.add(count)
    claimed = site.claim()
    site.fail(*claimed[:3])
    assert site.is_open()
    site.ledger.give_back(*claimed[3:])
    return numbers


# -- open


def test_so_many_failures_within_its_time_open_it(site: Site) -> None:
    site.add(3)
    one, two, three = site.claim()
    site.fail(one)
    site.clock.advance(20)
    site.fail(two)
    assert not site.is_open()
    site.fail(three)
    (hold,) = site.app.holds()
    assert (hold.kind, hold.name, hold.active, hold.actor) == (
        "breaker",
        "mail",
        True,
        "failbetter",
    )
    assert hold.reason == "3 failures within 60 s, such as ConnectionError: it is down"


def test_failures_far_apart_do_not(site: Site) -> None:
    site.add(5)
    for job in site.claim():
        site.fail(job)
        site.clock.advance(31)
    assert not site.is_open()


def test_other_failures_do_not_count(site: Site) -> None:
    site.add(5)
    site.fail(*site.claim(), outage=False)
    assert not site.is_open()


def test_what_opens_it_is_charged_and_nothing_after_that(site: Site) -> None:
    site.add(6)
    claimed = site.claim()
    site.fail(*claimed[:3])
    site.fail(*claimed[3:])
    rows = [site.row(job.id) for job in claimed]
    assert [(row.state, row.attempts, row.starts) for row in rows] == [
        *[("pending", 1, 1)] * 3,
        *[("pending", 0, 1)] * 3,
    ]
    kept = site.app.job(failbetter.ids.to_text(claimed[5].id)).attempts
    assert [(one.cause, one.state, one.error_type, one.evidence) for one in kept] == [
        ("raised", "pending", "ConnectionError", {"held_back": "mail"})
    ]


def test_what_fails_with_it_in_one_commit_is_not_charged_either(site: Site) -> None:
    site.add(9)
    claimed = site.claim()
    site.fail(claimed[0])
    site.fail(*claimed[1:])
    assert site.is_open()
    assert [site.row(job.id).attempts for job in claimed] == [1, 1, 1, *[0] * 6]


def test_even_what_would_have_been_its_end(site: Site) -> None:
    """Verdicts count once the outage is known: the body never had a chance."""
    opened(site, 3)
    (number,) = site.add(1)
    site.app.resume(breaker="mail")
    (job,) = (job for job in site.claim() if job.id == number)
    site.app.pause(breaker="mail")
    site.fail(job, verdict="fail")
    assert (site.row(number).state, site.row(number).attempts) == ("pending", 0)


def test_jobs_wait_and_say_for_what(site: Site) -> None:
    *_, last = opened(site)
    assert site.claim() == []
    assert site.row(last).held is not None
    waits = site.app.job(failbetter.ids.to_text(last)).waiting_for()
    assert waits == (
        "breaker mail to be resumed (paused by failbetter: 3 failures within 60 s, such as"
        " ConnectionError: it is down)"
    )


def test_health_warns_of_it(site: Site) -> None:
    opened(site)
    said = site.app.health().as_dict()["checks"]["holds"]
    assert said == {"status": "warn", "observedValue": 1, "output": "kept waiting: breaker mail"}
    site.app.resume(breaker="mail")
    site.app.pause(breaker="mail")
    assert site.app.health().as_dict()["checks"]["holds"]["status"] == "pass"


def test_tasks_that_need_something_else_go_on(site: Site) -> None:
    opened(site)
    other = msgspec.structs.replace(GUARDED, breaker=Breaking("sms", 3, 60, 30))
    free = site.add(1, other) + site.add(1, POLICY)
    assert sorted(job.id for job in site.claim()) == free


# -- probes


def probe(site: Site) -> Claimed:
    """The one job that is let through."""
    site.tick()
    (job,) = site.claim()
    site.tick()
    assert site.claim() == []
    return job


def test_now_and_then_one_job_is_let_through_another_each_time(site: Site) -> None:
    numbers = opened(site)
    assert site.claim() == []
    site.tick()
    assert site.claim() == []  # it is not time yet
    probed = []
    for _ in range(4):
        site.clock.advance(30)
        job = probe(site)
        probed.append(job.id)
        site.fail(job)
        assert site.claim() == []
    # Those that opened it wait for their backoff and are not parked yet.
    kept = numbers[3:]
    assert probed[:3] == kept
    assert probed[3] in numbers
    assert {site.row(number).attempts for number in kept} == {0}


def test_its_success_closes_it_and_the_others_follow_at_a_pace(site: Site) -> None:
    numbers = opened(site)
    assert site.claim() == []
    site.clock.advance(30)
    job = probe(site)
    site.succeed(job)
    site.tick()
    assert not site.is_open()
    assert len(site.claim()) <= 2
    site.clock.advance(60)
    site.tick()
    site.claim()
    assert all(site.row(number).held is None for number in numbers)
    site.tick()
    assert site.app.holds() == []


def test_a_bug_neither_closes_it_nor_keeps_it_open(site: Site) -> None:
    opened(site)
    assert site.claim() == []
    site.clock.advance(30)
    bug = probe(site)
    site.fail(bug, outage=False, verdict="fail")
    assert site.row(bug.id).state == "failed"
    other = probe(site)  # at once, and another one
    assert other.id != bug.id
    assert site.is_open()
    site.succeed(other)
    site.tick()
    assert not site.is_open()


def test_a_probe_that_waits_to_run_again_is_none_any_more(site: Site) -> None:
    opened(site)
    assert site.claim() == []
    site.clock.advance(30)
    first = probe(site)
    site.fail(first, outage=False, delay=3600.0)
    assert probe(site).id != first.id


def test_a_person_closes_it(site: Site) -> None:
    numbers = opened(site)
    assert site.claim() == []
    site.app.resume(breaker="mail")
    site.clock.advance(3600)
    assert sorted(job.id for job in site.claim()) == numbers


def test_one_that_a_person_has_paused_does_not_probe(site: Site) -> None:
    site.add(2)
    site.app.pause(breaker="mail", reason="they migrate")
    assert site.claim() == []
    site.clock.advance(3600)
    site.tick()
    assert site.claim() == []


def test_with_nothing_to_probe_it_stays_open_until_there_is(site: Site) -> None:
    opened(site, 3)  # which wait for their backoff
    site.clock.advance(0.5)
    site.tick()
    with site.app.database.look() as tx:
        assert len(breakers.probing(tx)) == 1
    site.clock.advance(3600)
    assert site.claim() == []
    assert probe(site)


# -- what cannot be


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"on": ()}, TypeError),
        ({"on": "ConnectionError"}, TypeError),
        ({"on": OSError, "failures": 0}, ValueError),
        ({"on": OSError, "within": 0}, ValueError),
        ({"on": OSError, "probe_every": "soon"}, ValueError),
        ({"on": OSError, "rate": float("nan")}, ValueError),
        ({"on": OSError, "rate": 0}, ValueError),
        ({"on": OSError, "name": ""}, ValueError),
    ],
)
def test_breakers_that_cannot_be(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Breaker(**given)


def test_it_is_named_after_its_task_or_as_told(app: App) -> None:
    def body() -> None: ...

    alone = app.task(name="upload", breaker=Breaker(on=OSError, within="2m"))(body)
    assert alone.options.policy.breaker == Breaking("upload", 20, 120.0, 30.0, 20)
    shared = app.task(name="send", breaker=Breaker(on=(OSError,), name="s3", rate=None))(body)
    assert shared.options.policy.breaker == Breaking("s3", 20, 60.0, 30.0, None)
    with pytest.raises(TypeError, match="breaker is a failbetter"):
        app.task(name="other", breaker=OSError)(body)
