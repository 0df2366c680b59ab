"""The speeds to reach, each a ratio or a figure of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import stats
from bench.results import Results
from bench.systems.base import System

OURS, RELAXED = "failbetter", "failbetter-relaxed"
RAW, RAW_RELAXED = "raw", "raw-relaxed"
OURS_PG, RAW_PG = "failbetter-pg", "raw-pg"
FASTEST_PEER = "the fastest peer"
FASTEST_PEER_PG = "the fastest peer on PostgreSQL"


def peers(systems: Sequence[System]) -> dict[str, list[str]]:
    """Those that a floor may mean by the fastest of them."""
    found: dict[str, list[str]] = {FASTEST_PEER: [], FASTEST_PEER_PG: []}
    for system in systems:
        if system.family == "peer":
            name = FASTEST_PEER_PG if system.store == "postgres" else FASTEST_PEER
            found[name].append(system.key)
    return found


@dataclass(frozen=True)
class Floor:
    """`metric` of `system`, divided by `below` (metric, system) unless None; at least or at most
    `bound`; None: shown for comparison. `aim` is what we would like."""

    title: str
    metric: str
    system: str
    below: tuple[str, str] | None
    bound: float | None
    unit: str = ""
    at_most: bool = False
    aim: float | None = None

    def measured(self, results: Results, peers: Mapping[str, list[str]]) -> stats.Spread | None:
        """Its ratio, taken round by round; None when the run has not measured both sides."""
        above = results.by_round(self.metric, self.system)
        if self.below is None:
            return stats.spread(list(above.values()))
        metric, system = self.below
        if system in peers:
            return stats.spread(stats.ratios(above, results.best(metric, peers[system])))
        return stats.spread(stats.ratios(above, results.by_round(metric, system)))

    def calm(self, results: Results, peers: Mapping[str, list[str]]) -> bool:
        """Whether others left the machine alone in at least half of the rounds it stands on."""
        rounds = list(results.by_round(self.metric, self.system))
        if not results.calm(self.metric, [self.system], rounds):
            return False
        if self.below is None:
            return True
        metric, system = self.below
        return results.calm(metric, peers.get(system, [system]), rounds)

    def reached(self, spread: stats.Spread) -> bool:
        """Whether the median meets the bound, if there is one."""
        if self.bound is None:
            return True
        return spread.median <= self.bound if self.at_most else spread.median >= self.bound

    def wanted(self) -> str:
        """The bound in words; a dash without one."""
        if self.bound is None:
            return "-"
        words = f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}"
        return words if self.aim is None else f"{words} (aim: {self.aim:g})"


def of_retry(ours: str, raw: str, peer: str, peer_title: str, pending: float) -> tuple[Floor, ...]:
    """Those of a retry of everything that failed, with a worker at work; `pending` in seconds."""
    return (
        Floor("50,000 failed jobs grouped", "retry.grouped", ours, None, 0.5, " s", at_most=True),
        Floor("previewed", "retry.previewed", ours, None, 3.0, " s", at_most=True),
        Floor("made pending again", "retry.pending", ours, None, pending, " s", at_most=True),
        Floor("made pending again ÷ raw, one update", "retry.pending", ours,
              ("retry.pending", raw), None),
        Floor(f"previewed and made pending again ÷ {peer_title}'s retry", "retry.seconds", ours,
              ("retry.seconds", peer), 1.0, at_most=True),
        Floor("meanwhile, the latest ending that others see", "retry.delay.during", ours, None,
              100.0, " ms", at_most=True),
        Floor("a fresh job behind them begins after", "retry.fresh", ours, None, 1.0, " s",
              at_most=True),
        Floor(f"a fresh job behind them ÷ {peer_title}'s", "retry.fresh", ours,
              ("retry.fresh", peer), None),
        Floor("memory of who retries 50,000 ÷ 5,000", "retry.peak", ours,
              ("retry.peak.part", ours), 1.1, at_most=True),
    )  # fmt: skip


ON_SQLITE = (
    Floor("drain, one process ÷ raw", "drain.1", OURS, ("drain.1", RAW), 0.4, aim=0.6),
    Floor("drain, one process ÷ the fastest peer", "drain.1", OURS, ("drain.1", FASTEST_PEER), 6.0),
    # Steady rates where processes are compared: the later start of the second is not their speed.
    Floor("drain, 2 processes ÷ one, steady", "drain.2.steady", OURS, ("drain.1.steady", OURS),
          1.0),
    Floor("drain, two workers ÷ one, steady", "drain.two-workers.steady", OURS,
          ("drain.1.steady", OURS), 1.0),
    Floor("bodies of 1 ms of CPU, 2 processes ÷ one, steady", "scaling.2.steady", OURS,
          ("scaling.1.steady", OURS), 1.8),
    Floor("enqueue one by one ÷ raw, durable", "enqueue.one", OURS, ("enqueue.one", RAW), 0.6),
    Floor("enqueue one by one ÷ raw, relaxed", "enqueue.one", RELAXED,
          ("enqueue.one", RAW_RELAXED), 0.35),
    Floor("enqueue in bulk ÷ raw", "enqueue.bulk", OURS, ("enqueue.bulk", RAW), 0.5),
    Floor("pick-up by an idle worker, p50", "latency.p50", OURS, None, 2.0, " ms", at_most=True),
    Floor("pick-up by an idle worker, p99", "latency.p99", OURS, None, 10.0, " ms", at_most=True),
    Floor("one by one with {history:,} ended jobs ÷ empty", "growth.full.one", OURS,
          ("growth.empty.one", OURS), 0.9),
    Floor("in bulk with {history:,} ended jobs ÷ empty", "growth.full.bulk", OURS,
          ("growth.empty.bulk", OURS), 0.9),
    Floor("drain with {history:,} ended jobs ÷ empty", "growth.full.drain", OURS,
          ("growth.empty.drain", OURS), 0.9),
    Floor("memory (PSS) of an idle worker ÷ RQ's SimpleWorker", "memory.pss", OURS,
          ("memory.pss", "rq"), 2.0, at_most=True),
    Floor("CPU of an idle worker", "memory.cpu", OURS, None, 1.0, " % of a core", at_most=True),
    *of_retry(OURS, RAW, "rq", "RQ", pending=0.6),
)  # fmt: skip

ON_POSTGRES = (
    Floor("drain, one process ÷ raw", "drain.1", OURS_PG, ("drain.1", RAW_PG), 0.5),
    Floor("drain, one process ÷ the fastest peer", "drain.1", OURS_PG,
          ("drain.1", FASTEST_PEER_PG), 1.5, aim=2.0),
    Floor("drain, two workers ÷ one, steady", "drain.two-workers.steady", OURS_PG,
          ("drain.1.steady", OURS_PG), 1.4),
    Floor("enqueue one by one ÷ raw", "enqueue.one", OURS_PG, ("enqueue.one", RAW_PG), 0.8),
    Floor("enqueue in bulk ÷ raw", "enqueue.bulk", OURS_PG, ("enqueue.bulk", RAW_PG), 0.35),
    Floor("enqueue in bulk ÷ pgqueuer", "enqueue.bulk", OURS_PG, ("enqueue.bulk", "pgqueuer"),
          1.3, aim=2.0),
    Floor("pick-up by an idle worker, p50", "latency.p50", OURS_PG, None, 2.5, " ms",
          at_most=True),
    Floor("pick-up by an idle worker, p99", "latency.p99", OURS_PG, None, 10.0, " ms",
          at_most=True),
    *of_retry(OURS_PG, RAW_PG, "procrastinate", "procrastinate", pending=1.2),
)  # fmt: skip
