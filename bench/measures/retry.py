"""What it costs to retry everything that failed, while a worker is at work."""

from __future__ import annotations

import time

from bench.measures.base import Turn
from bench.measures.enqueue import CHUNK
from bench.onlooker import Onlooker
from bench.session import Session, open_session
from bench.specimen import JOBS
from bench.systems.failbetter import OfFailbetter

REFERENCE = 50_000
"""Jobs that the seconds are stated for; fewer are measured where that would take minutes."""
PART = 10
"""What memory is compared with is that for so many times fewer jobs."""
AT_WORK = 1_500
"""Short jobs that the worker is busy with meanwhile."""
UNDISTURBED = 100
"""After so many of them the retry begins: their endings are what the others' are compared with."""
FRESH = 5
"""Jobs enqueued behind the retried ones."""
PAUSE = (0.005, 0.06)
PATIENCE = 900.0


class Retry:
    """Seconds for 50,000 failed jobs: `retry.grouped`, `retry.previewed`, `retry.pending` (made to
    wait again), `retry.seconds` (the last two together; of others, all that they do).

    `retry.fresh`: seconds until the last of a few fresh jobs behind them began. Milliseconds from
    the end of a body until others could see its job's end, the longest: `retry.delay.before`,
    `retry.delay.during`. MiB that the retrying process took at most: `retry.peak`, and
    `retry.peak.part` for a tenth of the jobs.
    """

    name = "retry"

    def run(self, turn: Turn) -> None:
        system = turn.system
        if isinstance(system, OfFailbetter):
            turn.take(lambda: _ours(turn, system))
            turn.take(lambda: _peak_of_part(turn))
        else:
            turn.take(lambda: _others(turn))


def _ours(turn: Turn, system: OfFailbetter) -> dict[str, float]:
    with open_session(system, turn.work) as session:
        _fail(session, turn.counts.retry)
        session.enqueue_bulk("brief", AT_WORK, CHUNK)
        eye = system.look(session.folder)
        rows = eye.execute(f"SELECT id FROM {JOBS} WHERE state = 'pending' ORDER BY id").fetchall()
        eye.close()
        briefs = [job for (job,) in rows]
        session.renew_producer()
        session.start_workers()
        with Onlooker(lambda: system.look(session.folder), briefs) as onlooker:
            session.wait_marks(UNDISTURBED)
            figures, began, ended = _act(session, turn.counts.retry)
            session.wait_marks(AT_WORK, PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while not onlooker.done and time.monotonic() < deadline:
                time.sleep(0.005)
        figures["retry.fresh"] = _fresh(session, AT_WORK)
        # Ids are made in the order of the numbers.
        bodies = {briefs[m.number]: m.ns for m in session.marks()[:AT_WORK]}
    spans = [(bodies[job], seen) for job, seen in onlooker.seen.items()]
    if not any(body > ended for body, _ in spans):
        raise RuntimeError("the worker had nothing left to do before all was retried")
    figures["retry.delay.before"] = _longest([s for s in spans if s[1] < began])
    figures["retry.delay.during"] = _longest([s for s in spans if s[1] >= began and s[0] <= ended])
    return figures


def _longest(spans: list[tuple[int, int]]) -> float:
    return max((seen - body) / 1e6 for body, seen in spans)


def _peak_of_part(turn: Turn) -> dict[str, float]:
    count = max(1, turn.counts.retry // PART)
    with open_session(turn.system, turn.work) as session:
        _fail(session, count)
        session.renew_producer()
        figures, _, _ = _act(session, count)
    return {"retry.peak.part": figures["retry.peak"]}


def _act(session: Session, count: int) -> tuple[dict[str, float], int, int]:
    """Group, preview, retry: figures, and when it began and ended, in ns."""
    scale = REFERENCE / count
    session.timed("group")  # so that its connection is there before a clock runs
    began = time.monotonic_ns()
    grouped = session.timed("group") * scale
    previewed = session.timed("preview") * scale
    pending = _retried(session, count) * scale
    ended = time.monotonic_ns()
    figures = {
        "retry.grouped": grouped,
        "retry.previewed": previewed,
        "retry.pending": pending,
        "retry.seconds": previewed + pending,
        "retry.peak": session.peak(),
    }
    return figures, began, ended


def _others(turn: Turn) -> dict[str, float]:
    count = turn.counts.retry
    with open_session(turn.system, turn.work) as session:
        _fail(session, count)
        figures = {}
        if turn.system.family == "peer":
            session.start_workers()
        else:
            session.renew_producer()
        seconds = _retried(session, count) * REFERENCE / count
        figures["retry.seconds"] = figures["retry.pending"] = seconds
        # Behind fewer jobs it would begin sooner than the others' does.
        if turn.system.family == "peer" and turn.system.counts.retry == REFERENCE:
            figures["retry.fresh"] = _fresh(session, 0)
    return figures


def _fail(session: Session, count: int) -> None:
    """So many failed jobs: made so, where the system's worker would take minutes to."""
    session.enqueue_bulk("fail", count, CHUNK)
    if not session.fail_all():
        session.start_workers()
        session.wait_ended()
        session.stop_workers()


def _retried(session: Session, count: int) -> float:
    seconds, retried = session.retry_all()
    if retried != count:
        raise RuntimeError(f"{retried} of {count} failed jobs were retried")
    return seconds


def _fresh(session: Session, marks: int) -> float:
    """Seconds until the last of a few jobs enqueued now begins; so many marks are there already."""
    called, _ = session.enqueue_paced("touch", FRESH, PAUSE, seed=0)
    began = {m.number: m.ns for m in session.wait_marks(marks + FRESH, PATIENCE)[marks:]}
    return max((began[n] - called[n]) / 1e9 for n in range(FRESH))
