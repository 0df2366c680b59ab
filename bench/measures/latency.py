"""How soon an idle worker, in another process, begins the body of a job just enqueued."""

from __future__ import annotations

from bench import stats
from bench.measures.base import Turn
from bench.session import WARM_UP, open_session

PAUSE = (0.005, 0.06)
"""Seconds between two jobs, chosen evenly at random."""


class Latency:
    """Milliseconds. `latency.p50`, `latency.p99`: from the call of `enqueue`, so with its commit.
    `latency.after.p50`, `latency.after.p99`: from its return; below zero when the body was faster.
    """

    name = "latency"

    def run(self, turn: Turn) -> None:
        turn.take(lambda: self._measure(turn))

    @staticmethod
    def _measure(turn: Turn) -> dict[str, float]:
        count = turn.counts.latency
        with open_session(turn.system, turn.work) as session:
            session.start_workers()
            session.warm_up("touch")
            warm = len(session.wait_marks(WARM_UP))
            called, returned = session.enqueue_paced("touch", count, PAUSE, seed=turn.number)
            began = {m.number: m.ns for m in session.wait_marks(warm + count)}
        figures = {}
        for metric, since in (("latency", called), ("latency.after", returned)):
            waits = [(began[n] - since[n]) / 1e6 for n in range(count)]
            figures[f"{metric}.p50"] = stats.percentile(waits, 0.50)
            figures[f"{metric}.p99"] = stats.percentile(waits, 0.99)
        return figures
