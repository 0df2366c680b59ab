"""A child as its supervisor sees it: start, hand out, take back, hear, stop, mourn."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.board import RING, Ring
from failbetter.fleet import WorkerLock, kill_session
from failbetter.worker.bodies import STACKS_SIGNAL
from failbetter.worker.evidence import peak_bytes
from failbetter.worker.wire import (
    MAX_HANDOUT,
    FromChild,
    Interrupt,
    Lines,
    Reply,
    encode,
    handout_of,
    pack_handout,
    unpack_handout,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from failbetter.ledger.claims import Claimed

_logger = logging.getLogger("failbetter.worker")

MOST_HANDED_OUT = RING // 2
"""So that a begun attempt that is not settled yet always stands on the board."""


# What the system counts a process's memory in.
_MAXRSS = 1 if sys.platform == "darwin" else 1024


class Child:
    """One child process. `handed` holds what it was given and has not ended, by job id."""

    def __init__(
        self,
        index: int,
        app: str,
        slots: int,
        log_format: str,
        log_level: str = "INFO",
        seen: str = "",
    ) -> None:
        """`seen`: the fingerprint of the code that is on disk, as far as is known."""
        self.index = index
        self.slots = slots
        self.handed: dict[int, Claimed] = {}
        self.begun: dict[int, int] = {}
        """Job id to the monotonic nanoseconds at which its body began; ended ones are removed."""
        self.marked: set[int] = set()
        """Jobs whose row says `running` already."""
        self.interrupted: dict[int, float] = {}
        """Job id to when (monotonic s) its body was asked to stop."""
        self.progressed: dict[int, float] = {}
        """Job id to when (monotonic s) its body last gave a sign of progress."""
        self._asking: dict[int, int] = {}
        self.timed_out: set[int] = set()
        self.stalled: set[int] = set()
        self.cancelled: set[int] = set()
        self.killed_for: str | None = None
        self.guilty: frozenset[int] = frozenset()
        self.said_hello = False
        self.code: str | None = None
        """The version of the code it has loaded."""
        self.loaded: str | None = None
        """The fingerprint of that code; see `code.LoadedCode.name`."""
        self.epoch = 0
        """What its times, told by the monotonic clock (µs), lack to the ledger's."""
        self.ready = False
        self.proven = False
        """Whether it has ended a job: its death is then no sign that children cannot work."""
        self.solo = False
        self.closing = False
        self.resting = False
        """Whether it is handed no jobs for a while."""
        self.window = float(slots)
        """How many jobs it may hold, those it runs included."""
        self.pace: float | None = None
        """Microseconds a body takes, smoothed; None before the first ended."""
        self.stacks_text: str | None = None
        self.peak: int | None = None
        """The most bytes that it has had resident; known once it is dead."""
        self.started = time.time()
        self._lines = Lines(FromChild)
        self._ring: Ring | None = None
        self._broken = False
        self._silent = False
        """Whether nothing more is to be heard of it. One that takes no word may have left some."""
        self._broken_at: float | None = None
        self._unsaid = bytearray()
        self._killed = False
        self._start(app, log_format, log_level, seen)

    def _start(self, app: str, log_format: str, log_level: str, seen: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, out, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        # Without a name, so that nothing stays behind whoever is killed.
        stacks = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "failbetter.worker.child",
            app,
            f"--slots={self.slots}",
            f"--channel={theirs.fileno()}",
            f"--handouts={source.fileno()}",
            f"--stacks={stacks.fileno()}",
            f"--supervisor={os.getpid()}",
            f"--log-format={log_format}",
            f"--log-level={log_level}",
            f"--seen={seen}",
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=(theirs.fileno(), source.fileno(), stacks.fileno()),
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        out.setblocking(False)
        # The child blocks on its end, which is the same open file: never set it non-blocking.
        self._source = source
        self.stream = ours
        self._out = out
        self._stacks = stacks
        self.pid = self.process.pid
        # Readable when the child has died; elsewhere than on Linux the tick asks instead.
        self.death = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None

    def give_board(self, worker: int, path: Path, lock: WorkerLock) -> None:
        """Let a child that has said hello begin: it may be handed jobs from now on."""
        if self.closing or self.process.stdin is None:
            return
        try:
            lock.note_child(self.pid, self.started)
            self._ring = Ring(path, self.index)
            self.process.stdin.write(f"{worker} {self.index} {path}\n".encode())
            self.process.stdin.close()
        except OSError as error:
            # It has died, or the disk is full: either way another takes its place.
            _logger.warning("child %d cannot begin: %s", self.pid, error)
            self.kill()
            return
        self.ready = True

    # -- jobs

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be handed jobs at all."""
        return self.ready and not self.closing and not self.resting

    def free(self) -> int:
        """How many more jobs it may be handed now."""
        if not self.takes_jobs or self.solo or self._broken:
            return 0
        return min(int(self.window), MOST_HANDED_OUT) - len(self.handed)

    def hand_out(self, job: Claimed) -> bool:
        """Hand a job to the child; False when it takes no more just now."""
        message = handout_of(job, self.epoch)
        try:
            self._out.send(pack_handout(message, job.payload.encode()))
        except BlockingIOError:
            return False
        except OSError:
            self._broken = True
            return False
        self.handed[job.id] = job
        return True

    def take_back(self) -> list[Claimed]:
        """Take back what the child has not taken yet; its body will not begin."""
        taken = []
        while True:
            try:
                data = self._source.recv(MAX_HANDOUT, socket.MSG_DONTWAIT)
            except OSError:
                break
            if not data:
                break
            job = self.handed.pop(unpack_handout(data)[0].id, None)
            if job is not None:
                taken.append(job)
        return taken

    def look_at_board(self) -> None:
        """Learn which bodies have begun since the last look."""
        if self._ring is None:
            return
        for number, fence, at in self._ring.news():
            job = self.handed.get(number)
            if job is not None and job.fence == fence:
                self.begun[number] = at

    def ended(self, number: int, fence: int) -> Claimed | None:
        """Forget a job that the child says has ended; None when it was not this child's."""
        job = self.handed.get(number)
        if job is None or job.fence != fence:
            return None
        del self.handed[number]
        self.proven = True
        self.begun.pop(number, None)
        self.marked.discard(number)
        self.interrupted.pop(number, None)
        self.progressed.pop(number, None)
        self._asking.pop(number, None)
        if not self.handed:
            self.solo = False
        return job

    # -- talk

    def hear(self) -> list[Any]:
        """What the child has said since."""
        messages: list[Any] = []
        while not self._silent:
            try:
                data = self.stream.recv(1 << 18)
            except BlockingIOError:
                return messages
            except OSError:
                data = b""
            if not data:
                self._broken = self._silent = True
                return messages
            messages += self._lines.feed(data)
            if self._lines.spoilt:
                _logger.error("child %d said what is no message (did a body?)", self.pid)
                self._broken = self._silent = True
                return messages
            if len(data) < 1 << 18:
                break
        return messages

    def is_cut_off(self, now: float) -> bool:
        """Whether the line to the child is cut although it goes on living."""
        if not self._broken:
            return False
        if self._broken_at is None:
            self._broken_at = now  # a child that ends closes its line a moment before it is dead
        return now - self._broken_at > 0.2

    def answer(self, reply: Reply) -> None:
        """Answer a request of the child's; not one that it only posted (see `Channel.post`)."""
        if reply.request:
            self._say(reply)

    def asks(self, number: int, *, is_progress: bool) -> Callable[[Reply], None]:
        """A body asks for something; the way to answer it."""
        if is_progress:
            self.progressed[number] = time.monotonic()
        self._asking[number] = self._asking.get(number, 0) + 1

        def answer(reply: Reply) -> None:
            left = self._asking.pop(number, 1) - 1
            if left:
                self._asking[number] = left
            if is_progress:
                self.progressed[number] = time.monotonic()
            self.answer(reply)

        return answer

    def quiet_since(self, number: int, now: float) -> float:
        """Since when (monotonic s) a begun body has given no sign of progress.

        One that waits for the ledger is not to blame for that.
        """
        if self._asking.get(number):
            return now
        return max(self.progressed.get(number, 0.0), self.begun[number] / 1e9)

    def interrupt(self, job: Claimed, why: str) -> None:
        """Ask the child to stop one body."""
        self.interrupted[job.id] = time.monotonic()
        self._say(Interrupt(job.id, job.fence, why))

    def _say(self, message: msgspec.Struct) -> None:
        self._unsaid += encode(message) + b"\n"
        self.speak()

    def speak(self) -> None:
        """Send what waits to be said, as far as the child takes it. Never blocks."""
        if not self._unsaid:
            return
        try:
            sent = self.stream.send(self._unsaid)
        except BlockingIOError:
            return
        except OSError:
            self._broken = True
            return
        del self._unsaid[:sent]

    # -- end

    def close_handouts(self) -> None:
        """There will be no more jobs: the child ends when it has done what it has taken."""
        if self.closing:
            return
        self.closing = True
        self._out.close()
        if not self.ready and self.process.stdin is not None:
            self.process.stdin.close()

    def capture_stacks(self, patience: float = 0.3) -> str | None:
        """The Python stacks of the child's threads, even while it is stuck in C."""
        try:
            os.kill(self.pid, STACKS_SIGNAL)
        except ProcessLookupError:
            return None
        limit = time.monotonic() + patience
        size = -1
        while time.monotonic() < limit:
            now = os.fstat(self._stacks.fileno()).st_size
            if now and now == size:
                break  # written, and no longer growing
            size = now
            time.sleep(0.01)
        text = os.pread(self._stacks.fileno(), 60_000, 0).decode(errors="replace")
        return text or None

    def kill(self, why: str | None = None, guilty: frozenset[int] = frozenset()) -> None:
        """Record the stacks, then kill the child with all that runs in its session.

        `why`: overdue (then `guilty` names the jobs), memory, stop, lost; None: it is broken, and
        whatever ran in it has crashed.
        """
        if not self._killed:
            self._killed = True
            self.killed_for = why
            self.guilty = guilty
            if why != "stop":
                self.stacks_text = self.capture_stacks()
            self.peak = peak_bytes(self.pid)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def is_dead(self) -> bool:
        """Whether it has died."""
        return self._reaped(os.WNOHANG)

    def _reaped(self, options: int) -> bool:
        """Have the system tell of its death, and of the memory that it used, which it does once."""
        if self.process.returncode is not None:
            return True
        try:
            pid, status, usage = os.wait4(self.pid, options)
        except ChildProcessError:
            return self.process.poll() is not None
        if not pid:
            return False
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.peak is None:
            self.peak = usage.ru_maxrss * _MAXRSS
        return True

    def bury(self) -> int:
        """After its death: end what it left running, close what it had open; its return code."""
        self._reaped(0)
        code = self.process.wait()
        kill_session(self.pid)
        for end in (self.stream, self._out, self._source):
            end.close()
        if self.death is not None:
            os.close(self.death)
        self._stacks.close()
        if self._ring is not None:
            self._ring.close()
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        return code
