"""PostgreSQL servers of a test run's own: private data, a free port, gone when the run ends.

A server is a child of the process that started it and dies with it, even when that is killed; the
folder that a killed run leaves is removed by the next run. The machine's own cluster is never
touched.

The kernel ties a server to the *thread* that started it: start servers from a thread that lasts.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, LiteralString, Self

import psutil
import psycopg
from psycopg import sql
from tests.servers.home import Home, as_server_user, free_port, give_away

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE: Final = 60.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

_DEBIAN: Final = Path("/usr/lib/postgresql")

_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_RISKY: Final = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "128MB"}
"""For tests: a commit still survives the server's crash, but not the machine's."""

_SHARED: Final = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum_vacuum_cost_delay": "0",
    "jit": "off",
}
"""For many small databases with few rows each."""


class PostgresMissing(Exception):
    """There is no PostgreSQL server on this machine."""


class PostgresFailed(Exception):
    """A server, or a program that prepares one, did not do as told."""


def find_binaries() -> Path:
    """The folder of the server's programs: Debian's newest, or what the PATH leads to."""
    found = sorted(
        _DEBIAN.glob("*/bin"),
        key=lambda folder: [int(part) for part in folder.parts[-2].split(".")],
    )
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.insert(0, Path(asked.stdout.strip()))
    if server := shutil.which("postgres"):
        found.insert(0, Path(server).resolve().parent)
    for folder in reversed(found):
        if all((folder / name).is_file() for name in ("initdb", "pg_basebackup", "postgres")):
            return folder
    raise PostgresMissing(
        "no PostgreSQL server here: run tools/install_servers.sh as root, or install your system's "
        "package of it (on Debian: apt-get install postgresql)"
    )


def _environment() -> dict[str, str]:
    """Without a developer's own settings for PostgreSQL, and with messages that we can read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C.UTF-8"}


