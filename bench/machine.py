"""Facts that a reader needs to judge the figures by."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

_VERSIONS = (
    "import importlib.metadata as m, sys;"
    "print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ', end=';');"
    "print(' Python', sys.version.split()[0])"
)


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    mounts = [p for p in psutil.disk_partitions(all=True)
              if folder.resolve().is_relative_to(p.mountpoint)]  # fmt: skip
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def versions(python: Path, names: Sequence[str]) -> str:
    """Installed versions of distributions, as another interpreter sees them, and its own."""
    command = [str(python), "-c", _VERSIONS, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def facts(work: Path) -> list[str]:
    """This machine, in sentences."""
    memory = psutil.virtual_memory().total / 2**30
    return [
        f"{os.cpu_count()} cores ({processor()}), {memory:.0f} GiB, Linux {platform.release()},"
        f" load {os.getloadavg()[0]:.1f} at the start",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, databases on"
        f" {file_system(work)}",
    ]
