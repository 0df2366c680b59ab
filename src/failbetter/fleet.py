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
import random
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

# How the names of bells end: of one that rests, of one that has all it can do, and of one that is
# always rung.
_RESTING, _BUSY, _PICKY = ".wake", ".busy", ".picky"
# Seconds for which a worker has its place among the busiest before it lets others have it, and
# after which one that found none, or has let it go, tries again.
_TURN, _AWAY = 1.0, 0.1
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class Fleet:
    """One fleet folder. Making the object makes the folder; raises OSError when it cannot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.id = self._own_id()
        self._seen: tuple[int, tuple[list[str], list[str]]] = (-1, ([], []))
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

    def stacks_path(self, worker: int) -> Path:
        """Where a worker without a supervisor leaves its stacks when it ends itself."""
        return self.folder / f"{worker}.stacks"

    def _socket_path(self, name: str) -> str | None:
        path = str(self.folder.absolute() / name)
        return path if len(path.encode()) <= _SOCKET_PATH_LIMIT else None

    # -- waking

    def open_bell(self, worker: int, *, picky: bool = False) -> Bell | None:
        """The bell by which `worker` is woken; None when the folder's path is too long for one.

        `picky`: it does not take jobs of every queue. Without a bell a worker still sees new work,
        at its next look at the database.
        """
        path = self._socket_path(f"{worker}{_PICKY if picky else _RESTING}")
        if path is None or not hasattr(socket, "AF_UNIX"):
            return None
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        try:
            receiver.bind(path)
        except OSError:  # some mounts know no sockets
            receiver.close()
            return None
        return Bell(receiver, path)

    def wake(self, jobs: int | None = None) -> None:
        """Tell workers of this folder to look at the ledger, those that rest. Never blocks or
        raises.

        `jobs`: for how many there may be work; None: for all. One more than that are woken, by
        chance, as one may be frozen; and all that are picky, who may be the only ones to take it.
        """
        resting, picky = self._wake_paths()
        if jobs is None or jobs + 1 >= len(resting):
            enough, order = len(resting), resting
        else:
            enough, order = jobs + 1, random.sample(resting, len(resting))
        for path in order:
            enough -= self._ring(path)
            if not enough:
                break
        for path in picky:
            self._ring(path)

    def _ring(self, path: str) -> bool:
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sender.setblocking(False)
        try:
            self._sender.sendto(b"w", path)
        except OSError:  # it has just begun to work, is dead, or hears nobody
            return False
        return True

    def close(self) -> None:
        """Close what `wake` has opened. The object opens it again when it is used."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _wake_paths(self) -> tuple[list[str], list[str]]:
        """The bells of those that rest, and of those that are picky."""
        try:
            changed = os.stat(self.folder).st_mtime_ns
        except OSError:
            return [], []
        if changed != self._seen[0]:
            with contextlib.suppress(OSError):
                names = os.listdir(self.folder)
                found = tuple(
                    [
                        path
                        for name in names
                        if name.endswith(end) and (path := self._socket_path(name))
                    ]
                    for end in (_RESTING, _PICKY)
                )
                # Clocks of file systems tick in milliseconds: what came in the same tick is not
                # seen by its time, so a list that is made so soon is not kept.
                settled = time.time_ns() - changed > 20_000_000
                self._seen = (changed if settled else -1, (found[0], found[1]))
        return self._seen[1]

    def turn(self) -> Turn:
        """What a worker takes part in by turns that keeps a core busy."""
        return Turn(self.folder / "turns")

    # -- life and death

    def hold(self, worker: int) -> WorkerLock:
        """Take the worker's lock for as long as this process lives."""
        return WorkerLock(self.lock_path(worker))

    def is_dead(self, worker: int) -> bool:
        """Whether the worker's supervisor is gone: nobody holds its lock any more.

        Only meaningful for a worker of this folder. A file that is not there proves nothing: the
        worker's lease decides then.
        """
        with let_go_of(self.lock_path(worker)) as handle:
            return handle is not None

    def baton(self, name: str) -> Baton:
        """The lock file of that name, for what one process of this host does at a time."""
        return Baton(self.folder / f"{name}.lock")

    def let_go(self, name: str, number: int) -> bool:
        """Whether `number` had the baton of that name here, and has it no more."""
        with let_go_of(self.folder / f"{name}.lock") as handle:
            return handle is not None and number in _numbers(handle)

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
            *(self.folder / f"{worker}{end}" for end in (_RESTING, _BUSY, _PICKY)),
            self.board_path(worker),
            self.stacks_path(worker),
            self.lock_path(worker),
        ):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def let_go_of(path: Path) -> Iterator[int | None]:
    """The open lock file if nobody holds it any more; None if somebody does, or it is not there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            free = False
        else:
            free = True
        yield handle if free else None
    finally:
        os.close(handle)


class Bell:
    """The socket by which a worker is woken. Its name tells producers whether that is of use."""

    def __init__(self, receiver: socket.socket, path: str) -> None:
        self.receiver = receiver
        self._path = path
        self.picky = path.endswith(_PICKY)
        """Whether it is always rung."""
        self._busy = path.removesuffix(_RESTING) + _BUSY
        self.resting = True
        """Whether producers ring it."""

    def rest(self) -> bool:
        """Have it rung from now on. True: it was not until now, so look once more for work."""
        return self._set_resting(True)

    def work(self) -> bool:
        """Have it rung no more, its worker has all that it can do; whether it was until now."""
        return self._set_resting(False)

    def _set_resting(self, resting: bool) -> bool:
        if self.picky or resting is self.resting:
            return False
        self.resting = resting
        with contextlib.suppress(OSError):  # the folder was cleaned up: nobody finds it any more
            os.rename(*((self._busy, self._path) if resting else (self._path, self._busy)))
        return True

    def drain(self) -> None:
        """Forget how often it has been rung."""
        with contextlib.suppress(BlockingIOError):
            while self.receiver.recv(4096):
                pass

    def close(self) -> None:
        """Close it."""
        self.receiver.close()


class Turn:
    """One of the places of those workers of a host that keep a core busy: two for each core.

    More of them would be in each other's way, on the host and at the server.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._places = 2 * (os.cpu_count() or 1)
        self._place: int | None = None
        self._until = 0.0

    def take(self, now: float) -> bool:
        """Have a place, if one is free; where all are taken, only for a while.

        `now`: monotonic s.
        """
        if now < self._until:
            return self._place is not None
        found = self._find_place()
        self.leave()
        self._place = found
        self._until = now + (_AWAY if found is None else _TURN)
        return found is not None

    def _find_place(self) -> int | None:
        """Another than its own."""
        first = random.randrange(self._places)
        place: int
        for place in (*range(first, self._places), *range(first)):
            if place != self._place:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                    return place
        return None

    def leave(self) -> None:
        """Let others have the place."""
        if self._place is not None:
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, self._place)
            self._place = None
            self._until = 0.0

    def close(self) -> None:
        """Leave for good."""
        os.close(self._handle)


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
            "born": born(session),
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


def born(pid: int) -> int | None:
    """When the process started, in ticks since the boot, which no clock moves; None: unknown."""
    try:
        # What its name may hold ends at the last bracket.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def is_running(pid: int, was_born: int | None, space: str) -> bool | None:
    """Whether that very process runs; None: from here that cannot be seen."""
    if space != pid_space() or was_born is None:
        return None
    with contextlib.suppress(psutil.Error):
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
    return born(pid) == was_born


def _is_another(child: dict[str, Any]) -> bool:
    """Whether the leader of the child's session is another process by now, of the same number.

    A number is not given anew while anything lives in the session of that number: if the leader is
    a stranger, nothing of the child's is left.
    """
    now = born(child["session"])
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
