"""The supervisor: claims, hands out, watches, settles. It imports none of the user's code.

One loop. A turn of it: hear the children, look after them, write what there is to write and
claim in the same commit, hand out. It waits only when there is nothing to do, and then until a
child speaks or dies, a producer wakes it, a job falls due, or a duty comes round.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import board, holds, ids, logs
from failbetter.errors import FailbetterError, LedgerError, SchemaMismatch
from failbetter.faultpoints import passing
from failbetter.fleet import Bell, describe_process
from failbetter.ledger import claims, hooks, registry
from failbetter.ledger.database import Database
from failbetter.recovery.sweeper import Sweeper
from failbetter.triage.ramp import Driver
from failbetter.worker.delivery import Delivery
from failbetter.worker.desk import Desk
from failbetter.worker.evidence import describe_exit, exit_text
from failbetter.worker.hall import Hall
from failbetter.worker.judgement import told
from failbetter.worker.keeping import Keeping
from failbetter.worker.nursery import GRACE, Nursery
from failbetter.worker.reloading import Reloading
from failbetter.worker.requests import PROGRESS
from failbetter.worker.status import Status
from failbetter.worker.watching import Watching
from failbetter.worker.wire import (
    Committed,
    Ended,
    Hello,
    Partial,
    Reply,
    Request,
    Returned,
    Unready,
)

if TYPE_CHECKING:
    from failbetter.fleet import Turn, WorkerLock
    from failbetter.ledger.claims import Claimed
    from failbetter.worker.process import Child
    from failbetter.worker.settings import Settings

_logger = logging.getLogger("failbetter.worker")

EX_UNAVAILABLE = 69
EX_CONFIG = 78

# Idle, the supervisor looks this often whether another connection has written: the way in which
# it hears of what no wake-up told, such as a job enqueued in a caller's own transaction.
_POLL = 0.1
# The same where a server tells of what others write.
_LONG_POLL = 0.5
# Busy, it looks after its children this often.
_WATCH = 0.02
_SWEEP = 1.0
_CANCELLATIONS = 0.2
_HOLDS = 1.0
# Seconds without room for more, after which a worker says that it is not idle.
_BUSY = 0.5
# After a renewal that failed, the next try.
_TRY_RENEWAL = 1.0
# After the last child, so long is tried to write what it left.
_LAST_WRITES = 5.0
# An idle child's time for what its libraries do at exit.
_FAREWELL = 2.0
_EARLY_DEATHS = 5
_AT_ONCE = float("inf")


class Supervisor:
    """One worker: its children, its desk, its place in the fleet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._status = Status(settings)
        self._nursery = Nursery(settings)
        self._selector = selectors.DefaultSelector()
        self._hall = Hall(self._nursery, settings.concurrency)
        self._reloading = Reloading(
            settings, self._nursery, self._watch_child, self._unwatch, self._keep
        )
        self._look = True
        self._signals: list[int] = []
        self._stop_at: float | None = None
        self._aborted: int | None = None
        self._enlisted = False
        self._early_deaths = 0
        self._next_watch = 0.0
        self._next_sweep = 0.0
        self._next_renewal = 0.0
        self._next_memory = 0.0
        self._next_cancellations = 0.0
        self._next_holds = 0.0
        self._rested = 0.0
        self._listened: tuple[int, int] | None = None
        self._database: Database
        self._desk: Desk
        self._sweeper: Sweeper
        self._driver: Driver
        self._lock: WorkerLock
        self._turn: Turn
        self._bell: Bell | None = None
        self._hello: Hello | None = None
        self._delivery: Delivery | None = None
        self._keeping: Keeping
        self._watching: Watching

    # -- beginning

    def run(self) -> int:
        """Work until told to stop, or until drained; the exit code."""
        try:
            self._status.open()
        except (OSError, OverflowError) as error:
            return _no_endpoint(self._settings, error)
        self._listen_to_signals()
        for child in self._nursery.fill():
            self._watch_child(child)
        hello = self._first_hello()
        if hello is None:
            return self._give_up()
        try:
            self._open_ledger(hello)
        except FailbetterError as error:
            _logger.error("%s", error)
            self._kill_all("stop")
            out_of_reach = isinstance(error, LedgerError) and not isinstance(error, SchemaMismatch)
            return EX_UNAVAILABLE if out_of_reach else EX_CONFIG
        for child in self._nursery.children:
            if child.said_hello:
                self._welcome(child)
        try:
            code = self._loop()
        except BaseException:
            # A defect of ours. The row, the lock and the board stay for the next worker's sweep.
            self._kill_all("stop")
            raise
        self._leave()
        return code

    def _listen_to_signals(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._signal_ends = (reader, writer)
        self._selector.register(reader, selectors.EVENT_READ, None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: self._signals.append(received))

    def _watch_child(self, child: Child) -> None:
        self._forget_closed_connection()
        self._selector.register(child.stream, selectors.EVENT_READ, child)
        if child.death is not None:
            self._selector.register(child.death, selectors.EVENT_READ, child)

    def _first_hello(self) -> Hello | None:
        """Wait until a child has loaded the app; None when it cannot be loaded, or on a signal."""
        while not self._signals:
            self._selector.select(_POLL)
            self._status.starting()
            self._notice_orphanhood()
            for child in list(self._nursery.children):
                for message in child.hear():
                    if isinstance(message, Hello):
                        self._met(child, message)
                        return message
                    if isinstance(message, Unready):
                        _logger.error(
                            "%s cannot be loaded:\n%s", self._settings.app, message.error.rstrip()
                        )
                        return None
                if child.is_dead() and not self._replace(child):
                    return None
        return None

    def _replace(self, child: Child) -> bool:
        """Start another in place of a child that died before its hello; not when it is its fault.

        A signal is somebody else's doing and says nothing about the app.
        """
        code = child.process.returncode
        self._early_deaths += 1
        if code >= 0 or self._early_deaths > _EARLY_DEATHS:
            _logger.error(
                "the first child ended (%s) before it had loaded %s",
                exit_text(describe_exit(code)),
                self._settings.app,
            )
            return False
        self._unwatch(child)
        self._nursery.mourn(child, 0.0)
        for another in self._nursery.respawn(_AT_ONCE):
            self._watch_child(another)
        return True

    def _give_up(self) -> int:
        self._kill_all("stop")
        return 0 if self._signals else EX_CONFIG

    def _open_ledger(self, hello: Hello) -> None:
        settings = self._settings
        self._database = self._make_database(hello)
        self._database.ensure_schema()
        self._database.let_go_of_reads()
        self._database.listen()
        self._status.know(self._make_database(hello))
        self._keeping = Keeping(lambda: self._make_database(hello), hello.keep)
        self._watching = Watching(lambda: self._make_database(hello), hello.alerts)
        self._enlist(hello)
        self._deliver_mirrors(hello)
        queues = ", ".join(settings.queues) or "all"
        _logger.info(
            "worker %s: %d processes, %d bodies each, queues: %s, ledger %s",
            self._desk.worker.name,
            settings.processes,
            settings.concurrency,
            queues,
            self._database.name,
        )

    @staticmethod
    def _make_database(hello: Hello) -> Database:
        folder = None if hello.fleet_folder is None else Path(hello.fleet_folder)
        return Database(hello.url, durable=hello.durable, fleet_folder=folder, schema=hello.schema)

    def _deliver_mirrors(self, hello: Hello) -> None:
        if hello.mirrors is None:
            return
        if self._delivery is None:
            self._delivery = Delivery(self._make_database(hello), hello.mirrors)
        else:
            self._delivery.know(hello.mirrors)

    def _enlist(self, hello: Hello) -> None:
        """Take the lock, make the board, register: in this order, so that none is believed dead."""
        settings = self._settings
        fleet = self._database.fleet
        number = ids.take()
        place = describe_process()
        now = self._database.now()
        self._lock = fleet.hold(number)
        board.create(fleet.board_path(number), settings.processes)
        worker = registry.Worker(
            id=number,
            name=f"{place['host']}:{place['pid']}",
            host=place["host"],
            pid=place["pid"],
            fleet=fleet.id,
            lease=round(hello.lease * 1_000_000),
            beats=0,
            renewed_at=now,
            started_at=now,
            stopping=0,
            code=hello.code,
            queues=msgspec.json.encode(settings.queues).decode(),
            tasks=msgspec.json.encode(hello.tasks).decode(),
            processes=settings.processes,
            concurrency=settings.concurrency,
        )
        with self._database.write() as tx:
            registry.register(tx, worker)
            hooks.register(tx, hello.hooks, hello.tasks)
        self._turn = fleet.turn()
        self._bell = fleet.open_bell(number, picky=bool(settings.queues))
        if self._bell is not None:
            self._forget_closed_connection()
            self._selector.register(self._bell.receiver, selectors.EVENT_READ, self._bell)
        self._desk = Desk(self._database, worker, self._held)
        self._sweeper = Sweeper(self._database, own=number)
        self._driver = Driver(self._database, own=number)
        self._enlisted = True
        self._look = True

    # -- the loop

    def _loop(self) -> int:
        while True:
            now = time.monotonic()
            self._hear()
            self._heed_signals(now)
            if now >= self._next_watch:
                self._next_watch = now + _WATCH
                self._watch(now)
                passing("in_tick")
            self._tell_time()
            self._hall.hand_out()
            room = self._room()
            if (self._desk.must_write or (self._look and room > 0)) and self._desk.may_write(now):
                self._write(room, now)
                continue
            code = self._finished()
            if code is not None:
                return code
            if room <= 0:
                self._be_busy()
            elif self._rest(now):
                continue
            self._wait(now)

    def _tell_time(self) -> None:
        epoch = self._database.now() - time.monotonic_ns() // 1000
        for child in self._nursery.children:
            child.epoch = epoch

    def _room(self) -> int:
        """How many jobs to claim now."""
        if self._stop_at is not None:
            return 0
        room = min(self._hall.room(), self._database.kind.most_claimed)
        if not self._database.kind.tells_elsewhere:
            return room
        if not self._hall.bodies_are_short():
            self._turn.leave()
        elif room > 0 and not self._turn.take(time.monotonic()):
            return 0
        return room

    def _hear(self) -> None:
        for child in list(self._nursery.children):
            self._listen(child)

    def _listen(self, child: Child) -> None:
        child.speak()
        spent = bodies = 0
        for message in child.hear():
            if isinstance(message, Returned):
                job = child.ended(message.id, message.fence)
                if job is not None:
                    self._desk.returned(job, message, child.code)
                    spent += message.ended_at - message.begun_at
                    bodies += 1
            elif isinstance(message, Ended):
                job = child.ended(message.id, message.fence)
                if job is not None and message.verdict == "wait":
                    self._desk.give_back(job)
                elif job is not None:
                    self._desk.ended(told(job, message, child.code))
                    if message.newer is not None:
                        self._reloading.failed_on_older(child.code, message.newer)
                    if message.begun_at is not None:
                        spent += message.ended_at - message.begun_at
                        bodies += 1
            elif isinstance(message, Request):
                self._requested(child, message)
            elif isinstance(message, Partial):
                job = child.ended(message.returned.id, message.returned.fence)
                if job is not None:
                    self._desk.partial(job, message, child.code)
            elif isinstance(message, Committed):
                child.ended(message.id, message.fence)
                self._look = True  # its exclusive key is free now
            elif isinstance(message, Hello):
                self._met(child, message)
                self._welcome(child)
            elif isinstance(message, Unready):
                _logger.error(
                    "%s cannot be loaded any more:\n%s", self._settings.app, message.error
                )
        if bodies:
            self._nursery.adapt(child, spent, bodies)

    def _requested(self, child: Child, message: Request) -> None:
        job = child.handed.get(message.id)
        if message.kind == "payload":
            child.answer(Reply(message.request, "done", job.payload if job else None))
        elif message.kind == "permit" and job is not None:
            self._desk.ask_permit(job, message, child.answer)
        elif message.kind == "permit":
            child.answer(Reply(message.request, "done", None))
        else:
            is_progress = message.kind in PROGRESS
            self._desk.request(message, child.asks(message.id, is_progress=is_progress))

    def _met(self, child: Child, hello: Hello) -> None:
        child.said_hello = True
        child.code = hello.code
        child.loaded = hello.loaded
        self._reloading.know(hello)
        known = self._hello
        if known is None:
            self._hello = hello
        if known is not None and (known.code, known.tasks) != (hello.code, hello.tasks):
            _logger.info(
                "child %d runs code %s, before it was %s", child.pid, hello.code, known.code
            )
            try:
                self._desk.describe(hello.code, hello.tasks, hello.hooks)
                self._hello = hello
                self._deliver_mirrors(hello)
                self._keeping.know(hello.keep)
                self._watching.know(hello.alerts)
            except LedgerError as error:
                _logger.warning("could not note the new code version: %s", error)

    def _welcome(self, child: Child) -> None:
        worker = self._desk.worker.id
        child.give_board(worker, self._database.fleet.board_path(worker), self._lock)
        self._look = True

    # -- looking after things

    def _watch(self, now: float) -> None:
        self._status.turn(
            now,
            registered=self._enlisted,
            children=any(child.ready for child in self._nursery.children),
            stopping=self._stop_at is not None,
        )
        self._notice_orphanhood()
        for child in list(self._nursery.children):
            self._watch_one(child, now)
        if self._stop_at is None:
            self._reload(now)
            for child in self._nursery.respawn(now):
                self._watch_child(child)
        self._give_back(self._hall.stuck(now))
        if now >= self._next_memory:
            self._next_memory = now + 0.5
            for child in self._nursery.children:
                self._nursery.over_memory(child)
        self._duties(now)

    def _reload(self, now: float) -> None:
        """Go on replacing the children, if that is under way."""
        rested = any(child.resting for child in self._nursery.children)
        if (seated := self._reloading.tick(now)) is not None:
            self._met(*seated)
            self._welcome(seated[0])
        if rested and not any(child.resting for child in self._nursery.children):
            # They take jobs again, and nobody tells of what was handed back meanwhile.
            self._look = True

    def _watch_one(self, child: Child, now: float) -> None:
        if child.is_dead():
            self._bury(child, now)
            return
        if child.is_cut_off(now):
            _logger.error(
                "the line to child %d is cut (did a body close it?); killing it", child.pid
            )
            child.kill()
            return
        if not child.ready:
            return
        child.look_at_board()
        for number, began_ns in child.begun.items():
            job = child.handed.get(number)
            if job is not None and number not in child.marked:
                child.marked.add(number)
                self._desk.begun(job, began_ns // 1000 + child.epoch)
        self._nursery.overdue(child, now)
        self._keep(self._nursery.behind_long_bodies(child, now))

    def _bury(self, child: Child, now: float) -> None:
        self._listen(child)
        self._unwatch(child)
        mourned = self._nursery.mourn(child, now)
        for death in mourned.deaths:
            self._desk.ended(death)
        self._keep(mourned.unbegun)

    def _duties(self, now: float) -> None:
        """What comes round by the clock. A ledger out of reach is the desk's to complain of."""
        if not self._desk.may_write(now):
            return
        with contextlib.suppress(LedgerError):
            if now >= self._next_cancellations:
                self._next_cancellations = now + _CANCELLATIONS
                if any(child.marked for child in self._nursery.children):
                    self._heed_cancellations()
            if self._desk.idle and now > self._rested + _BUSY:
                # It has all that it can do: nobody elsewhere need tell of more.
                self._desk.note_idle(False)
            if now >= self._next_renewal:
                self._next_renewal = now + _TRY_RENEWAL
                if not self._enlisted:
                    self._begin_anew()
                    return
                self._desk.renew(self._stop_at is not None, self._sweeper.swept_at)
                if self._desk.lost:
                    self._start_over()
                    return
                self._next_renewal = now + self._desk.worker.lease / 3e6
                self._reconcile()
            if now >= self._next_holds:
                self._next_holds = now + _HOLDS
                self._heed_holds()
                if self._stop_at is None:
                    self._reloading.heed(self._database, self._desk.worker.id)
            if self._stop_at is None:
                self._keeping.tick(self._database, now)
                self._watching.tick(now)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            try:
                report = self._sweeper.tick(now)
                driven = self._driver.tick(now)
            except (LedgerError, OSError) as error:
                _logger.warning("the sweep could not be done: %s", error)
            else:
                self._look = self._look or bool(report.handed_back or driven.moved)
                if report.more or driven.more:
                    self._next_sweep = now

    def _held(self) -> set[tuple[int, int]]:
        """(id, fence) of what waits here or in a child, or runs there."""
        held = {(job.id, job.fence) for job in self._hall}
        for child in self._nursery.children:
            held |= {(job.id, job.fence) for job in child.handed.values()}
        return held

    def _reconcile(self) -> None:
        for number, fence in self._desk.forgotten(self._held()):
            _logger.warning("handing back job %s, claimed but never heard of", ids.to_text(number))
            self._desk.give_back_fence(number, fence)

    def _heed_holds(self) -> None:
        """Give back what was held since it was claimed; let go of what is held no more."""
        if len(self._hall):
            self._give_back(self._hall.remove(self._desk.kept_back(self._hall)))
        if holds.tick(self._database):
            self._look = True

    def _heed_cancellations(self) -> None:
        for number, fence in self._desk.cancelled():
            for child in self._nursery.children:
                job = child.handed.get(number)
                if job is None or job.fence != fence or number in child.interrupted:
                    continue
                child.look_at_board()
                if number in child.begun:
                    child.cancelled.add(number)
                    child.interrupt(job, "cancel")

    # -- the ledger

    def _write(self, room: int, now: float) -> None:
        self._look = False
        claimed = self._desk.write(room, now)
        if not self._desk.may_write(now):
            self._look = True
            return
        self._look = self._desk.more
        if claimed:
            self._keep(self._not_held(claimed))
            self._hall.hand_out()
            if self._look:
                self._be_busy()

    def _not_held(self, claimed: list[Claimed]) -> list[Claimed]:
        """Without what is held already: its claim was lost in a crash, so that it is the same
        attempt which was claimed again."""
        if not self._database.kind.outlived:
            return claimed
        held = self._held()
        return [job for job in claimed if (job.id, job.fence) not in held]

    def _keep(self, jobs: list[Claimed]) -> None:
        """Let claimed jobs wait to be handed out; while stopping, give them back."""
        if self._stop_at is None:
            self._hall.keep(jobs)
        else:
            self._give_back(jobs)

    def _give_back(self, jobs: list[Claimed]) -> None:
        for job in jobs:
            self._desk.give_back(job)

    # -- waiting

    def _rest(self, now: float) -> bool:
        """Before it waits with room for more: have producers tell of new work.

        True: what came before they knew of that must still be looked for.
        """
        self._rested = now
        self._turn.leave()
        rung = self._bell is not None and self._bell.rest()
        self._look = self._look or rung
        return self._note_idleness(now) or rung

    def _be_busy(self) -> None:
        """It has all that it can do: others are to be woken instead, and so they are at once, as
        there may be work for them."""
        if self._bell is not None and self._bell.work():
            self._database.fleet.wake(1)

    def _note_idleness(self, now: float) -> bool:
        """Have producers elsewhere tell of new work. True: they did not until now."""
        if self._desk.idle or not self._database.kind.tells_elsewhere:
            return False
        if not self._desk.may_write(now):
            return False
        try:
            self._desk.note_idle(True)
        except LedgerError as error:
            self._desk.put_off(error, now)
            return False
        self._look = True
        return True

    def _wait(self, now: float) -> None:
        self._listen_for_news()
        busy = len(self._hall) > 0 or any(child.handed for child in self._nursery.children)
        busy = busy or self._reloading.is_under_way
        timeout = _WATCH if busy or self._stop_at is not None else self._idle_for(now)
        if self._desk.due is not None:
            timeout = min(timeout, max((self._desk.due - self._database.now()) / 1e6, 0.0))
        for key, _ in self._selector.select(timeout):
            source = key.fileobj
            if isinstance(key.data, Bell):
                self._heed_bell(key.data)
            elif source is self._signal_ends[0]:
                self._drain(source)
            elif isinstance(source, int) and key.data is not None:
                self._next_watch = 0.0  # a child has died
        self._look = self._look or self._something_new(now)

    def _idle_for(self, now: float) -> float:
        """How long to wait for something to happen, when there is nothing to watch."""
        if self._look or self._bell is None or not self._database.kind.tells_elsewhere:
            return _POLL
        duty = min(self._next_sweep, self._next_renewal) - now
        return max(min(duty, _LONG_POLL), 0.0) if self._nursery.is_full else _POLL

    def _heed_bell(self, bell: Bell) -> None:
        bell.drain()
        self._look = True
        if not (bell.resting or bell.picky):
            self._database.fleet.wake(1)  # it was rung just when this worker began to work

    def _listen_for_news(self) -> None:
        """Watch the connection on which the ledger tells of new work; it may be another by now."""
        self._forget_closed_connection()
        listens = self._database.listens
        if listens != self._listened:
            assert listens is not None
            self._selector.register(listens[0], selectors.EVENT_READ, None)
            self._listened = listens
            # What the old one wrote of begun bodies may be lost: it is written again.
            for child in self._nursery.children:
                child.marked.clear()

    def _forget_closed_connection(self) -> None:
        """Whoever is watched next may have its descriptor, which must not count as known then."""
        if self._listened is not None and self._listened != self._database.listens:
            self._selector.unregister(self._listened[0])
            self._listened = None

    @staticmethod
    def _drain(source: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            while source.recv(4096):
                pass

    def _something_new(self, now: float) -> bool:
        if self._desk.due is not None and self._database.now() >= self._desk.due:
            self._desk.due = None
            return True
        if not self._desk.may_write(now):
            return False
        try:
            return self._database.has_news()
        except LedgerError as error:
            self._desk.put_off(error, now)
            return False

    # -- ending

    def _heed_signals(self, now: float) -> None:
        if self._signals:
            received = self._signals.pop(0)
            if self._stop_at is None:
                self._begin_to_stop(now)
            elif self._aborted is None:
                self._aborted = received
                self._stop_at = now
                _logger.warning("stopping at once; what runs is interrupted and handed back")
        if self._stop_at is None:
            return
        for child in self._nursery.children:
            if self._aborted is not None or now >= self._stop_at + GRACE:
                child.kill("stop")
            elif now >= self._stop_at:
                child.look_at_board()
                for number in child.begun.keys() - child.interrupted.keys():
                    child.interrupt(child.handed[number], "stop")

    def _notice_orphanhood(self) -> None:
        """Stop as on SIGTERM when the process that this worker belongs to is gone."""
        parent = self._settings.parent
        if parent is None or self._signals or self._stop_at is not None:
            return
        if os.getppid() != parent:
            _logger.warning("process %d, to which this worker belongs, is gone", parent)
            self._signals.append(signal.SIGTERM)

    def _begin_to_stop(self, now: float) -> None:
        self._stop_at = now + self._settings.shutdown_timeout
        running = sum(len(child.begun) for child in self._nursery.children)
        _logger.info(
            "stopping; %d bodies run and have %g s", running, self._settings.shutdown_timeout
        )
        self._keeping.halt()
        self._reloading.halt()
        self._give_up_claims()
        for child in self._nursery.children:
            if child.ready:
                child.close_handouts()
            else:
                child.kill("stop")

    def _give_up_claims(self) -> None:
        """Everything claimed whose body has not begun goes back to the ledger."""
        for child in self._nursery.children:
            self._keep(child.take_back())
        self._give_back(self._hall.clear())

    def _finished(self) -> int | None:
        """The exit code, when there is nothing left to do."""
        if self._desk.must_write:
            # Children gone and a ledger out of reach: its next sweep will find what is lost here.
            return self._stopped_code() if self._stop_overdue() else None
        if self._stop_at is not None:
            return None if self._nursery.children else self._stopped_code()
        if not self._settings.drain or len(self._hall):
            return None
        if any(child.handed for child in self._nursery.children):
            return None
        try:
            with self._database.look() as tx:
                live = claims.any_live(tx, self._settings.queues)
        except LedgerError:
            return None
        return None if live else 0

    def _stop_overdue(self) -> bool:
        limit = self._stop_at
        return (
            limit is not None
            and not self._nursery.children
            and time.monotonic() > limit + _LAST_WRITES
        )

    def _stopped_code(self) -> int:
        return 0 if self._aborted is None else 128 + self._aborted

    def _kill_all(self, why: str) -> None:
        self._reloading.stop()
        for child in list(self._nursery.children):
            child.kill(why)
            child.bury()
        self._nursery.children.clear()

    def _start_over(self) -> None:
        """The ledger has declared this worker lost; others have its jobs. Begin as a new one."""
        _logger.warning(
            "worker %s was declared lost (it was not heard of for a lease); its jobs were handed"
            " on, what its bodies still do changes nothing. Starting over",
            self._desk.worker.name,
        )
        self._hear()
        self._desk.write(0, time.monotonic())
        self._reloading.halt()
        for child in list(self._nursery.children):
            self._unwatch(child)
            child.kill("lost")
            child.bury()
        self._nursery.children.clear()
        self._hall.clear()
        self._leave_fleet()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Register as a new worker; where the ledger is out of reach, later."""
        assert self._hello is not None
        self._enlisted = False
        if self._stop_at is not None:
            return
        try:
            self._enlist(self._hello)
        except (LedgerError, OSError) as error:
            _logger.warning("cannot register as a worker (%s); trying again", error)
            return
        self._reloading.begin_anew()
        for child in self._nursery.fill():
            self._watch_child(child)

    def _unwatch(self, child: Child) -> None:
        self._selector.unregister(child.stream)
        if child.death is not None:
            self._selector.unregister(child.death)

    def _leave(self) -> None:
        """Say goodbye, so that nobody waits for a lease."""
        for child in self._nursery.children:
            child.close_handouts()
        limit = time.monotonic() + _FAREWELL
        while not all(child.is_dead() for child in self._nursery.children):
            if time.monotonic() > limit:
                break
            self._selector.select(0.01)
        self._kill_all("stop")
        if self._delivery is not None:
            self._delivery.stop()
        self._keeping.stop()
        self._watching.stop()
        if self._desk.must_write:
            return  # what could not be written is settled by a sweep, which needs row and board
        try:
            with self._database.write(durable=False, timeout=2.0) as tx:
                registry.remove(tx, self._desk.worker.id)
                hooks.tidy(tx)
        except LedgerError as error:
            _logger.warning("could not sign off (%s); a sweep will settle what is left", error)
            return  # the lock goes with the process, which is how a sweep knows
        self._leave_fleet()
        self._database.close()

    def _leave_fleet(self) -> None:
        if not self._enlisted:
            return
        self._enlisted = False
        if self._bell is not None:
            self._selector.unregister(self._bell.receiver)
            self._bell.close()
            self._bell = None
        self._turn.close()
        self._database.fleet.forget(self._desk.worker.id)
        self._lock.close()


def _no_endpoint(settings: Settings, error: Exception) -> int:
    """The exit code when `--health-port` cannot be served."""
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    _logger.error(
        "health cannot be served on %s port %s: %s. No job was touched. %s",
        settings.health_host,
        settings.health_port,
        error,
        "Stop what listens there, or give another --health-port"
        if taken
        else "Give another --health-host or --health-port",
    )
    return EX_UNAVAILABLE if taken else EX_CONFIG


def main(settings: Settings) -> int:
    """Run a worker in this process until it ends; its exit code."""
    logs.configure(settings.log_format, settings.log_level)
    code = Supervisor(settings).run()
    logs.flush()
    return code
