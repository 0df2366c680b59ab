"""A network that can be cut: a TCP proxy in front of a server, for tests.

What the proxy does to a connection both ends see as the network's doing. One thing differs: its
kernel still acknowledges what it receives, so keepalive does not notice a black hole here.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Self

from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 30.0
"""Seconds after which the proxy's thread is taken to hang."""

_AT_ONCE: Final = 1 << 16
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def _reset(end: socket.socket) -> None:
    """Close with RST: the peer gets an error, not the end of a stream."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    end.close()


class _Link:
    """A client, the server it talks to, and what waits to be passed on to each of them."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket | None,
        breaks_at: Callable[[bytes, bool], bool],
    ) -> None:
        self.ends = [client] if server is None else [client, server]
        self._breaks_at = breaks_at
        self._waiting: dict[socket.socket, bytes] = {}
        self._silent: set[socket.socket] = set()

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have the selector look out for what can be done next."""
        for end in self.ends:
            wanted = selectors.EVENT_WRITE if end in self._waiting else 0
            if self._other(end) not in self._waiting and end not in self._silent:
                wanted |= selectors.EVENT_READ
            if end in selector.get_map():
                selector.unregister(end)
            if wanted:
                selector.register(end, wanted, self)

    def move(self, end: socket.socket, ready: int) -> bool:
        """Pass on what can be passed on; whether there will be more. OSError: an end broke."""
        other = self._other(end)
        if ready & selectors.EVENT_READ and other not in self._waiting:
            with contextlib.suppress(BlockingIOError):
                if data := end.recv(_AT_ONCE):
                    if self._breaks_at(data, end is self.ends[0]):
                        raise ConnectionResetError
                    self._waiting[other] = data
                    self._send(other)
                else:
                    self._silent.add(end)
                    other.shutdown(socket.SHUT_WR)
        if ready & selectors.EVENT_WRITE and end in self._waiting:
            self._send(end)
        return len(self._silent) < 2

    def _other(self, end: socket.socket) -> socket.socket:
        return self.ends[end is self.ends[0]]

    def _send(self, end: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            rest = self._waiting[end][end.send(self._waiting[end]) :]
            if rest:
                self._waiting[end] = rest
            else:
                del self._waiting[end]


class CuttingProxy:
    """Passes connections on to `host:port` until told otherwise.

    One thread does everything; each method hands it an order and returns when that is carried out.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open = True
        self._cut = False
        self._trap: tuple[bytes, bool, int] | None = None
        self._met = self._left = self.broken = 0
        """How many connections were broken at what `break_at` said."""
        self._links: set[_Link] = set()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self._bell, self._ear = socket.socketpair()
        self.address: tuple[str, int] = self._listener.getsockname()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="cutting proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- what a test orders

    def through(self, url: str) -> str:
        """A database's URL, led through this proxy."""
        host, port = self.address
        return make_url(url).set(host=host, port=port).render_as_string(hide_password=False)

    def cut(self) -> None:
        """Become a black hole: connections stay open and can be made, but nothing gets through."""
        self._order(self._do_cut)

    def heal(self) -> None:
        """Pass on new connections again. Those that were cut are reset."""
        self._order(self._do_heal)

    def reset_all(self) -> None:
        """Break every connection, at both ends."""
        self._order(self._do_reset)

    def break_at(
        self, part: bytes, *, by: Literal["client", "server"], times: int, every: int = 1
    ) -> None:
        """Reset a connection instead of passing on what holds `part`: so often, each so many-th.

        Said by the server, it is an answer to what has been done; said by the client, the server
        never hears it.
        """

        def arm() -> None:
            self._trap = (part, by == "client", every)
            self._met, self._left, self.broken = 0, times, 0

        self._order(arm)

    def retarget(self, host: str, port: int) -> None:
        """Pass new connections on to another address. Those that are open stay where they are."""
        self._target = (host, port)

    def close(self) -> None:
        """Break every connection and end."""
        if self._thread.is_alive():
            self._order(self._do_close)
            self._thread.join(PATIENCE)

    def _order(self, what: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((what, done))
        with contextlib.suppress(OSError):  # told to end, it may have done so by now
            self._bell.send(b"!")
        if not done.wait(PATIENCE):
            raise TimeoutError("the proxy does not obey")

    # -- in its thread

    def _do_cut(self) -> None:
        self._cut = True
        for end in [end for link in self._links for end in link.ends]:
            if end in self._selector.get_map():
                self._selector.unregister(end)

    def _do_heal(self) -> None:
        if self._cut:
            self._accept()  # what has knocked, but was not yet let in
            self._do_reset()
            self._cut = False

    def _do_reset(self) -> None:
        for link in list(self._links):
            self._drop(link, _reset)

    def _do_close(self) -> None:
        self._do_reset()
        self._open = False

    def _run(self) -> None:
        with self._selector, self._listener, self._bell, self._ear:
            while self._open:
                for key, ready in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is not self._ear and key.data in self._links:
                        self._move(key.data, key.fileobj, ready)  # type: ignore[arg-type]
                self._obey()

    def _obey(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(_AT_ONCE, socket.MSG_DONTWAIT)
        while self._orders:
            what, done = self._orders.popleft()
            what()
            done.set()

    def _breaks_at(self, data: bytes, by_client: bool) -> bool:
        if self._trap is None or not self._left:
            return False
        part, wanted, every = self._trap
        if by_client is not wanted or part not in data:
            return False
        self._met += 1
        if self._met % every:
            return False
        self._left -= 1
        self.broken += 1
        return True

    def _accept(self) -> None:
        """Let in whoever has knocked, and connect them with the server unless cut."""
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                client.setblocking(False)
                if self._cut:
                    self._links.add(_Link(client, None, self._breaks_at))
                    continue
                server = socket.socket()
                server.setblocking(False)
                server.connect_ex(self._target)  # a failure shows when it is read from
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = _Link(client, server, self._breaks_at)
                self._links.add(link)
                link.watch(self._selector)

    def _move(self, link: _Link, end: socket.socket, ready: int) -> None:
        try:
            more = link.move(end, ready)
        except OSError:
            self._drop(link, _reset)
            return
        if more:
            link.watch(self._selector)
        else:
            self._drop(link, socket.socket.close)

    def _drop(self, link: _Link, close: Callable[[socket.socket], None]) -> None:
        self._links.discard(link)
        for end in link.ends:
            if end in self._selector.get_map():
                self._selector.unregister(end)
            close(end)
