"""Failures that breakers count, of one transaction of the desk."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from failbetter.ledger import breakers, holds

if TYPE_CHECKING:
    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.endings import Error
    from failbetter.ledger.kinds import Tx
    from failbetter.lifecycle.policy import Breaking

_logger = logging.getLogger("failbetter.worker")
_EXAMPLE = 200


class Outages:
    """Which jobs failed of an outage that is known already, and what the others come to."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._held: holds.Standing | None = None
        self._counted: Counter[Breaking] = Counter()
        self._left: dict[Breaking, int] = {}
        self._examples: dict[Breaking, str] = {}

    def seen(self, job: Claimed, error: Error | None) -> str | None:
        """Take note of one. The breaker that is open by now, so that nothing is charged for it."""
        breaker = job.policy.breaker
        if breaker is None:
            return None  # the task had none when the job was enqueued
        if self._held is None:
            self._held = holds.standing(self._tx)
        opened = self._held.breaker_of(job)
        if opened is not None:
            breakers.probe_failed(self._tx, opened, job.id)
            return breaker.name
        if breaker not in self._left:
            self._left[breaker] = breakers.left(self._tx, breaker)
        self._counted[breaker] += 1
        if error is not None:
            self._examples[breaker] = f"{error.type}: {error.message}"[:_EXAMPLE]
        # A commit may hold the ends of many more than it takes.
        return breaker.name if self._counted[breaker] > self._left[breaker] else None

    def count(self) -> list[Breaking]:
        """Write how many there were; the breakers that this opened."""
        # In one order, so that workers do not wait for each other in a circle.
        ordered = sorted(self._counted.items(), key=lambda item: item[0].name)
        return [
            breaker
            for breaker, failures in ordered
            if breakers.strike(self._tx, breaker, failures, self._examples.get(breaker, "these"))
        ]


def tell_opened(opened: list[Breaking]) -> None:
    """Log which breakers have opened."""
    for breaker in opened:
        _logger.error(
            "the breaker %s is open after %d failures within %g s: its jobs wait, and one is tried"
            " every %g s",
            breaker.name,
            breaker.failures,
            breaker.within,
            breaker.probe_every,
        )
