"""Rate limits: who may begin gets a permit, the others wait in a line and spend nothing. A16."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.conformance.kit import NOW, POLICY, SECOND, Ledger, ending, set_clocks

import failbetter
from failbetter import App, holds, ids, ledger
from failbetter.ledger import claims, registry
from failbetter.ledger.claims import Claimed
from failbetter.ledger.endings import Error
from failbetter.lifecycle.policy import Breaking, Limiting, Policy
from failbetter.lifecycle.states import Cause
from failbetter.recovery.deciding import expiry
from failbetter.worker.desk import Desk
from failbetter.worker.wire import Reply, Request


def limited(count: int = 3, per: float = 10, name: str = "mailer", **other: Any) -> Policy:
    return msgspec.structs.replace(POLICY, rate_limit=Limiting(name, count, per), **other)


THREE = limited()
LATER = 11 * SECOND
"""Long enough for all permits of THREE to be free again."""


class Site:
    """A ledger with a clock that is set by hand, and two workers."""

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.ledger = Ledger(app.database)
        self.ledger.register(1)
        self.ledger.register(2)
        self._patch = monkeypatch
        self.now = NOW
        set_clocks(monkeypatch, NOW)

    def advance(self, micros: int) -> None:
        self.now += micros
        set_clocks(self._patch, self.now)

    def add(self, count: int = 1, policy: Policy = THREE, **given: Any) -> list[int]:
        return [self.ledger.add(policy=policy, **given) for _ in range(count)]

    def claim(self, limit: int = 100, **given: Any) -> list[int]:
        return [job.id for job in self.take(limit, **given)]

    def take(self, limit: int = 100, **given: Any) -> list[Claimed]:
        return self.ledger.claim(limit=limit, now=self.now, **given)

    def due(self) -> int | None:
        with self.app.database.write() as tx:
            return claims.look(tx, [], self.now)[1]

    def in_line(self) -> int:
        found = [hold for hold in self.app.holds() if hold.kind == "limit"]
        return sum(hold.jobs or 0 for hold in found)

    def desk(self) -> Desk:
        with self.app.database.look() as tx:
            worker = next(one for one in registry.all_workers(tx) if one.id == 1)
        return Desk(self.app.database, worker)

    def any_live(self) -> bool:
        with self.app.database.look() as tx:
            return claims.any_live(tx, [])


@pytest.fixture
def site(app: App, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(app, monkeypatch)


# -- the claim


def test_no_more_are_claimed_than_may_begin(site: Site) -> None:
    numbers = site.add(8)
    claimed = site.take()
    assert [job.id for job in claimed] == numbers[:3]
    assert all(job.permit is not None and job.permit > NOW for job in claimed)
    assert site.in_line() == 5
    row = site.ledger.row(numbers[4])
    assert (row.state, row.claimed, row.worker, row.starts) == ("pending", None, None, 0)
    assert site.claim() == []


def test_the_next_may_begin_when_the_first_no_longer_count(site: Site) -> None:
    numbers = site.add(8)
    claimed, due = site.ledger.claim_and_due(now=site.now)
    assert len(claimed) == 3
    assert due is not None
    assert due == site.due()
    site.advance(due - site.now - 1)
    assert site.claim() == []
    site.advance(1)
    again = site.take(worker=2)
    assert [job.id for job in again] == numbers[3:6]
    assert [(job.attempts, job.losses, job.hand_backs) for job in again] == [(0, 0, 0)] * 3
    site.advance(LATER)
    assert site.claim() == numbers[6:]
    assert site.app.holds() == []
    assert site.due() is None


def test_others_pass(site: Site) -> None:
    """A lane full of what must wait hides nothing, also from who claims one job at a time."""
    site.add(500)
    free = site.add(1, POLICY)
    assert len(site.claim(3)) == 3
    claimed: list[int] = []
    for _ in range(3):
        claimed += site.claim(1)
    assert claimed == free


def test_the_best_go_first(site: Site) -> None:
    old = site.add(4)
    assert site.claim() == old[:3]
    young = site.add(1)
    urgent = site.add(1, priority=5)
    assert site.claim() == []
    site.advance(LATER)
    assert site.claim() == [*urgent, *old[3:], *young]


def test_who_comes_later_does_not_go_before_who_waits(site: Site) -> None:
    old = site.add(5)
    site.claim()
    site.advance(LATER)
    young = site.add(2)
    assert site.claim(2) == old[3:]
    site.advance(LATER)
    assert site.claim() == young


def test_tasks_that_share_a_name_share_the_limit(site: Site) -> None:
    one = site.add(2, task="mail")
    two = site.add(2, task="fax", queue="fax")
    other = site.add(1, limited(name="other"))
    claimed = site.claim()
    assert len({*claimed} & {*one, *two}) == 3
    assert set(other) < set(claimed)


def test_each_worker_takes_from_its_own_queues(site: Site) -> None:
    site.add(3)
    site.claim()
    mail, fax = site.add(2, queue="mail"), site.add(2, queue="fax")
    assert site.claim() == []
    site.advance(LATER)
    assert site.claim(queues=["fax"]) == fax
    assert site.claim(queues=["mail"]) == mail[:1]


def test_a_queue_in_which_none_may_begin_keeps_no_other_waiting(site: Site) -> None:
    site.add(5, queue="mail")
    assert len(site.claim(queues=["mail"])) == 3
    site.advance(LATER)
    fax = site.add(3, queue="fax")
    found: list[int] = []
    for _ in range(2):
        found += site.claim(queues=["fax"])
    assert found == fax


def test_exclusive_jobs_wait_too(site: Site) -> None:
    one = limited(1)
    a = site.add(2, one, exclusive="a")
    site.add(1, one, exclusive="b")
    (job,) = site.take()
    assert site.in_line() == 2
    site.advance(LATER)
    found = site.claim()
    assert len(found) == 1
    assert found[0] not in a
    site.ledger.settle(ending(job, now=site.now))
    site.advance(LATER)
    assert site.claim() == a[1:]


def test_the_newest_job_says_the_figures(site: Site) -> None:
    site.add(1)
    site.add(4, limited(5))
    assert len(site.claim()) == 5
    site.add(1, limited(7, per=20))
    assert len(site.claim()) == 1
    (hold,) = [*site.app.holds(), None]
    assert hold is None
    site.add(3, limited(2, per=20))
    assert site.claim() == []
    (hold,) = site.app.holds()
    assert (hold.kind, hold.name, hold.reason, hold.jobs) == ("limit", "mailer", "2 per 20 s", 3)
    site.advance(LATER)
    assert site.claim() == []
    site.advance(LATER)
    assert len(site.claim()) == 2


def test_what_failed_is_limited_again(site: Site) -> None:
    site.add(1, limited(1))
    (job,) = site.take()
    error = Error("ValueError", "no", "Traceback", "1-cause")
    site.ledger.settle(ending(job, Cause.RAISED, now=site.now, error=error))
    site.add(1, limited(1))
    site.advance(10 * SECOND)
    assert site.claim() == []
    assert site.in_line() == 2
    site.advance(SECOND)
    assert site.claim() == [job.id]


def test_a_line_that_all_have_left_is_no_more(site: Site) -> None:
    numbers = site.add(5, expires_at=NOW + 2 * SECOND)
    site.claim()
    assert site.ledger.cancel(numbers[3])
    with site.app.database.write() as tx:
        late = next(job for job in registry.expired(tx, NOW + 3 * SECOND, 10))
    site.ledger.settle(expiry(late, NOW + 3 * SECOND))
    assert [site.ledger.row(number).state for number in numbers[3:]] == ["discarded"] * 2
    site.advance(LATER)
    assert site.claim() == []
    assert site.app.holds() == []


# -- beside holds, breakers, versions


def test_a_paused_job_uses_no_permit(site: Site) -> None:
    site.add(5, task="mail")
    fax = site.add(5, task="fax")
    site.app.pause(task="mail")
    assert site.claim() == fax[:3]
    site.app.resume(task="mail")
    site.app.pause(task="fax")
    site.advance(LATER)
    assert len(site.claim()) == 3
    by_kind = {hold.kind: hold.jobs for hold in site.app.holds()}
    assert by_kind == {"task": 2, "limit": 2}


def test_resuming_ends_no_limit(site: Site) -> None:
    numbers = site.add(5, task="mail")
    site.claim()
    site.app.pause(task="mail")
    site.app.resume(task="mail")
    for kind in ("task", "queue", "group", "breaker"):
        with pytest.raises(failbetter.Refused):
            site.app.resume(**{kind: "mailer"})
    holds.tick(site.app.database)
    assert site.claim() == []
    assert site.in_line() == 2
    site.advance(LATER)
    assert site.claim() == numbers[3:]


def test_a_paused_queue_s_line_wakes_nobody(site: Site) -> None:
    site.add(5)
    site.claim()
    site.app.pause("default")
    assert site.due() is None
    site.advance(LATER)
    assert site.claim() == []


def test_a_probe_waits_for_its_permit(site: Site) -> None:
    guarded = limited(1, breaker=Breaking("mail", failures=1, within=60, probe_every=1))
    site.add(1, limited(1))
    assert len(site.claim()) == 1
    numbers = site.add(2, guarded)
    with site.app.database.write() as tx:
        assert ledger.breakers.strike(tx, Breaking("mail", 1, 60, 1), 1, "down")
    assert site.claim() == []
    site.advance(2 * SECOND)
    holds.tick(site.app.database)
    assert site.claim() == []
    holds.tick(site.app.database)
    by_kind = {hold.kind: hold.jobs for hold in site.app.holds()}
    assert by_kind == {"breaker": 1, "limit": 1}
    site.advance(LATER)
    holds.tick(site.app.database)
    assert site.claim() == numbers[:1]


def test_what_is_out_of_date_uses_no_permit(site: Site) -> None:
    about: dict[str, Any] = {"subject": "doc"}
    (newest,) = site.add(1, version=9, **about)
    (job,) = site.take()
    assert job.id == newest
    site.ledger.settle(ending(job, now=site.now))
    site.add(4, version=5, **about)
    fresh = site.add(2)
    assert site.claim() == fresh


# -- to be seen, and to be waited for


def test_it_is_said_what_a_job_waits_for(site: Site) -> None:
    numbers = site.add(4, limited(3, per=60))
    site.claim()
    waits = site.app.job(ids.to_text(numbers[3])).waiting_for(NOW / SECOND)
    assert waits is not None
    assert waits.startswith("rate limit mailer: 3 per 60 s, next about 2023-11-14T22:14:2")
    (hold,) = site.app.holds()
    assert (hold.kind, hold.name, hold.active, hold.reason) == (
        "limit",
        "mailer",
        True,
        "3 per 60 s",
    )
    assert hold.jobs == 1
    assert "holds" not in site.app.health().as_dict()["checks"]
    with site.app.database.look() as tx:
        assert ledger.reads.oldest_due(tx, site.now) is None


def test_limited_jobs_are_waited_for_and_held_ones_are_not(site: Site) -> None:
    """A worker that drains ends when all is over but what a person or a breaker holds."""
    site.add(4)
    for job in site.take():
        site.ledger.settle(ending(job, now=site.now))
    assert site.in_line() == 1
    assert site.any_live()
    site.app.pause("default")
    assert not site.any_live()
    site.app.resume("default")
    site.app.pause(task="work")
    site.advance(LATER)
    assert site.claim() == []
    assert not site.any_live()


# -- at the worker's desk


def ask(desk: Desk, job: Claimed, tries: int = 0) -> int | None:
    """A body of this job was about to begin too late."""
    replies: list[Reply] = []
    desk.ask_permit(job, Request(1, "permit", job.id, job.fence, "", str(tries)), replies.append)
    assert desk.must_write
    desk.write(0, 0.0)
    (reply,) = replies
    return None if reply.value is None else int(reply.value)


def test_a_permit_whose_term_is_over_is_exchanged(site: Site) -> None:
    site.add(3)
    desk = site.desk()
    jobs = site.take()
    stale = jobs[0].permit
    site.advance(SECOND)
    fresh = ask(desk, jobs[0])
    assert fresh == jobs[0].permit
    assert stale is not None
    assert fresh is not None
    assert fresh > site.now > stale
    # It took the place of its own, so that two others may not begin.
    site.add(1)
    assert site.claim() == []


def test_who_gets_no_other_permit_goes_back_and_waits(site: Site) -> None:
    numbers = site.add(4, limited(1))
    desk = site.desk()
    (job,) = site.take()
    site.advance(LATER)
    assert site.claim() == [numbers[1]]
    assert ask(desk, job) is None
    assert job.permit is None
    desk.give_back(job)
    desk.write(0, 0.0)
    assert site.claim() == []
    site.advance(LATER)
    (again,) = site.take()
    assert (again.id, again.attempts, again.hand_backs) == (numbers[0], 0, 0)


def test_a_permit_is_given_back_with_its_job(site: Site) -> None:
    numbers = site.add(4)
    desk = site.desk()
    jobs = site.take()
    for job in jobs[1:]:
        desk.give_back(job)
    desk.write(0, 0.0)
    assert desk.more
    assert site.claim() == [numbers[3], numbers[1]]
    assert site.claim() == []


def test_its_claim_is_on_disk_before_the_body_begins(site: Site) -> None:
    """Else a crash of the server would forget the permit, whose body has begun."""
    site.add(1)
    (job,) = site.take()
    assert job.must_last(outlived=False)
