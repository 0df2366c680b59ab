"""Upkeep without running jobs: sweeps, holds, operations, engines, mirrored rows, retention.

For fleets whose jobs run elsewhere, and beside workers on other hosts. It has no worker's row, so
that each sweep writes a mark of its own: a process that cannot write believes nobody's silence.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from typing import Any

import msgspec

from failbetter import holds, logs
from failbetter.app import App
from failbetter.errors import EngineUnavailable, FailbetterError, LedgerError, SchemaMismatch
from failbetter.fleet import describe_process
from failbetter.ledger import hooks, sending
from failbetter.ledger.database import Database
from failbetter.ledger.kinds import Tx
from failbetter.ledger.registry import Worker
from failbetter.recovery.guests import keeper_of
from failbetter.recovery.sweeper import Sweeper
from failbetter.triage.ramp import Driver
from failbetter.worker.appload import load_app
from failbetter.worker.delivery import Delivery
from failbetter.worker.dispatch import Dispatcher
from failbetter.worker.following import Following
from failbetter.worker.keeping import Keeping
from failbetter.worker.watching import Watching

_logger = logging.getLogger("failbetter.worker")

EX_UNAVAILABLE = 69
EX_CONFIG = 78

_SWEEP = 1.0
# While the ledger is out of reach: the first and the longest pause between two tries (s).
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`app`: module:attribute; else `url` alone: then no mirrored rows are delivered, and nothing
    is deleted."""

    app: str | None = None
    url: str | None = None
    once: bool = False
    log_format: str = "text"
    log_level: str = "INFO"


class Maintainer:
    """Sweeps until told to stop."""

    def __init__(
        self,
        database: Database,
        delivery: Delivery | None,
        keeping: Keeping | None,
        watching: Watching | None = None,
        app: App | None = None,
        following: Following | None = None,
    ) -> None:
        """`app`: whose hooks there are, and whose engine is to be sent to."""
        self._watching = watching
        self._following = following
        self._database = database
        self._app = app
        self._delivery = delivery
        self._keeping = keeping
        self._engine = None if app is None else app.engine
        self._sweeper = Sweeper(database, vouch=self._why_gone)
        self._dispatcher = None if self._engine is None else Dispatcher(database, self._engine)
        self._driver = Driver(database)
        self._stop = threading.Event()
        self._failures = 0

    def _why_gone(self, worker: Worker) -> str | None:
        """Why a worker in an engine's process is gone for certain, if it is."""
        keeper = keeper_of(worker)
        if self._engine is None or self._engine.name != worker.engine or keeper is None:
            return None
        try:
            return self._engine.is_gone(keeper)
        except EngineUnavailable:
            return None

    def listen(self) -> None:
        """From now on SIGTERM and SIGINT stop it; a second one at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: Any) -> None:
        if self._stop.is_set():
            raise SystemExit(128 + number)
        self._stop.set()
        if self._keeping is not None:
            self._keeping.halt()

    def run(self) -> int:
        """Work until told to stop; the exit code."""
        place = describe_process()
        _logger.info(
            "maintaining as %s:%d: ledger %s", place["host"], place["pid"], self._database.name
        )
        while not self._stop.is_set():
            self._stop.wait(self._sweep())
        _logger.info("stopping")
        self._close()
        return 0

    def once(self) -> int:
        """Sweep until nothing more can be done at once; the exit code."""
        try:
            while self._tick() and not self._stop.is_set():
                pass
            while holds.tick(self._database) and not self._stop.is_set():
                pass
            while self._dispatch() and not self._stop.is_set():
                pass
            if self._keeping is not None:
                self._keeping.work()
            if self._watching is not None:
                self._watching.work()
            if self._following is not None and not self._following.work():
                return EX_UNAVAILABLE
        except (LedgerError, OSError) as error:
            _logger.error("the sweep could not be done: %s", error)
            return EX_UNAVAILABLE
        finally:
            self._close()
        return 0

    def _close(self) -> None:
        if self._delivery is not None:
            self._delivery.stop()
        if self._keeping is not None:
            self._keeping.stop()
        if self._watching is not None:
            self._watching.stop()
        if self._following is not None:
            self._following.stop()
        if self._engine is not None:
            self._engine.close()
        self._database.close()

    def _tick(self) -> bool:
        """Sweep, and go on with operations; whether there is more to do at once."""
        app, self._app = self._app, None
        if app is not None:
            self._register(app)
        more = self._sweeper.tick(time.monotonic()).more
        return self._driver.tick(time.monotonic()).more or more

    def _dispatch(self) -> bool:
        """Send to the engine what is due; whether there is more to send at once."""
        return self._dispatcher is not None and self._dispatcher.tick(time.monotonic()).more

    def _register(self, app: App) -> None:
        """Have its hooks run for what happens from now on, and health know of its engine; if that
        cannot be, next time."""
        engine = None if app.engine is None else app.engine.name

        def register(tx: Tx) -> None:
            hooks.register(tx, app.hooks, app.tasks)
            sending.note_engine(tx, engine)

        try:
            self._database.transact(register)
        except LedgerError:
            self._app = app
            raise

    def _sweep(self) -> float:
        """Sweep once; how long to wait then (s)."""
        try:
            more = self._tick()
            holds.tick(self._database)
            more = self._dispatch() or more
            if self._keeping is not None:
                self._keeping.tick(self._database, time.monotonic())
            if self._watching is not None:
                self._watching.tick(time.monotonic())
            if self._following is not None:
                self._following.tick(time.monotonic())
        except (LedgerError, OSError) as error:
            self._failures += 1
            pause: float = min(_FIRST_PAUSE * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
            if self._failures in (1, 10) or self._failures % 100 == 0:
                _logger.error("the sweep could not be done: %s. Trying again every few s", error)
            return pause
        if self._failures:
            _logger.warning("the ledger is back; sweeping goes on")
            self._failures = 0
        return 0.0 if more else _SWEEP


def main(settings: Settings) -> int:
    """Maintain in this process until it ends; its exit code."""
    logs.configure(settings.log_format, settings.log_level)
    try:
        app = App(settings.url) if settings.app is None else load_app(settings.app)
        app.database.exists()
    except FailbetterError as error:
        _logger.error("%s", error)
        return EX_CONFIG
    except Exception as error:  # whatever the user's modules do while they load
        _logger.error("%s cannot be loaded: %s: %s", settings.app, type(error).__name__, error)
        return EX_CONFIG
    try:
        app.database.ensure_schema()
    except SchemaMismatch as error:
        _logger.error("%s", error)
        return EX_CONFIG
    except LedgerError as error:
        _logger.error("%s", error)
        if settings.once:
            return EX_UNAVAILABLE
    loaded = delivery = keeping = watching = following = None
    if settings.app is not None:
        loaded = app
        delivery = Delivery(app.database.another(), app.mirror_urls)
        keeping = Keeping(app.database.another, app.keep)
        watching = Watching(app.database.another, app.watched)
        following = Following(app.database.another, app.followers)
    maintainer = Maintainer(app.database, delivery, keeping, watching, loaded, following)
    maintainer.listen()
    code = maintainer.once() if settings.once else maintainer.run()
    logs.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=Settings)))
