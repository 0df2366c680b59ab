"""The ledger and the lifecycle against a simple model, along random stories.

Hypothesis makes up stories of producers, workers that work, die, freeze and come back as zombies,
persons who act, and time that passes; after each step every row must be what the model says. A
story that fails is printed as a program that can be run again.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.conformance.backends import Backend
from tests.conformance.kit import NOW, Ledger, ending, new_job
from tests.conformance.model import BACKOFF, SECOND, Broken, Limits, ModelJob, check_all

from failbetter.ledger.claims import Claimed
from failbetter.ledger.database import Database
from failbetter.ledger.enqueue import insert_jobs
from failbetter.ledger.reads import AttemptRow
from failbetter.lifecycle.backoff import fixed
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause, State, may_move
from failbetter.recovery.sweeper import Sweeper

LEASE = 4

limits = st.builds(
    Limits,
    max_attempts=st.integers(1, 3),
    max_crashes=st.integers(1, 3),
    max_losses=st.integers(1, 3),
    on_lost=st.sampled_from(["retry", "retry", "fail"]),
    release_within=st.sampled_from([20 * SECOND, 100 * SECOND]),
)
OUTCOMES: list[tuple[Cause, dict[str, Any]]] = [
    (Cause.RETURNED, {}),
    (Cause.RAISED, {}),
    (Cause.RAISED, {"delay": 0}),
    (Cause.RAISED, {"delay": 30}),
    (Cause.RAISED, {"verdict": "fail"}),
    (Cause.RAISED, {"verdict": "discard"}),
    (Cause.RELEASED, {"delay": 0}),
    (Cause.RELEASED, {"delay": 5}),
    (Cause.RELEASED, {"delay": 30}),
    (Cause.FAILED_BY_TASK, {}),
    (Cause.DISCARDED_BY_TASK, {}),
    (Cause.TIMED_OUT, {}),
    (Cause.CANCELLED, {}),
    (Cause.CRASHED, {}),
    (Cause.CRASHED, {}),
    (Cause.CRASHED, {"alone": False}),
    (Cause.BYSTANDER, {}),
    (Cause.INTERRUPTED, {}),
]
BEFORE_THE_BODY = [Cause.CRASHED, Cause.BYSTANDER, Cause.INTERRUPTED]
outcomes = st.sampled_from(OUTCOMES)
picks = st.integers(0, 7)
names = st.sampled_from(["pay", "mail"])


def pick(things: list[Any], which: int) -> Any:
    """One of the things, whatever the number."""
    return things[which % len(things)]


class Story(RuleBasedStateMachine):
    """One story; `backend` is set by the test."""

    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.monotonic = 0.0
        self.model: dict[int, ModelJob] = {}
        self.fences: dict[int, int] = {}
        self.states: dict[int, State] = {}
        self.seen: dict[int, list[AttemptRow]] = {}
        self.workers: set[int] = set()
        self.next_worker = 1
        self.claims: list[Claimed] = []
        """Every claim there ever was: most become zombies."""
        self.ran: dict[tuple[int, str], int] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="failbetter-model-"))
        self.exits = ExitStack()
        url = self.exits.enter_context(self.backend.migrated(self.folder))
        self.ledger = Ledger(Database(url, durable=False))
        self.sweeper = Sweeper(self.ledger.database)
        self.ledger.database.kind.now = lambda: self.now  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.ledger.database.close()
        self.exits.close()
        shutil.rmtree(self.folder)

    def current(self, job: Claimed) -> bool:
        return self.model[job.id].holder == job.fence

    @property
    def attempts(self) -> list[Claimed]:
        return [job for job in self.claims if self.current(job)]

    @property
    def zombies(self) -> list[Claimed]:
        return [job for job in self.claims if not self.current(job)]

    # -- producers

    @rule(
        limits=limits,
        priority=st.integers(-1, 1),
        delay=st.sampled_from([0, 0, 0, 5]),
        expires=st.sampled_from([None, None, 15, 60]),
        unique=st.sampled_from([None, None, "a", "b"]),
        exclusive=st.sampled_from([None, None, "x", "y"]),
    )
    def enqueue(
        self,
        limits: Limits,
        priority: int,
        delay: int,
        expires: int | None,
        unique: str | None,
        exclusive: str | None,
    ) -> None:
        run_at = self.now + delay * SECOND
        expires_at = None if expires is None else run_at + expires * SECOND
        policy = Policy(
            backoff=fixed(BACKOFF / SECOND, jitter=False),
            max_attempts=limits.max_attempts,
            max_crashes=limits.max_crashes,
            max_losses=limits.max_losses,
            on_lost=limits.on_lost,  # type: ignore[arg-type]
            release_within=limits.release_within / SECOND,
        )
        new = new_job(
            policy,
            run_at=run_at,
            created_at=self.now,
            priority=priority,
            expires_at=expires_at,
            unique=unique,
            exclusive=exclusive,
        )
        ((number, created),) = insert_jobs(self.ledger.database, [new])
        live = [n for n, job in self.model.items() if unique and job.live and job.unique == unique]
        assert created == (not live)
        if created:
            assert number not in self.model
            self.model[number] = ModelJob(limits, run_at, priority, expires_at, unique, exclusive)
        else:
            assert [number] == live

    # -- workers

    @initialize()
    def first_worker(self) -> None:
        self.register()

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def register(self) -> None:
        self.ledger.register(self.next_worker, lease=LEASE * SECOND)
        self.workers.add(self.next_worker)
        self.next_worker += 1

    @precondition(lambda self: self.model)
    @rule(worker=st.integers(0, 3), limit=st.sampled_from([1, 2, 100]))
    def claim(self, worker: int, limit: int) -> None:
        number = sorted(self.workers)[worker] if worker < len(self.workers) else 999
        before = {n: job for n, job in self.model.items() if self.claimable(job)}
        claimed = self.ledger.claim(number, limit, now=self.now)
        if number not in self.workers:
            assert claimed == []
            return
        assert len(claimed) <= limit
        assert bool(claimed) == bool(before)
        for job in claimed:
            assert job.id in before, "claimed what could not be claimed"
            model = self.model[job.id]
            assert self.claimable(model), "two of one exclusive key in one claim"
            model.holder, model.worker = job.fence, number
        left = [job for job in self.model.values() if self.claimable(job)]
        if limit == 100:
            assert not left
        elif claimed and left:
            # Nobody of lower priority went before a job that nothing held up.
            lowest = min(self.model[job.id].priority for job in claimed)
            assert max((j.priority for j in left if not j.exclusive), default=-9) <= lowest
        self.claims += claimed

    def claimable(self, job: ModelJob) -> bool:
        held = {j.exclusive for j in self.model.values() if j.holder is not None and j.exclusive}
        return job.waiting and job.run_at <= self.now and job.exclusive not in held

    @precondition(lambda self: self.attempts)
    @rule(which=picks)
    def body_begins(self, which: int) -> None:
        self.begin(pick(self.attempts, which))

    def begin(self, job: Claimed) -> bool:
        """Whether it may: a worker looks once more at the clock."""
        model = self.model[job.id]
        if model.expires_at is not None and model.expires_at <= self.now:
            self.end(job, Cause.REFUSED, begun=False)
            return False
        self.ledger.begin(job, now=self.now)
        model.state = "running"
        return True

    @precondition(lambda self: self.attempts)
    @rule(which=picks, outcome=outcomes)
    def body_ends(self, which: int, outcome: tuple[Cause, dict[str, Any]]) -> None:
        self.end(pick(self.attempts, which), outcome[0], **outcome[1])

    @precondition(lambda self: self.workers and any(job.waiting for job in self.model.values()))
    @rule(worker=picks, some=st.lists(outcomes, min_size=1, max_size=4))
    def work_on(self, worker: int, some: list[tuple[Cause, dict[str, Any]]]) -> None:
        """A worker waits for what is due next and runs it, several times."""
        for cause, said in some:
            waiting = [job.run_at for job in self.model.values() if job.waiting]
            if not waiting:
                return
            self.now = max(self.now, min(waiting))
            count = len(self.claims)
            self.claim(worker % len(self.workers), 1)
            for job in self.claims[count:]:
                if self.begin(job):
                    self.end(job, cause, **said)

    @precondition(lambda self: any(self.model[job.id].state != "running" for job in self.attempts))
    @rule(which=picks, cause=st.sampled_from([*BEFORE_THE_BODY, None]))
    def dies_before_the_body(self, which: int, cause: Cause | None) -> None:
        """Or is given back."""
        unbegun = [job for job in self.attempts if self.model[job.id].state != "running"]
        job = pick(unbegun, which)
        if cause is not None:
            self.end(job, cause, begun=False)
            return
        assert self.ledger.give_back(job, now=self.now) == 1
        self.model[job.id].give_back()

    @precondition(lambda self: self.zombies)
    @rule(which=picks, outcome=outcomes, name=names, how=st.integers(0, 4))
    def zombie_speaks(
        self, which: int, outcome: tuple[Cause, dict[str, Any]], name: str, how: int
    ) -> None:
        """What it says changes nothing; the invariants see to that."""
        job = pick(self.zombies, which)
        if how == 0:
            assert self.ledger.give_back(job, now=self.now) == 0
        elif how == 1:
            self.ledger.begin(job, now=self.now)
        elif how == 2:
            self.effect(job, name, "begins")
        elif how == 3:
            self.effect(job, name, "has happened")
        else:
            self.end(job, outcome[0], **outcome[1])

    def end(
        self,
        job: Claimed,
        cause: Cause,
        *,
        begun: bool = True,
        alone: bool = True,
        verdict: str = "retry",
        delay: int | None = None,
    ) -> None:
        """End an attempt, current or not, as its worker would."""
        model = self.model[job.id]
        alone = alone or model.suspect  # a suspect runs alone: nobody dies with it
        made = ending(
            job,
            cause,
            now=self.now,
            begun=begun,
            alone=alone,
            verdict=verdict,
            delay=None if delay is None else float(delay),
            uncertain=begun and model.in_doubt,
        )
        lost = self.ledger.settle(made)
        assert lost == ([] if self.current(job) else [made])
        if not lost:
            wait = None if delay is None else delay * SECOND
            model.end(str(cause), self.now, begun=begun, alone=alone, verdict=verdict, delay=wait)

    @precondition(lambda self: self.claims)
    @rule(first=picks, second=picks)
    def two_end_together(self, first: int, second: int) -> None:
        """One of them may be a zombie."""
        pair = [pick(self.attempts or self.claims, first), pick(self.claims, second)]
        chosen = {(job.id, job.fence): job for job in pair}.values()
        made = [ending(job, now=self.now, uncertain=self.model[job.id].in_doubt) for job in chosen]
        lost = self.ledger.settle(*made)
        for job, one in zip(chosen, made, strict=True):
            assert (one in lost) == (not self.current(job))
        for job in [job for job in chosen if self.current(job)]:
            self.model[job.id].end("returned", self.now)

    # -- effects

    @precondition(lambda self: self.attempts)
    @rule(
        which=picks,
        name=names,
        what=st.sampled_from(["begins", "has happened", "has not happened"]),
    )
    def effect_of(self, which: int, name: str, what: str) -> None:
        self.effect(pick(self.attempts, which), name, what)

    def effect(self, job: Claimed, name: str, what: str) -> None:
        model = self.model[job.id]
        owner, done = model.effects.get(name, (None, False))
        if what == "begins":
            status, _ = self.ledger.intend(job, name, self.now)
            if not self.current(job):
                assert status == "lost"
            elif owner is None:
                assert status == "go"
                model.effects[name] = (job.fence, False)
                self.ran[job.id, name] = self.ran.get((job.id, name), 0) + 1
                assert self.ran[job.id, name] == 1, "an effect ran twice"
            else:
                assert status == ("done" if done else "uncertain")
        elif what == "has happened":
            status = self.ledger.done(job, name, '"r"', self.now)
            assert (status == "done") == (owner == job.fence and self.current(job))
            if owner == job.fence:
                model.effects[name] = (owner, True)
        else:
            status = self.ledger.not_done(job, name)
            assert (status == "lost") == (not self.current(job))
            if owner == job.fence and not done:
                del model.effects[name]
                self.ran[job.id, name] -= 1

    # -- persons

    @precondition(lambda self: self.model)
    @rule(which=picks, act=st.sampled_from(["cancel", "retry", "discard", "retry"]))
    def person(self, which: int, act: str) -> None:
        """Mostly where it makes sense."""
        fitting = [n for n, job in self.model.items() if job.live == (act == "cancel")]
        failed = [n for n in fitting if self.model[n].state == "failed"]
        number = pick(failed or fitting or list(self.model), which)
        {"cancel": self.cancel, "retry": self.retry, "discard": self.discard}[act](number)

    def cancel(self, number: int) -> None:
        assert self.ledger.cancel(number, self.now) == self.model[number].ask_to_cancel()

    def retry(self, number: int) -> None:
        model = self.model[number]
        refused = self.ledger.retry(number, self.now)
        rival = any(
            job.live and model.unique and job.unique == model.unique
            for other, job in self.model.items()
            if other != number
        )
        expired = model.expires_at is not None and model.expires_at <= self.now
        assert (refused is None) == (model.state == "failed" and not rival and not expired)
        if refused is None:
            model.retry(self.now)

    def discard(self, number: int) -> None:
        model = self.model[number]
        refused = self.ledger.discard(number, self.now)
        assert (refused is None) == (model.state == "failed")
        if refused is None:
            model.discard()

    # -- time, and those who do not come back

    @rule(seconds=st.sampled_from([1, 5, 10, 30]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @precondition(lambda self: self.workers)
    @rule(
        which=picks,
        what=st.sampled_from(["nothing", "removed", "silent", "silent", "away a minute", "away"]),
    )
    def sweep(self, which: int, what: str) -> None:
        worker = pick(sorted(self.workers), which)
        if what in ("removed", "silent"):
            # It is worse when it has its hands full.
            self.claim(sorted(self.workers).index(worker), 100)
            for job in self.attempts[:which]:
                if self.model[job.id].state != "running":
                    self.begin(job)
        if what == "removed":
            # A sweeper declared it lost, and died before it could do more.
            assert self.ledger.remove(worker)
            self.workers.remove(worker)
            self.tick({worker})
        elif what == "silent":
            self.tick(set())  # it is heard of for the last time
            for second in range(LEASE):
                self.tick({worker} if second == LEASE - 1 else set(), silent=worker)
            self.workers.remove(worker)
            assert not self.ledger.renew(worker, self.now)
        else:
            # Whoever has not watched does not judge.
            self.monotonic += {"away": 100_000.0, "away a minute": 60.0}.get(what, 0.0)
            self.tick(set())

    def tick(self, gone: set[int], silent: int | None = None) -> None:
        """A second passes, in which all but one renew; sweep. Who is gone must be found so."""
        for worker in self.workers - {silent}:
            assert self.ledger.renew(worker, self.now)
        self.monotonic += 1.0
        overdue = any(self.overdue(job) for job in self.model.values())
        report = self.sweeper.tick(self.monotonic)
        moved = 0
        for job in self.model.values():
            if job.worker in gone and job.holder is not None:
                job.end("lost", self.now)
                moved += 1
        assert report.handed_back + report.ended == moved
        for job in self.model.values():
            if overdue and self.overdue(job):
                job.expire()
        registered = {worker.id for worker in self.ledger.workers()}
        assert registered == self.workers - gone

    def overdue(self, job: ModelJob) -> bool:
        return job.waiting and job.expires_at is not None and job.expires_at <= self.now

    # -- what must hold

    @invariant()
    def every_row_is_as_the_model_says(self) -> None:
        rows = {row.id: row for row in self.ledger.rows()}
        if rows.keys() != self.model.keys():
            raise Broken("a job is lost, or one came from nowhere")
        for number, job in self.model.items():
            row = rows[number]
            assert (row.state, row.reason) == (job.state, job.reason)
            assert (row.worker, row.claimed) == (job.worker, 1 if job.holder is not None else None)
            assert bool(row.cancel) == job.cancel
            if job.holder is not None:
                assert row.fence == job.holder
            assert (row.attempts, row.crashes, row.losses, row.hand_backs, row.starts) == (
                job.attempts,
                job.crashes,
                job.losses,
                job.hand_backs,
                job.starts,
            )
            if job.live:
                assert bool(row.suspect) == job.suspect
            if job.waiting:
                assert (row.run_at, row.released_since) == (job.run_at, job.released_since)
            assert (row.ended_at is None) == job.live
            assert row.expires_at == job.expires_at

    @invariant()
    def moves_are_those_of_the_table(self) -> None:
        for row in self.ledger.rows():
            state = State(row.state)
            before = self.states.get(row.id, State.PENDING)
            # More than one move may lie between two looks: a sweep ends and hands on.
            assert state is before or may_move(before, state)
            self.states[row.id] = state
            assert row.fence >= self.fences.get(row.id, 0), "a fence went back"
            self.fences[row.id] = row.fence

    @invariant()
    def history_is_only_added_to(self) -> None:
        for number, job in self.model.items():
            told = self.ledger.attempts(number)
            before = self.seen.get(number, [])
            assert told[: len(before)] == before, "history was rewritten"
            self.seen[number] = told
            assert [(a.number, a.cause, a.state, a.reason) for a in told] == [
                (t.number, t.cause, t.state, t.reason) for t in job.history
            ]

    @invariant()
    def budgets_hold(self) -> None:
        for job in self.model.values():
            if job.live:
                assert job.attempts < job.limits.max_attempts
                assert job.losses < job.limits.max_losses
                # One more only for a death that it shared with others.
                assert job.crashes < job.limits.max_crashes + 1

    @invariant()
    def keys_hold(self) -> None:
        check_all(self.model)


def tell(backend: Backend, **given: Any) -> None:
    """Tell stories on one backend."""
    told = type("Story", (Story,), {"backend": backend})
    run_state_machine_as_test(told, settings=settings(**given))


def test_the_ledger_does_what_the_model_says(backend: Backend) -> None:
    tell(backend, max_examples=40, stateful_step_count=30)


@pytest.mark.soak
def test_at_length(backend: Backend) -> None:
    tell(backend, max_examples=5_000, stateful_step_count=80, derandomize=False)
