"""What an idle worker with one process for jobs costs."""

from __future__ import annotations

from bench.measures.base import Turn
from bench.processes import settle
from bench.session import WARM_UP, open_session

SETTLE_SECONDS = 1.5
WATCH_SECONDS = 4.0


class Memory:
    """`memory.pss`, `memory.uss`: MiB over all processes of the worker, after it has run a few
    jobs; `memory.processes`; `memory.cpu`: per cent of a core that it uses while it waits."""

    name = "memory"

    def run(self, turn: Turn) -> None:
        turn.take(lambda: self._measure(turn))

    @staticmethod
    def _measure(turn: Turn) -> dict[str, float]:
        with open_session(turn.system, turn.work) as session:
            session.start_workers()
            session.warm_up("touch")
            session.wait_marks(WARM_UP)
            (worker,) = session.workers
            settle(worker, SETTLE_SECONDS)
            before = worker.weigh()
            settle(worker, WATCH_SECONDS)
            after = worker.weigh()
        return {
            "memory.pss": after.pss,
            "memory.uss": after.uss,
            "memory.processes": after.processes,
            "memory.cpu": (after.cpu - before.cpu) / WATCH_SECONDS * 100,
        }
