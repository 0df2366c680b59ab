"""The processes that the drill starts, kills, and makes sure not to leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil

from failbetter.app import App
from failbetter.drill.book import FOLDER
from failbetter.worker.settings import Settings

APP = "failbetter.drill.loaded:app"
PROCESSES = 4
SHUTDOWN = 0.5
_LAST_LINES = 5


def environment(app: App, folder: Path) -> dict[str, str]:
    """The environment of the drill's processes: the user's ledger, and nothing else of theirs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAILBETTER_")}
    found = {
        "FAILBETTER_APP": APP,
        "FAILBETTER_URL": app.url,
        "FAILBETTER_LEASE": f"{app.lease:g}",
        "FAILBETTER_FLEET_FOLDER": str(app.database.fleet.folder.absolute()),
        # How long the user's jobs are kept is for the user's own workers to see to.
        **{f"FAILBETTER_KEEP_{end}": "forever" for end in ("SUCCEEDED", "DISCARDED", "FAILED")},
        FOLDER: str(folder),
        # What lies in this folder must not take the place of the drill's own imports.
        "PYTHONSAFEPATH": "1",
    }
    if app.schema is not None:
        found["FAILBETTER_SCHEMA"] = app.schema
    return {**kept, **found}


def run(words: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start Python on these words; its stdout is to be read, the rest goes to the log."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            # A Ctrl-C at the terminal is for the drill, which then ends its processes.
            start_new_session=True,
        )


class Worker:
    """A worker of the drill's queue alone. It ends when the drill does, however that ends."""

    def __init__(self, queue: str, env: dict[str, str], log: Path, *, drain: bool = False) -> None:
        self._log = log
        self._family: dict[int, psutil.Process] = {}
        settings = Settings(
            app=APP,
            queues=(queue,),
            processes=PROCESSES,
            drain=drain,
            shutdown_timeout=SHUTDOWN,
            parent=os.getpid(),
        )
        words = ["-m", "failbetter.worker", msgspec.json.encode(settings).decode()]
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Its exit code (negative: minus the signal), once it has ended."""
        return self._process.poll()

    def children(self) -> set[int]:
        """The process ids of what it has started and that still runs."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._family[child.pid] = child
        return {pid for pid, process in self._family.items() if _runs(process)}

    def kill_child(self, pid: int) -> bool:
        """SIGKILL one child; False when it is none of this worker's."""
        if pid not in self.children():
            return False
        self._family[pid].send_signal(signal.SIGKILL)
        return True

    def kill(self) -> None:
        """SIGKILL the supervisor, and see it gone."""
        self.children()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to stop, as a deploy does."""
        self.children()
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Have nothing of it run any more."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGSTOP)  # so that it starts no child unseen
            self.kill()
        give_up = time.monotonic() + 2
        while self.children() and time.monotonic() < give_up:  # they die with their supervisor
            time.sleep(0.02)
        for pid in self.children():
            with contextlib.suppress(psutil.Error):
                self._family[pid].kill()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(lines[-_LAST_LINES:])


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
