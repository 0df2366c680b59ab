"""How fast jobs are accepted: one call each, and many in one call."""

from __future__ import annotations

from functools import partial

from bench.measures.base import Turn
from bench.session import open_session
from bench.systems.base import System

CHUNK = 10_000
"""Jobs in one bulk call."""


class Enqueue:
    """Metrics `enqueue.one` and `enqueue.bulk`, jobs a second."""

    name = "enqueue"

    def run(self, turn: Turn) -> None:
        if turn.counts.one:
            turn.take(partial(one_by_one, turn.system, turn, "enqueue.one"))
        if turn.counts.bulk:
            turn.take(partial(in_bulk, turn.system, turn, "enqueue.bulk"))


def one_by_one(system: System, turn: Turn, metric: str) -> dict[str, float]:
    """Jobs a second, one call each."""
    with open_session(system, turn.work) as session:
        session.warm_up()
        return {metric: turn.counts.one / session.enqueue_one("noop", turn.counts.one)}


def in_bulk(system: System, turn: Turn, metric: str) -> dict[str, float]:
    """Jobs a second, many in a call."""
    with open_session(system, turn.work) as session:
        session.warm_up()
        return {metric: turn.counts.bulk / session.enqueue_bulk("noop", turn.counts.bulk, CHUNK)}
