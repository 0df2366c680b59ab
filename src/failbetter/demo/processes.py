"""The processes that the demo starts, and how it makes sure that none outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import psutil

from failbetter.demo.client import Objects, Office
from failbetter.demo.faults import StoreFaults

STOP_SECONDS = 12.0
APP = "failbetter.demo.tasks:app"


class DidNotStart(Exception):
    """A process of the demo ended before it was of use."""


class StoreProcess:
    """The object store, listening when the constructor returns."""

    def __init__(self, root: Path, faults: StoreFaults, log: Path) -> None:
        command = [sys.executable, "-m", "failbetter.demo.store"]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, "--root", str(root), "--faults", faults.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        line = _pipe(self._process.stdout).readline()
        if not line:
            self.stop()
            raise DidNotStart(f"the store did not start: {log.read_text(errors='replace')[-500:]}")
        ports = json.loads(line)
        self.objects = Objects(f"127.0.0.1:{ports['objects']}")
        self.office = Office(f"127.0.0.1:{ports['office']}")

    def stop(self) -> None:
        """End the store; safe to call twice."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()  # the store ends with its standard input
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()


class WorkerProcess:
    """A worker, started as any user starts one, and restarted as systemd would."""

    def __init__(self, environment: Mapping[str, str], processes: int, log: Path) -> None:
        self.processes = processes
        self.log = log
        self._environment = hermetic(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int:
        """The supervisor's process id; 0 when none was started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> int:
        """Start a worker; its process id."""
        command = [sys.executable, "-m", "failbetter", "-A", APP, "worker"]
        options = ["--queue", "backup", "--processes", str(self.processes)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options, "--shutdown-timeout", "5"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A ctrl-C at the terminal is for the demo, which then stops its worker.
                start_new_session=True,
            )
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code (negative: the signal) of a worker that ended, or None."""
        return self._process.poll() if self._process is not None else None

    def children(self) -> set[int]:
        """Process ids of everything the worker has started and that still runs."""
        if self._process is None or self.ended() is not None:
            return set()
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._family[child.pid] = child
        return {pid for pid, process in self._family.items() if _runs(process)}

    def kill(self) -> int:
        """SIGKILL the supervisor, and nobody else; its process id."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        return self._process.pid

    def kill_child(self, pid: int) -> bool:
        """SIGKILL one child; false when it is none of this worker's."""
        if pid not in self.children():
            return False
        self._family[pid].send_signal(signal.SIGKILL)
        return True

    def stop(self) -> int | None:
        """Ask the worker to finish; its exit code, None when it had to be killed or never ran."""
        if self._process is None:
            return None
        self.children()
        self._process.send_signal(signal.SIGTERM)
        try:
            code: int | None = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self.sweep()
        return code

    def sweep(self) -> None:
        """Kill whatever of this worker still runs: for the end, and for when all goes wrong."""
        if self._process is None:
            return
        if self.ended() is None:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts no child unseen
            self.children()
            self._process.kill()
            self._process.wait()
        give_up = time.monotonic() + 2
        left = [process for process in self._family.values() if _runs(process)]
        while left and time.monotonic() < give_up:  # the kernel may be about to end them
            time.sleep(0.02)
            left = [process for process in left if _runs(process)]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()


def hermetic(
    changes: Mapping[str, str], drop: Iterable[str] = ("FAILBETTER_", "DEMO_")
) -> dict[str, str]:
    """This process's environment with `changes`, without what would steer a worker elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(name.startswith(prefix) for prefix in drop)
    }
    return {**kept, **changes}


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
