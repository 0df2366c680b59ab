"""What can be known of a process's death: its exit, a signal, the kernel's out-of-memory killer."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

from failbetter.fleet import pid_namespace

_CGROUPS = Path("/sys/fs/cgroup")
_OF_THE_HOST = Path("/proc/vmstat")
_KERNEL_LOG = "/dev/kmsg"
_INITIAL_PIDS = "pid:[4026531836]"
_KILLED = re.compile(rb"Killed process (\d+) ")


def describe_exit(code: int) -> dict[str, Any]:
    """A process's return code (negative: minus the signal) as evidence."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return {"signal": -code, "signal_name": name}
    return {"exit_code": code}


def exit_text(evidence: dict[str, Any]) -> str:
    """The evidence in words, for messages."""
    if evidence.get("out_of_memory"):
        return "killed: out of memory"
    if "signal" in evidence:
        return f"killed by signal {evidence['signal']} ({evidence['signal_name']})"
    return f"exited with code {evidence.get('exit_code')}"


def end_text(evidence: dict[str, Any]) -> str:
    """The same, of a process that "was …"."""
    text = exit_text(evidence)
    return text if text.startswith("killed") else f"gone: it {text}"


class OutOfMemory:
    """Notices what the kernel kills for memory: by its log, which names it, or a counter."""

    def __init__(self) -> None:
        self._file = _counter_file()
        self._seen = self._count()
        self._log = KernelLog()

    def evidence_of(self, pid: int) -> dict[str, Any]:
        """What tells that the killed process `pid` was killed for memory; empty if nothing does."""
        count = self._count()
        rose = count > self._seen
        self._seen = count
        if pid in self._log.killed():
            return {"out_of_memory": True, "known_by": "the kernel's log names the process"}
        if not rose:
            return {}
        if self._file == _OF_THE_HOST:
            # It may have been any process of the host, so that nothing is said of this one.
            return {"known_by": "the host's kernel killed some process for memory meanwhile"}
        return {"out_of_memory": True, "known_by": "the counter of kills of its cgroup rose"}

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            found = re.search(r"^oom_kill (\d+)$", self._file.read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0


class KernelLog:
    """What the kernel says from now on, where this process may read it."""

    def __init__(self) -> None:
        self._handle: int | None = None
        # It names processes as the host counts them: elsewhere a number there is another process.
        if pid_namespace().endswith(_INITIAL_PIDS):
            with contextlib.suppress(OSError):
                self._handle = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
                os.lseek(self._handle, 0, os.SEEK_END)

    def killed(self) -> set[int]:
        """The processes that were killed for memory since the last call."""
        found: set[int] = set()
        while self._handle is not None:
            try:
                record = os.read(self._handle, 8192)
            except BrokenPipeError:
                continue  # some records were overwritten before they were read
            except OSError:
                break
            if not record:
                break
            found |= {int(pid) for pid in _KILLED.findall(record)}
        return found

    def close(self) -> None:
        """Read no more."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _counter_file() -> Path | None:
    """cgroup v2's `memory.events`, v1's `memory.oom_control`, else the whole host's counter."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    candidates = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            candidates.append(_CGROUPS / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            candidates.append(_CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control")
    candidates.append(_OF_THE_HOST)
    return next((path for path in candidates if path.is_file()), None)


def resident_bytes(pid: int) -> int:
    """The process's resident memory; 0 when it cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()


def peak_bytes(pid: int) -> int | None:
    """The most memory that the living process has had resident; None when it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
