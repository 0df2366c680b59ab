"""Tells how children of a Celery worker died, in its main process, which outlives them.

Celery itself may take seconds to notice. Here a thread waits for a child's end and leaves it to be
collected by Celery. What the dead one held is settled at once, with the signal that killed it; what
cannot be written now, a sweeper writes later with less evidence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
from celery.worker import state

from failbetter.errors import LedgerError
from failbetter.ledger import reads, registry
from failbetter.recovery.deciding import Gone, Report
from failbetter.recovery.guests import dead_guest, kept_here
from failbetter.recovery.settling import Settler
from failbetter.worker.evidence import OutOfMemory, describe_exit, end_text

if TYPE_CHECKING:
    from failbetter.app import App
    from failbetter.ledger.database import Database
    from failbetter.ledger.registry import Worker

_logger = logging.getLogger("failbetter.celery")

# While a dead child is not collected, others are looked for so often (s).
_LOOK = 0.1
_IDLE = 1.0
_CODE = re.compile(r"signal (?P<signal>\d+)|exitcode (?P<code>\d+)")

# A child that is forked while the ledger is written to would hold a copy of the write's lock.
_writing = threading.Lock()
os.register_at_fork(
    before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release
)


class Deaths:
    """The thread that waits for them."""

    def __init__(self, app: App) -> None:
        # With connections of its own. A child that is forked lets go of them.
        self._database = app.database.another()
        self._memory = OutOfMemory()
        self._told: set[int] = set()

    def start(self) -> None:
        """Watch this process's children from now on."""
        threading.Thread(target=self._run, name="failbetter-deaths", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        # To connect takes longer than all the rest, and there is little time once one is dead.
        with contextlib.suppress(LedgerError, OSError), _writing:
            self._database.exists()
        while True:
            try:
                how = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pause.wait(_IDLE)
                continue
            assert how is not None  # it waits
            # Celery may have collected it by the time of the look.
            self._tell({how.si_pid: _code(how), **self._dead()})
            pause.wait(_LOOK)

    def _tell(self, dead: dict[int, int]) -> None:
        """Tell of those of whom nothing was told yet."""
        self._told &= dead.keys()
        for pid, code in dead.items():
            if pid in self._told:
                continue
            self._told.add(pid)
            try:
                with _writing:
                    self._settle(pid, code)
            except (LedgerError, OSError) as error:
                _logger.warning("%s; a sweep will tell what became of child %d", error, pid)

    def collected(self, number: int, text: str) -> None:
        """Celery has collected the child that was given this job, perhaps before it was seen here.

        `text`: what Celery says of its end.
        """
        found = _CODE.search(text)
        if found is None:
            return
        code = -int(found["signal"]) if found["signal"] else int(found["code"])
        try:
            with _writing:
                job = reads.job(self._database, number)
                holder = None if job is None or job.worker is None else job.worker
                worker = None if holder is None else reads.worker(self._database, holder)
                if worker is not None:
                    self._settle(worker.pid, code)
        except (LedgerError, OSError) as error:
            _logger.warning("%s; a sweep will tell what became of a child", error)

    @staticmethod
    def _dead() -> dict[int, int]:
        """The children that have ended and wait to be collected, with their return codes."""
        found = {}
        for child in psutil.Process().children():
            try:
                how = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                continue
            if how is not None:
                found[child.pid] = _code(how)
        return found

    def _settle(self, pid: int, code: int) -> None:
        database = self._database
        with database.look() as tx:
            found = kept_here(registry.all_workers(tx), pid)
        workers = [one for one in found if database.sees_dead(one.id, one.fleet)]
        report = Report()
        for worker in workers:
            gone = self._gone(database, worker, describe_exit(code))
            Settler(database).settle(gone, report)
        if report.handed_back:
            database.wake()

    def _gone(self, database: Database, worker: Worker, evidence: dict[str, Any]) -> Gone:
        if evidence.get("signal") == signal.SIGKILL:
            evidence |= self._memory.evidence_of(worker.pid)
        told = end_text(evidence)
        if state.should_stop is None and state.should_terminate is None:
            return dead_guest(database.fleet, worker, lives=True, told=told, **evidence)
        # Not the body's doing: whoever stops a worker may have told all its processes to end.
        gone = dead_guest(database.fleet, worker, lives=False, **evidence)
        return msgspec.structs.replace(gone, why=f"it was stopped with its Celery worker ({told})")


def _code(how: os.waitid_result) -> int:
    """A return code: minus the signal, if one ended the process."""
    return how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