class PostgresServer:
    """A server. `start` makes a new one; a `with` block, or `close`, removes it with its data.

    `settings` go into `postgresql.conf` at each start; `configure` changes them in flight.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        fsync: bool = True,
        data_parent: Path | None = None,
    ) -> None:
        """Room for a server, without data. Callers want `start`."""
        self._binaries = find_binaries()
        self.settings: dict[str, str] = {**({} if fsync else _RISKY), **(settings or {})}
        self.port = free_port()
        self._home = Home(fast=not fsync, data_parent=data_parent)
        self.data = self._home.data
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._templates: dict[str, str] = {}

    @classmethod
    def start(
        cls,
        settings: Mapping[str, str] | None = None,
        *,
        fsync: bool = True,
        data_parent: Path | None = None,
    ) -> Self:
        """A new, empty server that accepts connections.

        `fsync=False` makes it fast, and puts it into memory if there is room; `data_parent` is
        where the data goes, such as a small disk.
        """
        server = cls(settings, fsync=fsync, data_parent=data_parent)
        server._create("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8",
                       "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        return server

    def _create(self, program: str, *arguments: str) -> None:
        """Fill the data folder and start; on another port if somebody was quicker."""
        try:
            done = subprocess.run(
                as_server_user([self._binaries / program, *arguments, "-D", self.data]),
                env=_environment(), cwd=self._home.path,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise PostgresFailed(f"{program} failed: {done.stderr.strip()}")
            for _ in range(5):
                try:
                    return self.start_again()
                except PostgresFailed:
                    if "Address already in use" not in self.log_text():
                        raise
                    self.port = free_port()
            raise PostgresFailed("found no free port")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- where it is

    def url_of(self, database: str) -> str:
        """SQLAlchemy's URL of a database on it."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of its first database."""
        return self.url_of("postgres")

    @property
    def dsn(self) -> str:
        """What psycopg and psql take for its first database."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    @property
    def version(self) -> str:
        """What its program calls itself."""
        return subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def log_text(self) -> str:
        """What it has logged in all its lives."""
        with contextlib.suppress(FileNotFoundError):
            return (self._home.path / "log").read_text(errors="replace")
        return ""

    # -- its life

    @property
    def running(self) -> bool:
        """Whether its first process is alive, if only frozen."""
        return self._process is not None and self._process.poll() is None

    def start_again(self) -> None:
        """Start what was stopped or killed, at its old address; wait until it answers there."""
        if self.running:
            raise PostgresFailed("it runs already")
        self._write_settings()
        with (self._home.path / "log").open("ab") as log:
            # A process group of its own: no Ctrl-C from the terminal, and the kernel thaws a frozen
            # server when its owner dies, so that it can die too.
            self._process = subprocess.Popen(
                as_server_user([self._binaries / "postgres", "-D", self.data]),
                env=_environment(), cwd=self._home.path, process_group=0, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=[self._home.lock.fileno()],
            )  # fmt: skip
        self._wait(self._accepts, "it accepts connections")
        self._home.note_memory()

    def _said(self) -> str:
        """The end of its log, for an error."""
        return f"it said:\n{self.log_text()[-2000:]}"

    def _write_settings(self) -> None:
        """Write the whole of `postgresql.conf`."""
        ours = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._home.path),
            # Files in the data folder, where a kill leaves none behind.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        lines = [
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in ours.items()
        ]
        path = self.data / "postgresql.conf"
        path.write_text("".join(lines))
        give_away(path)

    def _accepts(self) -> bool:
        """Whether it has said so in the file that is meant for this; a crash leaves an old one."""
        if not self.running:
            self._process = None
            raise PostgresFailed(f"the server ended; {self._said()}")
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return lines[:1] == [str(self._main.pid)] and "ready" in "".join(lines[7:])
        return False

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > limit:
                raise PostgresFailed(f"waited {PATIENCE:g} s until {what}; {self._said()}")
            time.sleep(0.005)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Tell it to end and wait for that. `immediate`: without tidying up, as after a crash."""
        if self._process is None:
            return
        self._process.send_signal(_SIGNALS[mode])
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise PostgresFailed(f"it did not stop; {self._said()}") from None
        self._process = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start_again()

    def kill(self) -> None:
        """SIGKILL to all its processes at once: a real crash."""
        if self._process is None or not self.running:
            return
        self.freeze()  # no process is born meanwhile
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(PATIENCE)
        self._process = None
        self._wait(lambda: all(map(_ended, processes)), "the killed processes are gone")

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections stay open, and nobody answers."""
        self._main.suspend()
        self._wait(lambda: _stands(self._main), "it stands still")
        children = self._processes()[1:]
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        self._wait(lambda: all(map(_stands, children)), "its children stand still")

    def thaw(self) -> None:
        """SIGCONT to all that `freeze` stopped."""
        for process in reversed(self._processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """Kill it and remove all that it has left on the machine."""
        self.kill()
        self._home.remove()

    # -- another that follows it

    def standby(self, settings: Mapping[str, str] | None = None) -> PostgresServer:
        """A new server that follows this one, which from now on commits nothing without it."""
        ours = {**self.settings, **(settings or {})}
        ours.pop("synchronous_standby_names", None)
        follower = PostgresServer(ours, fsync=self.settings.get("fsync") != "off")
        follower._names = self._names  # what either has made, both have
        slot = f"standby_{next(self._names)}"  # keeps for it what it has not yet read
        follower._create("pg_basebackup", f"--dbname={self.dsn}", "--write-recovery-conf",
                         "--create-slot", f"--slot={slot}", "--checkpoint=fast",
                         "--no-sync")  # fmt: skip
        try:
            self.configure({"synchronous_standby_names": "*"})
            in_step = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            self._wait(lambda: bool(self._ask(in_step)), "the standby follows in step")
        except BaseException:
            follower.close()
            raise
        return follower

    def promote(self) -> None:
        """Make a standby a server of its own that takes writes."""
        if self._ask("SELECT pg_promote()") != [(True,)]:
            raise PostgresFailed(f"it was not promoted; {self._said()}")

    # -- its processes

    @property
    def _main(self) -> psutil.Process:
        if self._process is None:
            raise PostgresFailed("it does not run")
        return psutil.Process(self._process.pid)

    def _processes(self) -> list[psutil.Process]:
        """The first process, then all that came of it."""
        return [self._main, *self._main.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time that it has used since its start, in processes that live or have ended."""
        while True:
            total = ended = self._ended_seconds()
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system
            if ended == self._ended_seconds():  # or one ended meanwhile and is missing above
                return total

    def _ended_seconds(self) -> float:
        times = self._main.cpu_times()
        return float(times.children_user + times.children_system)

    # -- what it holds

    def _ask(
        self, statement: LiteralString | sql.Composed, *values: object
    ) -> list[tuple[Any, ...]]:
        """Run a statement outside a transaction."""
        with psycopg.connect(self.dsn, autocommit=True) as link:
            cursor = link.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def configure(self, settings: Mapping[str, str]) -> None:
        """Change settings that need no restart, for now and for later starts."""
        self.settings.update(settings)
        self._write_settings()
        with psycopg.connect(self.dsn, autocommit=True) as link:

            def loaded() -> object:
                return link.execute("SELECT pg_conf_load_time()").fetchone()

            before = loaded()
            link.execute("SELECT pg_reload_conf()")
            self._wait(lambda: loaded() != before, "the settings are read")

    def new_database(self, name: str | None = None, template: str | None = None) -> str:
        """Make a database, a copy of `template` if given; its URL."""
        name = name or f"test_{next(self._names)}"
        made = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        with psycopg.connect(self.dsn, autocommit=True) as link:
            if template is not None:
                made += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
                if link.info.server_version >= 15_00_00:
                    made += sql.SQL(" STRATEGY file_copy")  # in memory 14 ms instead of 22
            link.execute(made)
        return self.url_of(name)

    def drop_database(self, database: str) -> None:
        """Drop a database, given by its name or its URL, with all connections to it."""
        name = sql.Identifier(database.rpartition("/")[2])
        self._ask(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def fresh_database(self, key: str, make: Callable[[str], object]) -> str:
        """The URL of a new database as `make(url)` makes it; only the first of a key calls it."""
        if key not in self._templates:
            name = f"template_{next(self._names)}"
            make(self.new_database(name))
            # Nobody connects to it from here on, or copies of it would have to wait.
            self._ask(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            self.cut_connections(name)
            self._templates[key] = name
        return self.new_database(template=self._templates[key])

    def cut_connections(self, database: str) -> int:
        """End all connections to a database, as an administrator does; how many there were."""
        found = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        cut = self._ask(f"SELECT pg_terminate_backend(pid), pid FROM ({found}) AS x", database)
        pids = [pid for _, pid in cut]
        gone = f"{found} AND pid = ANY(%s)"
        self._wait(lambda: not self._ask(gone, database, pids), "the connections are gone")
        return len(cut)


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def _ended(process: psutil.Process) -> bool:
    return _status(process) in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)


def _stands(process: psutil.Process) -> bool:
    return _ended(process) or _status(process) == psutil.STATUS_STOPPED


@functools.cache
def shared_server() -> PostgresServer:
    """The server that the tests of this process share, each in its own databases. Harm it not."""
    server = PostgresServer.start(_SHARED, fsync=False)
    atexit.register(server.close)
    return server


def fresh_database(key: str, make: Callable[[str], object]) -> str:
    """`fresh_database` of the shared server; whoever is done with it calls its `drop_database`."""
    return shared_server().fresh_database(key, make)
