"""How fast jobs are accepted: one call each, and many in one call."""

from __future__ import annotations

from bench.measures.base import Turn
from bench.session import open_session

CHUNK = 10_000
"""Jobs in one bulk call."""


class Enqueue:
    """Metrics `enqueue.one` and `enqueue.bulk`, jobs a second."""

    name = "enqueue"

    def run(self, turn: Turn) -> None:
        with open_session(turn.system, turn.work) as session:
            session.warm_up()
            count = turn.counts.one
            turn.add("enqueue.one", count / session.enqueue_one("noop", count))
        if turn.counts.bulk:
            with open_session(turn.system, turn.work) as session:
                session.warm_up()
                count = turn.counts.bulk
                turn.add("enqueue.bulk", count / session.enqueue_bulk("noop", count, CHUNK))
