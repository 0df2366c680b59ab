"""Redis servers (or Valkey's) of a test run's own: private, a free port, gone when the run ends.

As `tests.servers.postgres`: a server is a child of the *thread* that started it and dies with it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final, Self

import redis
from tests.servers.home import Home, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 60.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

_PROGRAMS: Final = ("redis-server", "valkey-server")


class RedisMissing(Exception):
    """There is no Redis or Valkey server on this machine."""


class RedisFailed(Exception):
    """A server did not do as told."""


def find_program() -> str:
    """Where the server's program is."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        raise RedisMissing(
            "no redis-server or valkey-server here: run tools/install_servers.sh as root, or"
            " install your system's package of it (on Debian: apt-get install redis-server)"
        )
    return found


class RedisServer:
    """A server. `start` makes a new one; a `with` block, or `close`, removes it with its data.

    `keeps`: whether what it has been told survives its death; else it forgets, as a cache does.
    """

    def __init__(self, *, keeps: bool = False, password: str | None = None) -> None:
        """Room for a server. Callers want `start`."""
        self._program = find_program()
        self._keeps = keeps
        self._password = password
        self.port = free_port()
        self._home = Home(fast=True, data_parent=None, user="root")
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, *, keeps: bool = False, password: str | None = None) -> Self:
        """A new, empty server that answers."""
        server = cls(keeps=keeps, password=password)
        try:
            for _ in range(5):
                try:
                    server.start_again()
                    return server
                except RedisFailed:
                    if "Address already in use" not in server.log_text():
                        raise
                    server.port = free_port()
            raise RedisFailed("found no free port")
        except BaseException:
            server.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- where it is

    @property
    def url(self) -> str:
        """Its URL, with the password if it has one."""
        secret = "" if self._password is None else f":{self._password}@"
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def connect(self) -> redis.Redis:
        """A client, which whoever asked for it closes."""
        found: redis.Redis = redis.Redis.from_url(self.url)
        return found

    def log_text(self) -> str:
        """What it has logged in all its lives."""
        with contextlib.suppress(FileNotFoundError):
            return (self._home.path / "log").read_text(errors="replace")
        return ""

    # -- its life

    @property
    def running(self) -> bool:
        """Whether it is alive, if only frozen."""
        return self._process is not None and self._process.poll() is None

    def start_again(self) -> None:
        """Start what was stopped or killed, at its old address; wait until it answers there."""
        if self.running:
            raise RedisFailed("it runs already")
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._home.path),
            "save": "",
            "appendonly": "yes" if self._keeps else "no",
            "appendfsync": "always",
            **({} if self._password is None else {"requirepass": self._password}),
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self._home.path / "log").open("ab") as log:
            # A process group of its own: no Ctrl-C from the terminal.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", self._program, *options],
                cwd=self._home.path, process_group=0, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=[self._home.lock.fileno()],
            )  # fmt: skip
        self._wait(self._answers, "it answers")

    def stop(self) -> None:
        """Stop it in an orderly way; a frozen one is thawed for it."""
        self.thaw()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Keep it from doing anything, while its connections stay open."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def flush(self) -> None:
        """Have it forget all that it holds."""
        self._ask("FLUSHALL")

    def close(self) -> None:
        """Kill it and remove its files."""
        if self.running:
            self.kill()
        self._home.remove()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._send(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise RedisFailed(f"it did not end on {number.name}; {self._said()}") from None

    # -- what it says

    def _ask(self, *command: str) -> Any:
        """One command on a connection of its own, tried once."""
        client = redis.Redis.from_url(self.url, single_connection_client=True, retry=None)
        try:
            return client.execute_command(*command)
        finally:
            client.close()
            client.connection_pool.disconnect()

    def _answers(self) -> bool:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            return bool(self._ask("PING"))
        return False

    def _said(self) -> str:
        return f"it said:\n{self.log_text()[-2000:]}"

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if not self.running:
                raise RedisFailed(f"it ended before {what}; {self._said()}")
            if time.monotonic() > deadline:
                raise RedisFailed(f"waited in vain: {what}; {self._said()}")
            time.sleep(0.01)


@functools.cache
def shared_server() -> RedisServer:
    """The server that the tests of this process share, one after the other: each flushes it."""
    server = RedisServer.start()
    atexit.register(server.close)
    return server
