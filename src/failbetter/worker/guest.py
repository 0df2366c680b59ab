"""A job run in an engine's process, where failbetter is a guest: claimed by its id, run, settled.

There is no supervisor. The process is its own worker: it registers, holds a lock file that its
death sets free, and notes on a board what it begins, so that whoever maintains the ledger on this
host sees at once that it died and whether a body was running. A thread renews its lease and looks
after its bodies (`attendant`). What it cannot write while the ledger is out of reach, it keeps
trying to: the engine's worker waits with it.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import faulthandler
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

import msgspec

from failbetter import board, ids
from failbetter.errors import LedgerError
from failbetter.fleet import WorkerLock, describe_process
from failbetter.ledger import registry
from failbetter.limits import WRITE_TIMEOUT
from failbetter.worker.appload import loaded_code
from failbetter.worker.attendant import Attendant, Run
from failbetter.worker.bodies import Concurrent, OneByOne
from failbetter.worker.desk import Desk
from failbetter.worker.execute import Executor
from failbetter.worker.judgement import told
from failbetter.worker.nursery import GRACE
from failbetter.worker.requests import PROGRESS
from failbetter.worker.wire import (
    Committed,
    Ended,
    Handout,
    Partial,
    Reply,
    Request,
    Returned,
    handout_of,
)

if TYPE_CHECKING:
    from failbetter.app import App
    from failbetter.engine import Keeper
    from failbetter.ledger.claims import Claimed
    from failbetter.worker.code import LoadedCode

_logger = logging.getLogger("failbetter.worker")

# While the ledger is out of reach, a write is tried again so soon (s); the desk says when in fact.
_SOON = 0.02
_PAUSE = 1.0


_locks: weakref.WeakSet[WorkerLock] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    """What a body forks must not seem to be its worker, once that is dead."""
    for lock in list(_locks):
        with contextlib.suppress(OSError):
            lock.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


class Guest:
    """This process as a worker. A forked process needs one of its own.

    `engine`: its name. `keeper`: what is on record of the process. `slots`: how many bodies may run
    at once, each in the thread that calls `run`. `for_one`: the process runs one job and ends.
    `loaded`: the user's code, if the process was forked from one that had loaded it.
    `owns_session`: it leads a session of its own; what its bodies start there ends with it.
    """

    def __init__(
        self,
        app: App,
        engine: str,
        keeper: Keeper,
        *,
        slots: int = 1,
        for_one: bool = False,
        loaded: LoadedCode | None = None,
        owns_session: bool = False,
    ) -> None:
        self._app = app
        self._engine = engine
        self._keeper = keeper
        self._slots = slots
        self._for_one = for_one
        self._owns_session = owns_session
        self._database = app.database
        self._loaded = loaded_code(app) if loaded is None else loaded
        self._code = app.code_version or self._loaded.name
        self.pid = os.getpid()
        self._writing = threading.RLock()
        self._runs: dict[int, Run] = {}
        self._unsure = False
        """Whether a claim may have been written that was not heard of."""
        self._desk: Desk | None = None
        self._line: Line
        self._lock: WorkerLock
        self._way: OneByOne | Concurrent
        self._attendant: Attendant
        self._stacks: int

    # -- one job

    def run(self, number: int) -> bool:
        """Run the job of that id, if it may begin now; whether it was claimed.

        Returns when its end is written. Raises LedgerError when it could not be claimed because
        the ledger stayed out of reach: then its id is sent again.
        """
        with self._writing:
            self._be_enlisted()
            job = self._claim(number)
            self._give_back_forgotten(job)
            if job is None:
                self._write_all()
                self._close_if_for_one()
                return False
            run = self._runs[job.id] = Run(job, time.monotonic())
        self._attendant.attend()
        try:
            self._in_time(job)
            # What a body sees of its job must not stay for what the engine runs next here.
            context = contextvars.copy_context()
            context.run(self._way.run_one, self._handout(job), job.payload.encode())
        finally:
            if not run.ended:
                self._stop_the_clock()
            with self._writing:
                self._runs.pop(job.id, None)
                self._close_if_for_one()
        return True

    def stop_bodies(self) -> bool:
        """Have what runs stop and be handed back, as the process is to end; whether anything does.

        For signal handlers: it waits for nothing.
        """
        if self._desk is None or not self._runs:
            return False
        self._attendant.is_leaving = True
        return True

    def _claim(self, number: int) -> Claimed | None:
        desk = self._desk
        assert desk is not None
        limit = time.monotonic() + WRITE_TIMEOUT
        while True:
            try:
                return desk.claim_one(number)
            except LedgerError as error:
                self._unsure = True
                if time.monotonic() > limit:
                    raise
                _logger.warning("%s; the job's claim is tried again", error)
                time.sleep(_PAUSE)

    def _give_back_forgotten(self, job: Claimed | None) -> None:
        """Give back what a claim has taken whose commit was not heard of: it would be held for as
        long as this process lives."""
        desk = self._desk
        if not self._unsure or desk is None:
            return
        known = self._held() if job is None else {*self._held(), (job.id, job.fence)}
        try:
            forgotten = desk.forgotten(known)
        except LedgerError:
            return  # with the next job, then
        self._unsure = False
        for number, fence in forgotten:
            _logger.warning("handing back job %s, claimed but never heard of", ids.to_text(number))
            desk.give_back_fence(number, fence)

    def _handout(self, job: Claimed) -> Handout:
        return handout_of(job, self._database.now() - time.monotonic_ns() // 1000)

    def _in_time(self, job: Claimed) -> None:
        """Have the process ended, with its stacks written, should the body stop for nothing.

        By a thread that needs no interpreter: one that never lets go of it is ended as well.
        """
        if self._slots > 1:
            return
        # What an earlier body has left there says nothing of this one.
        os.ftruncate(self._stacks, 0)
        os.lseek(self._stacks, 0, os.SEEK_SET)
        timeout = job.policy.timeout
        if timeout is not None:
            faulthandler.dump_traceback_later(timeout + 2 * GRACE, exit=True, file=self._stacks)

    def _stop_the_clock(self) -> None:
        if self._slots == 1:
            faulthandler.cancel_dump_traceback_later()

    # -- what its bodies tell and ask

    def told(self, message: msgspec.Struct) -> None:
        """A body has ended: write what becomes of its job."""
        with self._writing:
            desk = self._desk
            assert desk is not None
            if isinstance(message, Partial):
                run = self._ended(message.returned.id)
                desk.partial(run.job, message, self._code)
            elif isinstance(message, Returned):
                desk.returned(self._ended(message.id).job, message, self._code)
            elif isinstance(message, Ended):
                run = self._ended(message.id)
                if message.verdict == "wait":
                    desk.give_back(run.job)
                else:
                    desk.ended(told(run.job, message, self._code))
            else:
                assert isinstance(message, Committed)
                self._ended(message.id)
            if self._for_one:
                desk.leave()
            self._write_all()

    def _ended(self, number: int) -> Run:
        """The job's run, whose body is over: what is left may take as long as the ledger does."""
        self._stop_the_clock()
        run = self._runs[number]
        run.ended = True
        return run

    def answer(self, asked: Request) -> Reply:
        """Do what a body asks for, and wait until it is written."""
        given: list[Reply] = []
        with self._writing:
            desk = self._desk
            run = self._runs[asked.id]
            assert desk is not None
            if asked.kind in PROGRESS:
                run.progressed_at = time.monotonic()
            if asked.kind == "permit":
                desk.ask_permit(run.job, asked, given.append)
            else:
                desk.request(asked, given.append)
            self._write_all()
        return given[0]

    def _write_all(self) -> None:
        desk = self._desk
        assert desk is not None
        while desk.must_write:
            now = time.monotonic()
            if desk.may_write(now):
                desk.write(0, now)
            else:
                time.sleep(_SOON)

    # -- its place in the fleet

    def _be_enlisted(self) -> None:
        """Take the lock, make the board, register: in this order, so that it is not taken for
        dead."""
        if self._desk is not None and not self._attendant.lost:
            return
        if self._desk is not None:
            _logger.warning("worker %s was declared lost; starting over", self._desk.worker.name)
            if self._runs:
                return  # another body of this process runs still: when none does, then
            self._leave_fleet()
        fleet = self._database.fleet
        number = ids.take()
        place = describe_process()
        self._lock = fleet.hold(number)
        _locks.add(self._lock)
        if self._owns_session:
            self._lock.note_child(self.pid, time.time())
        board.create(fleet.board_path(number), 1)
        self._stacks = os.open(fleet.stacks_path(number), os.O_RDWR | os.O_CREAT, 0o644)
        now = self._database.now()
        worker = registry.Worker(
            id=number,
            name=f"{self._engine}:{place['host']}:{place['pid']}",
            host=place["host"],
            pid=place["pid"],
            fleet=fleet.id,
            lease=round(self._app.lease * 1_000_000),
            beats=0,
            renewed_at=now,
            started_at=now,
            stopping=0,
            code=self._code,
            queues="[]",
            tasks=msgspec.json.encode(sorted(self._app.tasks)).decode(),
            processes=1,
            concurrency=self._slots,
            engine=self._engine,
            keeper=msgspec.json.encode(self._keeper).decode(),
        )
        if not self._for_one:
            try:
                with self._database.write() as tx:
                    registry.register(tx, worker)
            except LedgerError:
                self._let_go(number)
                raise
        self._desk = Desk(self._database, worker, self._held, for_one=self._for_one)
        self._line = Line(self)
        ring = board.Ring(fleet.board_path(number), 0)
        executor = Executor(self._app, self._line, ring, number, self._code, self._loaded)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._slots == 1 and in_main_thread:
            self._way = OneByOne(executor, self._stacks)
        else:
            self._way = Concurrent(executor, self._stacks, self._slots)
        self._attendant = Attendant(
            self._app, worker, self._runs, self._way.interrupt, self._stacks
        )
        if not self._for_one:
            atexit.register(self.leave)

    def _held(self) -> set[tuple[int, int]]:
        return {(run.job.id, run.job.fence) for run in self._runs.values() if not run.ended}

    def leave(self) -> None:
        """Sign off: the process is about to end, and no body of it runs any more."""
        if self._desk is None or os.getpid() != self.pid or self._runs:
            return
        atexit.unregister(self.leave)
        with self._writing, contextlib.suppress(LedgerError):
            with self._database.write(durable=False, timeout=2.0) as tx:
                registry.remove(tx, self._desk.worker.id)
            self._leave_fleet()

    def _close_if_for_one(self) -> None:
        if self._for_one:
            self._leave_fleet()

    def _leave_fleet(self) -> None:
        desk, self._desk = self._desk, None
        if desk is None:
            return
        self._attendant.stop()
        self._way.close()
        self._let_go(desk.worker.id)

    def _let_go(self, number: int) -> None:
        self._database.fleet.forget(number)
        _locks.discard(self._lock)
        self._lock.close()
        os.close(self._stacks)


