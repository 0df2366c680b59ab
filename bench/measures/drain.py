"""How fast waiting jobs are run, whole and in the steady part.

Whole: jobs / (the last job's ending was seen - the first body began). The start of the processes
is left out, the start of a second process and the last grouped commit are not. Steady: the rate
at which bodies began between a fifth and nine tenths of the jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.marks import Mark
from bench.measures.base import Turn
from bench.measures.enqueue import CHUNK
from bench.session import Session, open_session

MARKS = 40
"""Marks that bodies leave over one drain."""

_FROM, _TO = 0.2, 0.9


def drain(session: Session, body: str, count: int, workers: int, processes: int) -> float:
    """Fill the store with `count` jobs, start workers; jobs a second, whole."""
    session.enqueue_bulk(body, count, CHUNK)
    session.start_workers(workers, processes)
    end = session.wait_ended()
    begin = min(mark.ns for mark in session.marks())
    return count / (end - begin) * 1e9


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
        variants = {"drain.1": (1, 1)}
        if turn.system.family != "raw":
            variants["drain.2"] = (1, 2)
        if turn.system.family == "failbetter":
            variants["drain.two-workers"] = (2, 1)
        count = turn.counts.drain
        stride = max(1, count // MARKS)
        for metric, (workers, processes) in variants.items():
            with open_session(turn.system, turn.work, stride) as session:
                turn.add(metric, drain(session, "noop", count, workers, processes))
                rate = steady(session.marks(), stride, count)
                if rate is not None:
                    turn.add(f"{metric}.steady", rate)


class Scaling:
    """Bodies of 1 ms of CPU: `scaling.1`, `scaling.2` (processes), jobs a second."""

    name = "scaling"

    def run(self, turn: Turn) -> None:
        count = turn.counts.spin
        stride = max(1, count // MARKS)
        for processes in (1, 2):
            with open_session(turn.system, turn.work, stride) as session:
                metric = f"scaling.{processes}"
                turn.add(metric, drain(session, "spin", count, 1, processes))
                rate = steady(session.marks(), stride, count)
                if rate is not None:
                    turn.add(f"{metric}.steady", rate)
