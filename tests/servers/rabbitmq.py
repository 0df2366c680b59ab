"""RabbitMQ servers of a test run's own: private data, free ports, gone when the run ends.

As `tests.servers.postgres`: a server is a child of the *thread* that started it and dies with it.
So does the port mapper of its own that it has (`epmd`), which the machine's one knows nothing of.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import amqp
import psutil
from tests.servers.home import Home, as_server_user, free_port, give_away

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 60.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

_USER: Final = "rabbitmq"
_PROGRAMS: Final = "/usr/lib/rabbitmq/bin:/usr/lib/rabbitmq/sbin:/usr/sbin:/usr/local/sbin"

_SPARE: Final = 16
"""Virtual hosts that a server has from its start: to make one later takes a second each."""

_SETTINGS: Final = """\
loopback_users = none
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 512MB
management_agent.disable_metrics_collector = true
load_definitions = {definitions}
"""


class RabbitMQMissing(Exception):
    """There is no RabbitMQ server on this machine."""


class RabbitMQFailed(Exception):
    """A server did not do as told."""


def find_program(name: str) -> Path:
    """Where a program of the server's is: not the wrapper that insists on the machine's own."""
    for found in sorted(Path("/usr/lib/rabbitmq/lib").glob(f"*/sbin/{name}"), reverse=True):
        return found
    other = shutil.which(name, path=_PROGRAMS) or shutil.which(name)
    if other is None:
        raise RabbitMQMissing(
            f"no {name} here: run tools/install_servers.sh as root, or install your system's"
            " package of RabbitMQ (on Debian: apt-get install rabbitmq-server)"
        )
    return Path(other)


class RabbitMQServer:
    """A server. `start` makes a new one; a `with` block, or `close`, removes it with its data."""

    def __init__(self, *, fast: bool = True) -> None:
        """Room for a server, without data. Callers want `start`."""
        self._program = find_program("rabbitmq-server")
        self._home = Home(fast=fast, data_parent=None, user=_USER)
        self._hosts = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None
        self._new_ports()

    def _new_ports(self) -> None:
        self.port, self._mapper_port, self._node_port = free_port(), free_port(), free_port()

    @classmethod
    def start(cls, *, fast: bool = True) -> Self:
        """A new, empty server that accepts connections. `fast`: in memory, if there is room."""
        server = cls(fast=fast)
        try:
            for _ in range(5):
                try:
                    server.start_again()
                except RabbitMQFailed:
                    if "eaddrinuse" not in server.log_text():
                        raise
                    server.stop("immediate")
                    server._new_ports()
                else:
                    return server
            raise RabbitMQFailed("found no free port")
        except BaseException:
            server.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- where it is

    def url_of(self, host: str) -> str:
        """The URL of a virtual host, as Celery takes it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{host}"

    def new_url(self) -> str:
        """The URL of a virtual host that nobody has used yet."""
        number = next(self._hosts)
        if number >= _SPARE:
            raise RabbitMQFailed(f"all its {_SPARE} virtual hosts are used")
        return self.url_of(f"test{number}")

    def connect(self, host: str) -> Any:
        """A plain connection to a virtual host."""
        link = amqp.Connection(
            f"127.0.0.1:{self.port}", "guest", "guest", virtual_host=host, connect_timeout=5
        )
        link.connect()
        return link

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

    def _environment(self) -> dict[str, str]:
        """Nothing of the machine's own server, nor of a developer's settings for one."""
        path = self._home.path
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "LC_"))
        }
        return {
            **kept,
            "HOME": str(path),  # where the nodes' shared secret is
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test-{path.name.replace('.', '-')}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(self._home.data),
            "RABBITMQ_MNESIA_DIR": str(self._home.data / "mnesia"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(path / "generated"),
            "RABBITMQ_CONFIG_FILE": str(path / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(path / "env.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(path / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(path / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(path / "flags"),
            "RABBITMQ_QUORUM_DIR": str(self._home.data / "quorum"),
            "RABBITMQ_STREAM_DIR": str(self._home.data / "stream"),
            "RABBITMQ_PID_FILE": str(path / "pid"),
            "RABBITMQ_LOG_BASE": str(path),
            "RABBITMQ_LOGS": "-",
            # The machine becomes this very process, with no shell between it and its owner.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noshell -noinput +S 1:1 +sbwt none",
        }

    def _write_settings(self) -> None:
        path = self._home.path
        hosts = ["/", *(f"test{number}" for number in range(_SPARE))]
        right = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "users": [{"name": "guest", "password": "guest", "tags": ["administrator"]}],
            "vhosts": [{"name": host} for host in hosts],
            "permissions": [{"vhost": host, **right} for host in hosts],
        }
        written = {
            "definitions.json": json.dumps(definitions),
            "rabbitmq.conf": _SETTINGS.format(definitions=path / "definitions.json"),
            "env.conf": "",
            "plugins": "[].\n",
        }
        for name, text in written.items():
            (path / name).write_text(text)
            give_away(path / name, _USER)

    def _spawn(self, command: list[str | Path], output: str) -> subprocess.Popen[bytes]:
        with (self._home.path / output).open("ab") as log:
            # A process group of its own: no Ctrl-C from the terminal.
            return subprocess.Popen(
                as_server_user(command, _USER), env=self._environment(), cwd=self._home.path,
                process_group=0, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[self._home.lock.fileno()],
            )  # fmt: skip

    def start_again(self) -> None:
        """Start what was stopped or killed, at its old address; wait until it answers there."""
        if self.running:
            raise RabbitMQFailed("it runs already")
        self._write_settings()
        if self._mapper is None or self._mapper.poll() is not None:
            self._mapper = self._spawn([find_program("epmd")], "epmd.log")
            self._wait(self._mapped, "its port mapper answers")
        self._process = self._spawn([self._program], "log")
        self._wait(self._accepts, "it accepts connections")

    def _mapped(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._mapper_port), 1),
        ):
            return True
        return False

    def _said(self) -> str:
        """The end of its log, for an error."""
        return f"it said:\n{self.log_text()[-2000:]}"

    def _accepts(self) -> bool:
        if not self.running:
            self._process = None
            raise RabbitMQFailed(f"the server ended; {self._said()}")
        with contextlib.suppress(OSError, amqp.AMQPError):
            # The last that it makes.
            self.connect(f"test{_SPARE - 1}").close()
            return True
        return False

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > limit:
                raise RabbitMQFailed(f"waited {PATIENCE:g} s until {what}; {self._said()}")
            time.sleep(0.02)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Tell it to end and wait for that. `immediate`: without tidying up, as after a crash."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM if mode == "fast" else signal.SIGKILL)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise RabbitMQFailed(f"it did not stop; {self._said()}") from None
        self._process = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start_again()

    def kill(self) -> None:
        """SIGKILL: a real crash."""
        if self.running:
            self.stop("immediate")

    def wipe(self) -> None:
        """Kill it and start it with nothing that it held: no queue, no message."""
        self.kill()
        shutil.rmtree(self._home.data, ignore_errors=True)
        self.start_again()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nobody answers."""
        self._main.suspend()
        self._wait(lambda: self._main.status() == psutil.STATUS_STOPPED, "it stands still")

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self._main.resume()

    def close(self) -> None:
        """Kill it and remove all that it has left on the machine."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(PATIENCE)
            self._mapper = None
        self._home.remove()

    @property
    def _main(self) -> psutil.Process:
        if self._process is None:
            raise RabbitMQFailed("it does not run")
        return psutil.Process(self._process.pid)

    # -- what it holds

    def purge(self, url: str, *queues: str) -> None:
        """Remove all messages from queues of a virtual host, given by its URL."""
        with contextlib.closing(self.connect(url.rpartition("/")[2])) as link:
            for queue in queues:
                link.channel().queue_purge(queue)


@functools.cache
def shared_server() -> RabbitMQServer:
    """The server that the tests of this process share, each in its own virtual host."""
    server = RabbitMQServer.start()
    atexit.register(server.close)
    return server
