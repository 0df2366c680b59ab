"""How fast waiting jobs are run, whole and in the steady part.

Whole: jobs / (the last job's ending was seen - the first body began). The start of the processes
is left out, the start of a second process and the last grouped commit are not. Steady: the rate
at which bodies began between a fifth and nine tenths of the jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.marks import Mark
from bench.measures.base import Turn
from bench.measures.enqueue import CHUNK
from bench.session import open_session
from bench.systems.base import System

MARKS = 40
"""Marks that bodies leave over one drain."""

_FROM, _TO = 0.2, 0.9

_WAYS = {"drain.1": (1, 1), "drain.2": (1, 2), "drain.two-workers": (2, 1)}
"""Workers, and processes of each."""


def drain(
    system: System, turn: Turn, metric: str, body: str, count: int, workers: int, processes: int
) -> dict[str, float]:
    """Fill a store with `count` jobs, then start workers; jobs a second, whole and steady."""
    stride = max(1, count // MARKS)
    with open_session(system, turn.work, stride) as session:
        session.enqueue_bulk(body, count, CHUNK)
        session.start_workers(workers, processes)
        end = session.wait_ended()
        marks = session.marks()
    begin = min(mark.ns for mark in marks)
    figures = {metric: count / (end - begin) * 1e9}
    rate = steady(marks, stride, count)
    if rate is not None:
        figures[f"{metric}.steady"] = rate
    return figures


def steady(marks: Sequence[Mark], stride: int, count: int) -> float | None:
    """Jobs a second over the middle, from the marks of every `stride`-th job; None if too few."""
    times = sorted({m.number: m.ns for m in marks if m.number % stride == 0}.values())
    first, last = int(_FROM * count / stride), int(_TO * count / stride)
    if last >= len(times) or last - first < 5:
        return None
    return (last - first) * stride / (times[last] - times[first]) * 1e9


class Drain:
    """Metrics `drain.1`, `drain.2` (processes), `drain.two-workers`; each also with `.steady`."""

    name = "drain"

    def run(self, turn: Turn) -> None:
        for metric in turn.system.drains:
            count, (workers, processes) = turn.counts.drain, _WAYS[metric]
            turn.take(partial(drain, turn.system, turn, metric, "noop", count, workers, processes))


class Scaling:
    """Bodies of 1 ms of CPU: `scaling.1`, `scaling.2` (processes), jobs a second."""

    name = "scaling"

    def run(self, turn: Turn) -> None:
        for processes in (1, 2):
            metric, count = f"scaling.{processes}", turn.counts.spin
            turn.take(partial(drain, turn.system, turn, metric, "spin", count, 1, processes))
