"""Starting, stopping and weighing process trees that this run started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GRACE_SECONDS = 15.0
_MEBI = 1024 * 1024


@dataclass(frozen=True)
class Weight:
    """What a process tree costs: memory in MiB, shared pages divided among their users (`pss`)
    or left out (`uss`); `cpu`, seconds used so far; how many processes."""

    pss: float
    uss: float
    cpu: float
    processes: int


class Worker:
    """One worker of a system: the process that a user would start, and its descendants."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._all: dict[int, psutil.Process] = {}

    def _family(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def weigh(self) -> Weight:
        """Memory and CPU of the whole tree now."""
        pss = uss = cpu = 0.0
        count = 0
        for process in self._family():
            try:
                memory, times = process.memory_full_info(), process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            pss += memory.pss / _MEBI
            uss += memory.uss / _MEBI
            cpu += times.user + times.system
            count += 1
        return Weight(pss, uss, cpu, count)

    def check(self) -> None:
        """RuntimeError with the end of its log when the worker has died."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a worker exited with {self._process.returncode}: {self.tail()}")

    def tail(self) -> str:
        """The end of what it printed, on one line."""
        return " | ".join(self._log.read_text("utf-8", "replace").strip().splitlines()[-3:])

    def stop(self) -> None:
        """Ask it to finish; kill what is left of its tree after a grace."""
        family = self._family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # psutil compares start times, so a pid that was reused is not signalled.
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass


def settle(worker: Worker, seconds: float) -> None:
    """Let a worker come to rest, watching that it lives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        worker.check()
        time.sleep(0.05)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without failbetter's own settings, plus `extra`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FAILBETTER_", "PYTHON"))}
    return kept | dict(extra)
