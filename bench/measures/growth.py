"""Whether a ledger with a million ended jobs is as fast as an empty one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench import history
from bench.measures.base import Turn
from bench.measures.drain import drain
from bench.measures.enqueue import in_bulk, one_by_one
from bench.session import open_session
from bench.specimen import Specimen
from bench.systems.failbetter import Failbetter


class Growth:
    """`growth.empty.*` and `growth.full.*`: `one`, `bulk`, `drain`, jobs a second."""

    name = "growth"

    def __init__(self, specimen: Path, work: Path, jobs: int) -> None:
        self._specimen = specimen
        self._seed = work / "grown.db"
        self.jobs = jobs

    def run(self, turn: Turn) -> None:
        system = turn.system
        assert isinstance(system, Failbetter)
        if not self._seed.exists():
            self._make_seed(system, turn.work)
        ledgers = {"empty": system, "full": system.grown(self._seed)}
        count = turn.counts.drain
        for piece in ("one", "bulk", "drain"):
            # Who goes first changes from round to round.
            for label in sorted(ledgers, reverse=turn.number % 2 == 1):
                ledger, metric = ledgers[label], f"growth.{label}.{piece}"
                if piece == "drain":
                    turn.take(partial(drain, ledger, turn, metric, "noop", count, 1, 1))
                else:
                    call = one_by_one if piece == "one" else in_bulk
                    turn.take(partial(call, ledger, turn, metric))

    def _make_seed(self, system: Failbetter, work: Path) -> None:
        """Let failbetter make a ledger, then fill it."""
        with open_session(system, work) as session:
            session.warm_up()
            session.start_workers()
            session.wait_ended()
            session.stop_workers()
            ledger = system.ledger(session.folder)
            unfinished = self._seed.with_suffix(".part")
            session.close()
            history.grow(ledger, Specimen.load(self._specimen), self.jobs)
            ledger.rename(unfinished)
        unfinished.rename(self._seed)
