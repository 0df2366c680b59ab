"""Alerts (A13): what rules see in the ledger, and that one of all who look tells of it, once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, ending, new_job, set_clocks
from tests.conformance.kit import POLICY as POLICY_OF_ALL

from failbetter import App
from failbetter.alerts import (
    TELL,
    Depth,
    FailureRate,
    GrowingGroup,
    NewGroup,
    Notice,
    OldestWaiting,
    Rule,
    Watcher,
    watched,
)
from failbetter.ledger.endings import Error
from failbetter.lifecycle.policy import Limiting, Policy
from failbetter.lifecycle.states import Cause

POLICY = Policy(silent=True).to_json()
MINUTE = 60 * SECOND


class Clock:
    """Sets what time it is for every ledger, in seconds from NOW."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.at(0)

    def at(self, seconds: float) -> int:
        self.now = NOW + round(seconds * SECOND)
        set_clocks(self._patch, self.now)
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def look(ledger: Ledger, rule: Rule, quiet: object = "1h") -> list[Notice]:
    """Look once; all that was told until then."""
    Watcher(ledger.database, [watched("it", rule, quiet=quiet, policy=POLICY)]).tick()  # type: ignore[arg-type]
    return told(ledger)


def told(ledger: Ledger) -> list[Notice]:
    rows = sorted((row for row in ledger.rows() if row.task == TELL), key=lambda row: row.id)
    return [msgspec.json.decode(row.payload, type=dict[str, Notice])["notice"] for row in rows]


def end(ledger: Ledger, clock: Clock, *marks: str | None) -> None:
    """Jobs that end now: succeed, or fail of such a cause."""
    ledger.insert(*[new_job(run_at=NOW - MINUTE, queue="q") for _ in marks])
    for job, mark in zip(ledger.claim(queues=["q"]), marks, strict=True):
        if mark is None:
            made = ending(job, now=clock.now)
        else:
            said = Error("shop.Down", "secret 5", None, mark)
            made = ending(job, Cause.RAISED, verdict="fail", error=said, now=clock.now)
        assert ledger.settle(made) == []


def test_failure_rate(worked: Ledger, clock: Clock) -> None:
    rule = FailureRate(over=0.5, within="10m", at_least=4)
    end(worked, clock, "a", "a", "a")
    assert look(worked, rule) == []  # too few to say
    end(worked, clock, None, None, None)
    clock.at(11)
    assert look(worked, rule) == []  # half of them
    end(worked, clock, "a")
    clock.at(22)
    (notice,) = look(worked, rule)
    assert notice.text == "4 of 7 jobs that ended in the last 10 m failed."
    assert (notice.alert, notice.title, notice.recovered) == ("it", "it", False)
    clock.at(700)
    assert [one.recovered for one in look(worked, rule)] == [False, True]


def test_oldest_waiting(app: App, worked: Ledger, clock: Clock) -> None:
    worked.add(queue="slow", run_at=NOW - 16 * MINUTE)
    worked.add(queue="later", run_at=NOW + 5 * MINUTE)
    assert look(worked, OldestWaiting("15m", queue="later")) == []
    clock.at(11)
    (notice,) = look(worked, OldestWaiting("15m", queue="slow"))
    assert notice.text == "A job of queue slow has waited for 16.2 m."
    app.pause("slow")
    clock.at(22)
    assert [one.recovered for one in look(worked, OldestWaiting("15m", queue="slow"))] == [
        False,
        True,
    ]


def test_what_waits_for_a_rate_limit_waits_for_no_worker(worked: Ledger, clock: Clock) -> None:
    policy = msgspec.structs.replace(POLICY_OF_ALL, rate_limit=Limiting("mailer", 1, 3600))
    for _ in range(3):
        worked.add(policy=policy, run_at=NOW - 16 * MINUTE)
    (claimed,) = worked.claim(now=clock.now)
    worked.end(claimed)
    for seconds in (0, 11, 7300):  # also when one of them may begin again
        clock.at(seconds)
        assert look(worked, OldestWaiting("15m")) == []


