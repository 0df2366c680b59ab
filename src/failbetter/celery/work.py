"""What runs in Celery's workers: the one task that is sent there, and what its main process sees.

Loaded by a worker with the rest of what has tasks. The App is found by `$FAILBETTER_APP`. With the
prefork pool each child is a guest of its own, and the main process, which outlives them, writes
into the ledger how one died. In the other pools the bodies run in the main process.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import msgspec
from billiard.exceptions import WorkerLostError
from celery import shared_task, signals
from celery.concurrency import prefork, solo
from celery.worker.control import inspect_command

from failbetter import fleet, ids
from failbetter.app import App
from failbetter.celery.deaths import Deaths
from failbetter.engine import Keeper
from failbetter.engines.celery import TASK, WHO
from failbetter.errors import ConfigurationError, LedgerError
from failbetter.worker.appload import load_app
from failbetter.worker.guest import Guest

if TYPE_CHECKING:
    from types import FrameType

_logger = logging.getLogger("failbetter.celery")

EX_CONFIG = 78
_VARIABLE = "FAILBETTER_APP"
# A pool that did not say how many bodies it runs at once is not held to a number here.
_MANY = 1_000


class Place(msgspec.Struct):
    """The Celery worker that this process is, or is a child of."""

    name: str
    slots: int = _MANY
    has_children: bool = False
    pid: int = msgspec.field(default_factory=os.getpid)

    def keeper(self) -> Keeper:
        """What is on record of a guest here: its main process, if that is another or not."""
        return Keeper(
            self.name, self.pid, fleet.born(self.pid), fleet.pid_space(), tells=self.has_children
        )


class Here:
    """What this process has: its place, the App, its guest."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.deaths: Deaths | None = None
        self._app: App | None = None
        self._guest: Guest | None = None
        self._ends: Any = signal.SIG_DFL
        self._is_ending = False
        self._lock = threading.Lock()

    @property
    def app(self) -> App:
        """The App that `$FAILBETTER_APP` names."""
        if self._app is None:
            spec = os.environ.get(_VARIABLE)
            if not spec:
                raise ConfigurationError(
                    f"set ${_VARIABLE} to module:app, so that Celery's workers find the tasks"
                )
            self._app = load_app(spec)
        return self._app

    def guest(self, hostname: str | None) -> Guest:
        """This process as a worker of the ledger's."""
        with self._lock:
            if self._guest is None or self._guest.pid != os.getpid():
                place = self.place or Place(hostname or "celery")
                if place.has_children:
                    self._hear_the_end()
                    # What its bodies start is known by its session, should it be killed.
                    if os.getsid(0) != os.getpid():
                        os.setsid()
                self._guest = Guest(
                    self.app,
                    "celery",
                    place.keeper(),
                    slots=place.slots,
                    owns_session=place.has_children,
                )
            return self._guest

    def _hear_the_end(self) -> None:
        """In a child, have SIGTERM hand back what runs; to the body it would be a SystemExit.

        It comes from a worker that waits no longer, or from whoever stops all of its processes.
        """
        self._ends = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._told_to_end)

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        if self._guest is None or not self._guest.stop_bodies():
            self.end()

    def end(self) -> None:
        """End this child, as Celery has it, if it was told to."""
        if self._is_ending:
            signal.signal(signal.SIGTERM, self._ends)
            os.kill(os.getpid(), signal.SIGTERM)

    def leave(self) -> None:
        """Sign off, if there is a guest of this very process."""
        if self._guest is not None and self._guest.pid == os.getpid():
            self._guest.leave()


here = Here()


# -- the task


def _run(self: Any, number: str) -> None:
    try:
        here.guest(self.request.hostname).run(ids.from_text(number))
    except LedgerError as error:
        _logger.error("%s. Job %s was not begun; its id is sent again", error, number)
    here.end()


run = shared_task(
    _run,
    name=TASK,
    bind=True,
    # It is taken up once: from then on the ledger knows, and sends again what is to run again.
    # Acknowledged late, it would come again by itself whenever a body takes longer than the
    # broker waits, and for ever when it kills its process.
    acks_late=False,
    reject_on_worker_lost=False,
    ignore_result=True,
    store_errors_even_if_ignored=False,
    track_started=False,
    max_retries=0,
)


# -- the main process


def _set_up(sender: str, instance: Any, **_: object) -> None:
    """The worker is about to start its pool: learn what it is, and load the App for all of it."""
    pool = instance.pool_cls
    if getattr(pool, "is_green", False):
        # Bodies would share a thread, and nobody could end one.
        _refuse("failbetter runs no bodies in an eventlet or gevent pool: take prefork or threads")
    has_children = issubclass(pool, prefork.TaskPool)
    one_by_one = has_children or issubclass(pool, solo.TaskPool)
    here.place = Place(sender, 1 if one_by_one else instance.concurrency, has_children)
    try:
        here.app  # noqa: B018
    except ConfigurationError as error:
        _refuse(str(error))
    except Exception as error:  # whatever the user's modules do while they load
        _refuse(f"{os.environ[_VARIABLE]} cannot be loaded: {type(error).__name__}: {error}")


def _refuse(text: str) -> None:
    _logger.critical("%s", text)
    raise SystemExit(EX_CONFIG)


def _leave(**_: object) -> None:
    here.leave()


def _watch(**_: object) -> None:
    """The pool has been started: from now on its children may die."""
    if here.place is not None and here.place.has_children:
        here.deaths = Deaths(here.app)
        here.deaths.start()


def _failed(sender: Any, exception: BaseException, args: Any, **_: object) -> None:
    """In the main process: a child died that had a message. In a child: nothing of ours."""
    if here.place is None or here.place.pid != os.getpid() or here.deaths is None:
        return
    if isinstance(exception, WorkerLostError) and getattr(sender, "name", None) == TASK:
        here.deaths.collected(ids.from_text(args[0]), str(exception))


def _who(_state: object) -> dict[str, Any]:
    """Which process this is: names are used again."""
    pid = os.getpid()
    return {"pid": pid, "born": fleet.born(pid), "space": fleet.pid_space()}


signals.celeryd_after_setup.connect(_set_up, weak=False)
signals.worker_process_shutdown.connect(_leave, weak=False)
signals.worker_shutdown.connect(_leave, weak=False)
signals.worker_ready.connect(_watch, weak=False)
signals.task_failure.connect(_failed, weak=False)
inspect_command(name=WHO)(_who)
