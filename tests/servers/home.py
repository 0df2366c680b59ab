"""Where a test run's own server lives: its folder, its user and its port, and that nothing stays.

A run that is killed cannot tidy up. Each folder therefore holds a file that is locked as long as
its server or its owner lives; the next run removes those whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX: Final = "failbetter-server-"

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 2 * 2**30
"""Bytes that have to be free in memory for a server to go there."""


def as_server_user(command: Sequence[str | Path], user: str = "postgres") -> list[str]:
    """The command as a user who may run a server, which root may not; it dies with its parent.

    To the kernel, the parent is the *thread* that started it.
    """
    other = ["--reuid", user, "--regid", user, "--init-groups"]
    return ["setpriv", "--pdeathsig", "QUIT", *(other if os.geteuid() == 0 else []), "--",
            *map(str, command)]  # fmt: skip


def give_away(path: Path, user: str = "postgres") -> None:
    """Let the user who runs the server own it."""
    if os.geteuid() == 0:
        shutil.chown(path, user, user)


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections.

    Were it one of these, somebody's connection could take it while a server is down.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Home:
    """A server's folder. Its sockets are in `path`; its data is there too, or in `data_parent`.

    In memory if `fast` and there is room: on disk, a copy of a database takes from 2 to 20 times
    as long.
    """

    def __init__(self, *, fast: bool, data_parent: Path | None, user: str = "postgres") -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_fast_parent() if fast else None))
        give_away(self.path, user)
        self.lock = (self.path / "lock.new").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (self.path / "lock.new").rename(self.path / "lock")
        self.data = self.path / "data"
        if data_parent is not None:
            self.data = Path(tempfile.mkdtemp(prefix=PREFIX, dir=data_parent.resolve()))
            give_away(self.data, user)

    def note_memory(self) -> None:
        """Note the key of a started server's System V memory: its data may be gone before us."""
        key = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[0]
        (self.path / "memory").write_text(key)

    def remove(self) -> None:
        """Delete it, after its server has ended."""
        _remove(self.path, self.data)
        self.lock.close()


def _fast_parent() -> Path | None:
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_MEMORY).free > _ROOM:
            return _MEMORY
    return None


@functools.cache
def sweep() -> None:
    """Remove what killed runs have left; once is enough."""
    parents = {Path(tempfile.gettempdir()), _MEMORY}
    for path in itertools.chain.from_iterable(parent.glob(f"{PREFIX}*") for parent in parents):
        with contextlib.suppress(OSError), (path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path, path / "data")


def _remove(path: Path, data: Path) -> None:
    """Delete a server's files, and the System V memory that it leaves when killed."""
    with contextlib.suppress(OSError):
        key = (path / "memory").read_text()
        subprocess.run(["ipcrm", "--shmem-key", key], capture_output=True, check=False)
    shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
