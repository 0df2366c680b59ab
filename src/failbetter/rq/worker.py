"""Classes for `rq worker -w`: RQ's own workers that load the app first and tell of deaths.

    rq worker -w failbetter.rq.Worker         # a process for each job, forked with the app in it
    rq worker -w failbetter.rq.SimpleWorker   # all in one process: faster, and dies with a body

All else is RQ's: options, signals, the registries.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import msgspec
import rq
from redis.exceptions import RedisError

from failbetter.errors import LedgerError
from failbetter.ledger import registry
from failbetter.lifecycle.states import Cause
from failbetter.recovery.deciding import Report
from failbetter.recovery.guests import dead_guest, kept_here
from failbetter.recovery.settling import Settler
from failbetter.rq import work
from failbetter.worker.evidence import OutOfMemory, describe_exit, end_text

if TYPE_CHECKING:
    from rq.job import Job

_logger = logging.getLogger("failbetter.rq")

EX_CONFIG = 78


class _Loading(rq.worker.BaseWorker):
    """Loads the app before it takes a job, and ends if that cannot be: its jobs wait in RQ."""

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        try:
            work.load()
        except BaseException as error:  # whatever the user's modules do while they load
            self.log.error(
                "Worker %s: $%s cannot be loaded, so that no job is taken: %s: %s",
                self.name,
                work.APP,
                type(error).__name__,
                error,
            )
            raise SystemExit(EX_CONFIG) from None
        super().bootstrap(*args, **kwargs)
        _log_as_rq_does()


class SimpleWorker(_Loading, rq.SimpleWorker):
    """RQ's SimpleWorker with the app loaded. Nobody outlives the crash of a body, to tell of it."""


class Worker(_Loading, rq.Worker):
    """RQ's Worker with the app loaded before it forks. How a work horse died is in the ledger at
    once: by which signal, with which exit code, for lack of memory."""

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        super().bootstrap(*args, **kwargs)
        work.worker_tells()
        self._memory = OutOfMemory()
        self._exits: list[tuple[int, str | None]] = []

    def setup_work_horse_signals(self) -> None:
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        work.stay_on_sigterm()

    def wait_for_horse(self) -> tuple[int | None, int | None, Any]:
        ended = super().wait_for_horse()
        if ended[1] is not None:
            # What it was told to stop is forgotten by the time that its own part is done.
            self._exits.append((os.waitstatus_to_exitcode(ended[1]), self._stopped_job_id))
        return ended

    def monitor_work_horse(self, job: Job, *args: Any, **kwargs: Any) -> None:
        horse = self.horse_pid
        self._exits.clear()
        taken_down = False
        try:
            super().monitor_work_horse(job, *args, **kwargs)
        except SystemExit:
            taken_down = True  # a cold shutdown, which has killed it
            raise
        finally:
            for code, stopped in self._exits:  # one, or none if nobody knows
                cause = None
                if taken_down:
                    cause = Cause.INTERRUPTED
                elif stopped == job.id:
                    cause = Cause.CANCELLED
                if code != 0 or self._is_unfinished(job):
                    self._tell(horse, code, cause)

    def _is_unfinished(self, job: Job) -> bool:
        """Whether RQ has not heard of the job's end: a body may have left with code 0."""
        with contextlib.suppress(RedisError, OSError):
            return bool(self.connection.exists(job.key))
        return True

    def _tell(self, horse: int, code: int, cause: Cause | None) -> None:
        """Write into the ledger how a horse ended, if it was in the midst of a job.

        `cause`: why this worker has killed it; None: it has not.
        """
        # What it has started runs on in its group, and must not beside the next attempt.
        with contextlib.suppress(OSError):
            os.killpg(horse, signal.SIGKILL)
        evidence = describe_exit(code)
        if code == -signal.SIGKILL and cause is None:
            evidence |= self._memory.evidence_of(horse)
        told = end_text(evidence)
        database = work.load().app.database
        try:
            with database.look() as tx:
                guests = kept_here(registry.all_workers(tx), horse)
            for guest in guests:
                gone = dead_guest(database.fleet, guest, lives=True, told=told, **evidence)
                if cause is not None:
                    gone = msgspec.structs.replace(gone, cause=cause)
                Settler(database).settle(gone, Report())
        except (LedgerError, OSError) as error:
            _logger.warning(
                "%s; that work horse %d was %s is told by whoever sweeps", error, horse, told
            )
        finally:
            # The next horse must inherit no connection.
            database.close()


def _log_as_rq_does() -> None:
    """Have failbetter's lines come out where RQ's do, unless the user has seen to that."""
    ours, theirs = logging.getLogger("failbetter"), logging.getLogger("rq.worker")
    if not logging.getLogger().handlers and all(
        isinstance(handler, logging.NullHandler) for handler in ours.handlers
    ):
        for handler in theirs.handlers:
            ours.addHandler(handler)
        ours.setLevel(theirs.getEffectiveLevel())
