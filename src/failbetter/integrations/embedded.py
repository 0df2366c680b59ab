"""A worker that belongs to a site: started with it, started again when it dies, stopped with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from failbetter.durations import Duration, seconds
from failbetter.errors import ConfigurationError
from failbetter.worker.settings import Settings

if TYPE_CHECKING:
    from failbetter import App

_logger = logging.getLogger("failbetter.integrations")

# Seconds: before it is started again, doubled each time it dies young.
_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# From its own time to stop on until it is killed.
_GRACE = 10.0


class EmbeddedWorker:
    """A `failbetter worker` of this process. `path`: the app as MODULE:APP.

    Nothing keeps it alive beyond this process: it stops by itself when its parent is gone.
    """

    def __init__(self, path: str, *, processes: int = 1, shutdown_timeout: Duration = 25) -> None:
        self._patience = seconds(shutdown_timeout)
        self._settings = Settings(
            app=path,
            processes=processes,
            shutdown_timeout=self._patience,
            parent=os.getpid(),
        )
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="failbetter-worker", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is not running."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def stop(self) -> None:
        """Have it finish what it does, as on SIGTERM; kill it when its time is over."""
        with self._lock:
            self._stop.set()
            if self._process is not None:
                self._process.terminate()
        self._thread.join(self._patience + _GRACE)
        if self._thread.is_alive() and self._process is not None:
            _logger.error("the worker did not stop and is killed; its jobs are handed back")
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        pause = _PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            said = self._run_once()
            if self._stop.is_set():
                break
            pause = _PAUSE if time.monotonic() - began > _LONGEST_PAUSE else pause
            _logger.error("the worker %s; starting another in %g s", said, pause)
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _run_once(self) -> str:
        """Run it to its end; how it ended."""
        try:
            with self._lock:
                if self._stop.is_set():
                    return "was not started"
                self._process = self._start()
        except OSError as error:
            return f"cannot be started ({error})"
        code = self._process.wait()
        return f"ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def _start(self) -> subprocess.Popen[bytes]:
        # It finds modules where this process does. A session of its own: Ctrl-C in a terminal is
        # the site's to act on, which then stops its worker; two signals would cut it short.
        return subprocess.Popen(
            [sys.executable, "-m", "failbetter.worker", msgspec.json.encode(self._settings)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())},
            start_new_session=True,
        )


def _search_path() -> list[str]:
    """Where this process finds modules, without what every interpreter of this environment has.

    Bodies may start other Pythons, which must not be given this one's libraries.
    """
    paths = sysconfig.get_paths()
    usual = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = [os.path.abspath(entry) for entry in sys.path if not entry.endswith(".zip")]
    return [entry for entry in found if not entry.startswith(usual)]


def import_path(app: App) -> str:
    """MODULE:APP of an app: `$FAILBETTER_APP`, else the one loaded module that holds it.

    Of several, the one that defines tasks of it. Raises ConfigurationError when that leaves a
    choice.
    """
    if told := os.environ.get("FAILBETTER_APP"):
        return told
    holders = [
        (name, attribute)
        for name, module in list(sys.modules.items())
        # What modules put there in their own place may be anything.
        if type(module) is ModuleType and name != "__main__"
        for attribute, value in list(vars(module).items())
        if value is app
    ]
    sources = {task.function.__module__ for task in app.tasks.values()}
    defining = [found for found in holders if found[0] in sources] or holders
    if len(defining) == 1:
        return ":".join(defining[0])
    held = " and ".join(sorted(":".join(one) for one in defining)) or "no imported module by name"
    raise ConfigurationError(
        f"a worker must import the app, which is held by {held}; say where it is: worker='shop:app'"
    )
