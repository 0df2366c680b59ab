"""Looks after what a guest runs, in a thread: its lease, its bodies' times, what a person cancels.

It shares the interpreter with the bodies. One that keeps it for itself silences it, and so its
lease alone does not say that such a process is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from failbetter.errors import LedgerError
from failbetter.ledger import claims, registry
from failbetter.worker.nursery import GRACE
from failbetter.worker.wire import Interrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.app import App
    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.worker")

# Seconds after which it is written that a body has begun: most have ended before.
_MARK = 0.1
_LOOK = 0.1
_FAREWELL = 1.0
_CANCELLATIONS = 1.0
_LAST_WORDS = {"stalled": "Stalled", "cancel": "Cancelled"}


class Run(msgspec.Struct):
    """A job that is claimed and not settled. Times in monotonic seconds."""

    job: Claimed
    began: float
    progressed_at: float | None = None
    ended: bool = False
    marked: bool = False
    why: str | None = None
    """What for its body was asked to stop, and when."""
    asked_at: float = 0.0


class Attendant:
    """The thread, and what it knows.

    `runs`: what the guest runs, which it changes. `interrupt`: stops a body. `stacks`: where to
    write them before the process is ended; only a process with one body is.
    """

    def __init__(
        self,
        app: App,
        worker: registry.Worker,
        runs: dict[int, Run],
        interrupt: Callable[[Interrupt], None],
        stacks: int,
    ) -> None:
        self._app = app
        self._worker = worker
        self._runs = runs
        self._interrupt = interrupt
        self._stacks = stacks
        self._database: Database | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._next_renewal = time.monotonic() + worker.lease / 3e6
        self._next_cancellations = 0.0
        self.lost = False
        """Whether the ledger knows this worker no more."""
        self.is_leaving = False
        """Set when the process is told to end: its bodies are asked to stop."""

    def attend(self) -> None:
        """Look after what runs from now on."""
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="failbetter-lease", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Come to an end; what it has open is closed."""
        self._stopping.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(_FAREWELL)

    def _run(self) -> None:
        while True:
            if self._runs:
                self._stopping.wait(_LOOK)
            else:
                # Whoever adds a run sets this afterwards.
                self._news.wait(max(self._next_renewal - time.monotonic(), 0.01))
            self._news.clear()
            if self._stopping.is_set():
                break
            try:
                self.tick(time.monotonic())
            except (LedgerError, OSError) as error:
                _logger.debug("the ledger is out of reach: %s", error)
        if self._database is not None:
            self._database.close()

    def tick(self, now: float) -> None:
        """Do what is due. `now` in monotonic seconds. Raises LedgerError."""
        runs = [run for run in list(self._runs.values()) if not run.ended]
        for run in runs:
            self._keep_in_time(run, now)
        if now >= self._next_renewal:
            self._renew(now)
        for run in runs:
            if not run.marked and now - run.began >= _MARK:
                self._mark(run, now)
        if any(run.marked for run in runs) and now >= self._next_cancellations:
            self._next_cancellations = now + _CANCELLATIONS
            self._heed_cancellations(now)

    # -- time

    def _keep_in_time(self, run: Run, now: float) -> None:
        policy = run.job.policy
        if run.why is not None:
            if now - run.asked_at >= GRACE:
                self._end_process(run)
            return
        quiet = now - (run.began if run.progressed_at is None else run.progressed_at)
        if self.is_leaving:
            self._ask_to_stop(run, "stop", now)
        elif policy.timeout is not None and now - run.began >= policy.timeout:
            self._ask_to_stop(run, "timeout", now)
        elif policy.stalled_after is not None and quiet >= policy.stalled_after:
            self._ask_to_stop(run, "stalled", now)

    def _ask_to_stop(self, run: Run, why: str, now: float) -> None:
        run.why, run.asked_at = why, now
        self._interrupt(Interrupt(run.job.id, run.job.fence, why))

    def _end_process(self, run: Run) -> None:
        """As its parent would, were it a child of ours: the body does not stop when asked to."""
        words = _LAST_WORDS.get(run.why or "")
        if self._worker.concurrency > 1 or run.ended or words is None:
            return  # others run in it; or the clock that ends it is set already
        with contextlib.suppress(OSError):
            os.write(self._stacks, f"{words} ({run.job.task})\n".encode())
            faulthandler.dump_traceback(self._stacks, all_threads=True)
        os.kill(os.getpid(), signal.SIGKILL)

    # -- the ledger

    @property
    def _ledger(self) -> Database:
        """Connections of its own: the guest's may be in the middle of a transaction."""
        if self._database is None:
            self._database = self._app.database.another()
        return self._database

    def _renew(self, now: float) -> None:
        self._next_renewal = now + 1.0
        with self._ledger.write(durable=False, timeout=1.0) as tx:
            self.lost = not registry.renew(tx, self._worker.id, tx.now(), stopping=False)
        self._next_renewal = now + self._worker.lease / 3e6
        if self.lost:
            for run in list(self._runs.values()):
                if not run.ended and run.why is None:
                    self._ask_to_stop(run, "lost", now)

    def _mark(self, run: Run, now: float) -> None:
        job = run.job
        with self._ledger.write(durable=False, timeout=1.0) as tx:
            begun_at = tx.now() - round((now - run.began) * 1e6)
            mirrored = [] if job.mirror_key is None else [(job.id, job.mirror_key)]
            claims.mark_begun(tx, [(begun_at, job.id, job.fence, self._worker.id)], mirrored)
        run.marked = True

    def _heed_cancellations(self, now: float) -> None:
        with self._ledger.look() as tx:
            cancelled = registry.cancelled(tx, self._worker.id)
        for number, fence in cancelled:
            run = self._runs.get(number)
            if run is not None and run.job.fence == fence and run.why is None and not run.ended:
                self._ask_to_stop(run, "cancel", now)
