"""The fleet folder: what processes on one host know of each other without the database.

In it, for each worker: a lock file held with `flock` while the supervisor lives (that, not a
pid, says so: containers share boot ids and reuse pids), with a JSON line for every child so that
its session can be killed after the supervisor's death; a datagram socket by which producers wake
it; and its board. A lock file that cannot be seen proves nothing, so each folder has an id of its
own, and a worker's row names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class Fleet:
    """One fleet folder. Making the object makes the folder; raises OSError when it cannot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.id = self._own_id()
        self._seen: tuple[int, list[str]] = (-1, [])
        self._sender: socket.socket | None = None

    def _own_id(self) -> str:
        path = self.folder / "id"
        for _ in range(100):
            text = path.read_text() if path.exists() else ""
            if len(text) == 32:
                return text
            draft = self.folder / f"id.{os.getpid()}.{secrets.token_hex(4)}"
            draft.write_text(secrets.token_hex(16))
            # A link fails when another process was first; then its id is the folder's.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        raise OSError(f"{path} holds no fleet id and cannot be replaced")

    def lock_path(self, worker: int) -> Path:
        """The worker's lock file."""
        return self.folder / f"{worker}.lock"

    def board_path(self, worker: int) -> Path:
        """The worker's board (see `failbetter.board`)."""
        return self.folder / f"{worker}.board"

    def _socket_path(self, name: str) -> str | None:
        path = str(self.folder.absolute() / name)
        return path if len(path.encode()) <= _SOCKET_PATH_LIMIT else None

    # -- waking

    def open_wake_socket(self, worker: int) -> socket.socket | None:
        """The socket on which `worker` is woken; None when the folder's path is too long for one.

        Without it a worker still sees new work, at its next look at the database.
        """
        path = self._socket_path(f"{worker}.wake")
        if path is None or not hasattr(socket, "AF_UNIX"):
            return None
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        try:
            receiver.bind(path)
        except OSError:  # some mounts know no sockets
            receiver.close()
            return None
        return receiver

    def wake(self) -> None:
        """Tell every worker of this folder to look at the ledger. Never blocks, never raises."""
        for path in self._wake_paths():
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            # A full or dead socket is no loss: a busy worker looks anyway, a dead one is swept.
            with contextlib.suppress(OSError):
                self._sender.sendto(b"w", path)

    def close(self) -> None:
        """Close what `wake` has opened. The object opens it again when it is used."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _wake_paths(self) -> list[str]:
        try:
            changed = os.stat(self.folder).st_mtime_ns
        except OSError:
            return []
        if changed != self._seen[0]:
            with contextlib.suppress(OSError):
                names = [name for name in os.listdir(self.folder) if name.endswith(".wake")]
                paths = [path for name in names if (path := self._socket_path(name))]
                # Clocks of file systems tick in milliseconds: what came in the same tick is not
                # seen by its time, so a list that is made so soon is not kept.
                settled = time.time_ns() - changed > 20_000_000
                self._seen = (changed if settled else -1, paths)
        return self._seen[1]

    # -- life and death

    def hold(self, worker: int) -> WorkerLock:
        """Take the worker's lock for as long as this process lives."""
        return WorkerLock(self.lock_path(worker))

    def is_dead(self, worker: int) -> bool:
        """Whether the worker's supervisor is gone: nobody holds its lock any more.

        Only meaningful for a worker of this folder. A file that is not there proves nothing: the
        worker's lease decides then.
        """
        try:
            handle = os.open(self.lock_path(worker), os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(handle)

    def baton(self, name: str) -> Baton:
        """The lock file of that name, for what one process of this host does at a time."""
        return Baton(self.folder / f"{name}.lock")

    def let_go(self, name: str, number: int) -> bool:
        """Whether `number` had the baton of that name here, and has it no more."""
        path = self.folder / f"{name}.lock"
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return number in _numbers(handle)
        finally:
            os.close(handle)

    def kill_remains(self, worker: int) -> int:
        """Kill what still runs in the sessions of a dead worker's children; how many there were."""
        try:
            lines = self.lock_path(worker).read_text().splitlines()
        except OSError:
            return 0
        killed = 0
        for line in lines:
            try:
                child = json.loads(line)
            except ValueError:
                continue  # the supervisor died while it wrote this line
            if child.get("pids") == pid_space() and not _is_another(child):
                killed += kill_session(child["session"], child["started"])
        return killed

    def strays(self, registered: set[int]) -> list[int]:
        """Dead workers that left files here and are not among the registered ones."""
        found = {
            int(name.partition(".")[0])
            for name in os.listdir(self.folder)
            if name.endswith(".lock") and name.partition(".")[0].isdigit()
        }
        return [worker for worker in sorted(found - registered) if self.is_dead(worker)]

    def forget_dead(self, worker: int) -> None:
        """Kill and remove what a dead worker left; not one that is only about to take its lock."""
        with contextlib.suppress(OSError):
            handle = os.open(self.lock_path(worker), os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.kill_remains(worker)
                self.forget(worker)
            finally:
                os.close(handle)

    def forget(self, worker: int) -> None:
        """Remove what a dead or ended worker left in the folder."""
        for path in (
            self.folder / f"{worker}.wake",
            self.board_path(worker),
            self.lock_path(worker),
        ):
            path.unlink(missing_ok=True)


class WorkerLock:
    """A held lock file. Closing it, or dying, says that the worker is gone."""

    def __init__(self, path: Path) -> None:
        while True:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            # A sweeper may have removed the file before it was locked: then it locks nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._handle)):
                    break
            os.close(self._handle)

    def note_child(self, session: int, started: float) -> None:
        """Write down a child's session, so that a sweeper can kill what remains of it."""
        line = {
            "session": session,
            "started": started,
            "born": _born(session),
            "pids": pid_space(),
        }
        os.write(self._handle, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._handle)


class Baton:
    """A lock file that one process at a time holds and signs, so that its death is seen at once."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def take(self, number: int) -> set[int] | None:
        """Take it, if nobody has it, as `number`: who had it before, and may have died with it.

        None: another process has it.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        before = _numbers(self._handle)
        os.write(self._handle, f"{number}\n".encode())
        return before - {number}

    def sign_alone(self, number: int) -> None:
        """Forget who had it before."""
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"{number}\n".encode())

    def close(self) -> None:
        """Let go of it."""
        os.close(self._handle)


def _numbers(handle: int) -> set[int]:
    lines = os.pread(handle, 10_000, 0).split(b"\n")
    return {int(line) for line in lines if line.isdigit()}


def pid_namespace() -> str:
    """Names the space in which this process's pids have a meaning ('' where there is only one)."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def pid_space() -> str:
    """As `pid_namespace`, and of this boot: a host that comes back counts from the beginning."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = f"{psutil.boot_time():.0f}"
    return f"{boot} {pid_namespace()}"


def _born(pid: int) -> int | None:
    """When the process started, in ticks since the boot, which no clock moves; None: unknown."""
    try:
        # What its name may hold ends at the last bracket.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_another(child: dict[str, Any]) -> bool:
    """Whether the leader of the child's session is another process by now, of the same number.

    A number is not given anew while anything lives in the session of that number: if the leader is
    a stranger, nothing of the child's is left.
    """
    now = _born(child["session"])
    return now is not None and child.get("born") is not None and now != child["born"]


def _in_session(session: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def kill_session(session: int, not_before: float = 0.0) -> int:
    """SIGKILL every process of a session that was started at or after `not_before` (epoch s)."""
    killed: set[int] = set()
    for _ in range(5):  # a process that forks while it is killed needs another round
        found = 0
        for process in _in_session(session):
            with contextlib.suppress(psutil.Error, OSError):
                if process.create_time() >= not_before - 2.0:
                    process.send_signal(signal.SIGKILL)
                    killed.add(process.pid)
                    found += 1
        if not found:
            break
    return len(killed)


def describe_process() -> dict[str, Any]:
    """Where this process runs, for a worker's row."""
    return {"host": socket.gethostname(), "pid": os.getpid()}
