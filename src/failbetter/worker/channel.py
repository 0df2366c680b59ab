"""A child's line to its supervisor: tells endings, asks for effects, hears interrupts."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from failbetter.errors import LedgerUnavailable
from failbetter.worker.wire import Interrupt, Lines, Reply, Request, ToChild, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from failbetter.worker.wire import Handout

# Exit code (sysexits.h, EX_PROTOCOL): the line is gone, so nothing this child does can be told.
LINE_LOST = 76


class Channel:
    """The stream to the supervisor. Thread-safe. A lost line ends the process."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._sending = threading.Lock()
        self._requests = itertools.count(1)
        self._waiting: dict[int, Future[Reply]] = {}
        self.busy = False
        """Whether a message is being sent: an exception now would leave half of it on the line."""
        self.on_interrupt: Callable[[Interrupt], None] = lambda message: None

    def start(self) -> None:
        """Listen, in a thread of its own."""
        threading.Thread(target=self._listen, name="failbetter-line", daemon=True).start()

    def tell(self, message: msgspec.Struct) -> None:
        """Send a message. Blocks while the supervisor is busy."""
        data = encode(message) + b"\n"
        try:
            with self._sending:
                self.busy = True
                self._stream.sendall(data)
                self.busy = False
        except OSError:
            os._exit(LINE_LOST)

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Reply:
        """Send a request and wait until the supervisor has committed it."""
        request = next(self._requests)
        answer: Future[Reply] = Future()
        self._waiting[request] = answer
        self.tell(Request(request, kind, number, fence, name, value))
        try:
            reply = answer.result()
        except BaseException:
            # Interrupted while it waited. An effect only intended has certainly not been begun.
            if kind == "intend":
                self.post("not_done", number, fence, name, None)
            raise
        if reply.status == "failed":
            raise LedgerUnavailable(reply.value or "the ledger could not do it")
        return reply

    def post(self, kind: str, number: int, fence: int, name: str, value: str | None) -> None:
        """Send a request whose answer nobody waits for."""
        self.tell(Request(0, kind, number, fence, name, value))

    def payload(self, handout: Handout) -> str:
        """Arguments that were too large for the hand-out."""
        reply = self.ask("payload", handout.id, handout.fence, "", None)
        return reply.value or ""

    def is_outdated(self, handout: Handout) -> bool:
        """Whether a newer job of the same subject has succeeded since this one was claimed."""
        reply = self.ask("outdated", handout.id, handout.fence, "", None)
        return reply.value == "true"

    def permit(self, handout: Handout, tries: int) -> int | None:
        """Ask for another permit of the job's rate limit: its term; None: it must wait.

        `tries`: how many were asked for in vain, because their terms were over too soon.
        """
        reply = self.ask("permit", handout.id, handout.fence, "", str(tries))
        return None if reply.value is None else int(reply.value)

    def _listen(self) -> None:
        lines = Lines(ToChild)
        while True:
            try:
                data = self._stream.recv(1 << 16)
            except OSError:
                os._exit(LINE_LOST)
            if not data:
                # The supervisor is gone. Where the kernel does not kill us with it, we do.
                os._exit(LINE_LOST)
            for message in lines.feed(data):
                if isinstance(message, Reply):
                    waiting = self._waiting.pop(message.request, None)
                    if waiting is not None:
                        waiting.set_result(message)
                else:
                    self.on_interrupt(message)