def test_depth(worked: Ledger, clock: Clock) -> None:
    worked.insert(*[new_job(run_at=NOW - 1) for _ in range(3)])
    worked.add(run_at=NOW + 5 * MINUTE)
    assert look(worked, Depth(3)) == []
    clock.at(11)
    assert look(worked, Depth(2, queue="other")) == []
    clock.at(22)
    assert [one.text for one in look(worked, Depth(2))] == ["More than 2 jobs wait."]


def test_new_groups(app: App, worked: Ledger, clock: Clock) -> None:
    """A13: neither old ones nor ignored ones; title and count, and no message."""
    end(worked, clock, "old", "known")
    clock.at(1)
    assert look(worked, NewGroup()) == []  # from now on it is watched
    clock.at(12)
    end(worked, clock, "old", "new", "new", "other", "known", "dull")
    (group,) = app.failed.where(fingerprint="dull").groups()
    group.ignore()
    clock.at(13)
    (notice,) = look(worked, NewGroup())
    assert notice.text.splitlines() == [
        "New causes of failure:",
        "work: shop.Down (2), new",
        "work: shop.Down (1), other",
    ]
    clock.at(24)
    end(worked, clock, "newer")
    clock.at(35)
    assert len(look(worked, NewGroup())) == 1  # it is quiet
    clock.at(3_700)
    _, notice = look(worked, NewGroup())
    assert notice.text.splitlines()[1:] == ["work: shop.Down (1), newer"]
    (group,) = app.failed.where(fingerprint="newer").groups()
    group.resolve()
    clock.at(8_000)
    end(worked, clock, "newer")
    clock.at(8_011)
    assert len(look(worked, NewGroup())) == 3  # it was resolved and has come back


def test_growing_groups(worked: Ledger, clock: Clock) -> None:
    end(worked, clock, "a", "a", "b")
    clock.at(2)
    assert look(worked, GrowingGroup(by=3)) == []
    end(worked, clock, "a", "b")
    clock.at(13)
    (notice,) = look(worked, GrowingGroup(by=3))
    assert notice.text.splitlines() == ["Failed in the last 10 m:", "work: shop.Down (3), a"]


def test_it_is_told_by_a_job_that_is_no_event(worked: Ledger, clock: Clock) -> None:
    worked.insert(new_job(run_at=NOW - 1))
    look(worked, Depth(0))
    (row,) = (row for row in worked.rows() if row.task == TELL)
    assert (row.state, row.queue, row.policy) == ("pending", "default", POLICY)


def test_nobody_looks_again_within_10_s(worked: Ledger, clock: Clock) -> None:
    assert look(worked, Depth(0)) == []
    worked.insert(new_job(run_at=NOW - 1))
    clock.at(9)
    assert look(worked, Depth(0)) == []
    clock.at(10)
    assert len(look(worked, Depth(0))) == 1


def test_of_all_who_look_at_once_one_tells(
    worked: Ledger, connect: Callable[[], Ledger], clock: Clock
) -> None:
    """A13: what is looked at by six workers is told of once."""
    worked.insert(new_job(run_at=NOW - 1))
    others = [connect() for _ in range(6)]
    ready = threading.Barrier(len(others))

    def see(ledger: Ledger) -> None:
        with ledger.database.look():
            pass
        ready.wait()
        look(ledger, Depth(0))

    threads = [threading.Thread(target=see, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told(worked)) == 1


def test_one_that_cannot_be_looked_at_hides_no_other(
    worked: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    worked.insert(new_job(run_at=NOW - 1))
    good = watched("good", Depth(0), quiet=0, policy=POLICY)
    bad = msgspec.structs.replace(good, name="bad", kind="spoilt")
    assert Watcher(worked.database, [bad, good]).tick().told == ["good"]
    assert "alert 'bad' could not be looked at" in caplog.text
