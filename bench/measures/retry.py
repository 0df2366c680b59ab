"""How long it takes to retry everything that failed."""

from __future__ import annotations

from bench.measures.base import Turn
from bench.measures.enqueue import CHUNK
from bench.session import open_session

REFERENCE = 50_000
"""Jobs that the seconds are stated for; fewer are measured where that would take minutes."""


class Retry:
    """`retry.seconds` for 50,000 failed jobs."""

    name = "retry"

    def run(self, turn: Turn) -> None:
        turn.take(lambda: self._measure(turn))

    @staticmethod
    def _measure(turn: Turn) -> dict[str, float]:
        count = turn.counts.retry
        with open_session(turn.system, turn.work) as session:
            session.enqueue_bulk("fail", count, CHUNK)
            session.start_workers()
            session.wait_ended()
            session.stop_workers()
            seconds, retried = session.retry_all()
        if retried != count:
            raise RuntimeError(f"{retried} of {count} failed jobs were retried")
        return {"retry.seconds": seconds * REFERENCE / count}
