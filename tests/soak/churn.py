"""The ledger's own verbs, done and timed without a worker around them."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.conformance.kit import ending, new_worker

from failbetter import health
from failbetter.ledger import claims, endings, registry
from failbetter.ledger.endings import own_error
from failbetter.lifecycle.states import Cause
from failbetter.recovery.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter import App
    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.endings import Settlement

MANY: Final = 50
"""Jobs of one claim and of one commit, as a busy worker has them."""
FAILING: Final = 10
"""One job in so many fails and is tried again at once; every second of these fails for good."""


class Churn:
    """A worker by hand on one ledger, and how long each of its verbs took."""

    def __init__(self, app: App, number: int = 1) -> None:
        self.app = app
        self.database = app.database
        self.worker = new_worker(number, renewed_at=self.database.now())
        self.spent: dict[str, list[float]] = defaultdict(list)
        """Seconds, by verb, of this round."""
        self._sweeper = Sweeper(self.database, own=number)
        with self.database.write() as tx:
            registry.register(tx, self.worker)

    @contextlib.contextmanager
    def _timed(self, verb: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.spent[verb].append(time.perf_counter() - begun)

    def round(self, jobs: int) -> dict[str, list[float]]:
        """So many jobs come, are claimed and end, in batches and one by one; seconds by verb."""
        self.spent = defaultdict(list)
        task = self.app.tasks["nothing"]
        task.enqueue_many((n,) for n in range(jobs))
        for _ in range(10):
            with self._timed("enqueue"):
                task.enqueue(0)
        for _ in range(20):
            self._settle("ending", self._claim("claim", 1))
            self.look()
        while batch := self._claim("claim of many", MANY):
            self._settle("ending of many", batch)
        return self.spent

    def look(self) -> None:
        """What comes round by the clock, and what is asked from outside."""
        with self._timed("health"):
            found = health.check(self.database)
        assert found.status != "fail", found
        with self._timed("sweep"):
            self._sweeper.tick(time.monotonic())
        with self._timed("renewal"):
            with self.database.write(durable=False) as tx:
                assert registry.renew(tx, self.worker.id, tx.now(), False)
            with self.database.look() as tx:
                registry.held_fences(tx, self.worker.id)
                registry.cancelled(tx, self.worker.id)

    def _claim(self, verb: str, limit: int) -> list[Claimed]:
        with self._timed(verb), self.database.write(durable=False) as tx:
            claimed, _ = claims.claim(tx, self.worker.id, [], limit, tx.now())
        return claimed

    def _settle(self, verb: str, claimed: list[Claimed]) -> None:
        now = self.database.now()
        ended = [self._ending(job, now) for job in claimed]
        with self._timed(verb), self.database.write() as tx:
            assert endings.settle(tx, ended) == []

    def _ending(self, job: Claimed, now: int) -> Settlement:
        name = self.worker.name
        if job.id % FAILING or (job.starts and job.id % (2 * FAILING)):
            return ending(job, now=now, worker=name)
        error = own_error(job.task, "builtins.ValueError", "no luck", "Traceback\n" * 10)
        verdict = "fail" if job.starts else "retry"
        return ending(
            job, Cause.RAISED, now=now, worker=name, error=error, verdict=verdict, delay=0.0
        )
