"""What can be known of a process's death: its exit, a signal, the kernel's out-of-memory killer."""

from __future__ import annotations

import re
import resource
import signal
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")


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


class OutOfMemory:
    """Notices the kernel's out-of-memory kills in this process's cgroup, by their counter."""

    def __init__(self) -> None:
        self._file = _counter_file()
        self._seen = self._count()

    def happened(self) -> bool:
        """Whether there was such a kill since the last call."""
        count = self._count()
        new = count > self._seen
        self._seen = count
        return new

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            found = re.search(r"^oom_kill (\d+)$", self._file.read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0


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
    candidates.append(Path("/proc/vmstat"))
    return next((path for path in candidates if path.is_file()), None)


def resident_bytes(pid: int) -> int:
    """The process's resident memory; 0 when it cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()