class Line:
    """What stands between a body and its guest, in the place of a child's line to a supervisor."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.busy = False
        """Whether the ledger is being written to: an exception now would strike there."""

    def tell(self, message: msgspec.Struct) -> None:
        """Write a body's end."""
        self.busy = True
        try:
            self._guest.told(message)
        finally:
            self.busy = False

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Reply:
        """Have something written, and wait for that."""
        self.busy = True
        try:
            return self._guest.answer(Request(1, kind, number, fence, name, value))
        finally:
            self.busy = False

    def post(self, kind: str, number: int, fence: int, name: str, value: str | None) -> None:
        """The same, where nobody asks how it went."""
        self.ask(kind, number, fence, name, value)

    def payload(self, handout: Handout) -> str:
        """Not asked for: arguments of any size are handed out here."""
        raise AssertionError(f"the arguments of {handout.id} were handed out with it")

    def is_outdated(self, handout: Handout) -> bool:
        """Whether a newer job of the same subject has succeeded since this one was claimed."""
        return self.ask("outdated", handout.id, handout.fence, "", None).value == "true"

    def permit(self, handout: Handout, tries: int) -> int | None:
        """Ask for another permit of the job's rate limit: its term; None: it must wait."""
        reply = self.ask("permit", handout.id, handout.fence, "", str(tries))
        return None if reply.value is None else int(reply.value)
