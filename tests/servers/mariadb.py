"""MariaDB servers of a test run's own: private data, a free port, gone when the run ends.

As `tests.servers.postgres`: a server is a child of the *thread* that started it and dies with it.
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
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import psutil
import pymysql
from pymysql.constants import CLIENT
from tests.servers.home import Home, as_server_user, free_port, give_away

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE: Final = 60.0
"""Seconds after which a wait is given up: a hang, not a matter of speed."""

_USER: Final = "mysql"
_PLACES: Final = "/usr/sbin:/usr/libexec:/usr/local/sbin"

_RISKY: Final = {
    "innodb_flush_log_at_trx_commit": "2",
    "innodb_doublewrite": "0",
    "innodb_flush_method": "nosync",
    "innodb_use_native_aio": "0",
}
"""For tests: a commit still survives the server's crash, but not the machine's."""

_SHARED: Final = {
    "max_connections": "200",
    "innodb_buffer_pool_size": "96M",
    "innodb_log_file_size": "32M",
    "performance_schema": "0",
    # What MySQL 8 is strict about by default, MariaDB is only when told to be.
    "sql_mode": "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
}
"""For many small databases with few rows each."""


class MariaDBMissing(Exception):
    """There is no MariaDB server on this machine."""


class MariaDBFailed(Exception):
    """A server, or a program that prepares one, did not do as told."""


def find_program(name: str) -> Path:
    """Where a program of the server's is."""
    found = shutil.which(name) or shutil.which(name, path=_PLACES)
    if found is None:
        raise MariaDBMissing(
            f"no {name} here: run tools/install_servers.sh as root, or install your system's"
            " package of MariaDB (on Debian: apt-get install mariadb-server)"
        )
    return Path(found)


class MariaDBServer:
    """A server. `start` makes a new one; a `with` block, or `close`, removes it with its data.

    `settings` are given to it at each start.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        fsync: bool = True,
        data_parent: Path | None = None,
    ) -> None:
        """Room for a server, without data. Callers want `start`."""
        self._program = find_program("mariadbd")
        self.settings: dict[str, str] = {**({} if fsync else _RISKY), **(settings or {})}
        self.port = free_port()
        self._home = Home(fast=not fsync, data_parent=data_parent, user=_USER)
        self.data = self._home.data
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._templates: dict[str, list[str]] = {}
        self._spare: dict[str, list[str]] = {}

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
        try:
            server._create()
        except BaseException:
            server.close()
            raise
        return server

    def _create(self) -> None:
        """Fill the data folder and start; on another port if somebody was quicker."""
        grants = self._home.path / "init.sql"
        grants.write_text(
            "CREATE USER IF NOT EXISTS 'shop'@'127.0.0.1';\n"
            "GRANT ALL ON *.* TO 'shop'@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        give_away(grants, _USER)
        done = subprocess.run(
            as_server_user(
                [find_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}",
                 f"--tmpdir={self._home.path}", "--auth-root-authentication-method=normal",
                 "--skip-test-db"], _USER
            ),
            cwd=self._home.path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise MariaDBFailed(f"mariadb-install-db failed: {done.stdout}{done.stderr}")
        for _ in range(5):
            try:
                return self.start_again()
            except MariaDBFailed:
                if "Address already in use" not in self.log_text():
                    raise
                self.port = free_port()
        raise MariaDBFailed("found no free port")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- where it is

    def url_of(self, database: str) -> str:
        """SQLAlchemy's URL of a database on it."""
        return f"mysql+pymysql://shop@127.0.0.1:{self.port}/{database}"

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of a database that is always there."""
        return self.url_of("mysql")

    def connect(self, database: str | None = None) -> Any:
        """A plain connection in autocommit, which takes several statements at once."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="shop", database=database, autocommit=True,
            charset="utf8mb4", ssl_disabled=True, client_flag=CLIENT.MULTI_STATEMENTS,
        )  # fmt: skip

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
            raise MariaDBFailed("it runs already")
        ours = {
            "datadir": str(self.data),
            # Two servers that start at once would have temporary tables of the same names.
            "tmpdir": str(self._home.path),
            "socket": str(self._home.path / "socket"),
            "pid_file": str(self._home.path / "pid"),
            "port": str(self.port),
            "bind_address": "127.0.0.1",
            "skip_name_resolve": "1",
            "init_file": str(self._home.path / "init.sql"),
            **self.settings,
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in ours.items()]
        with (self._home.path / "log").open("ab") as log:
            # A process group of its own: no Ctrl-C from the terminal, and the kernel thaws a frozen
            # server when its owner dies, so that it can die too.
            self._process = subprocess.Popen(
                as_server_user([self._program, "--no-defaults", *options], _USER),
                cwd=self._home.path, process_group=0, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=[self._home.lock.fileno()],
            )  # fmt: skip
        self._wait(self._accepts, "it accepts connections")

    def _said(self) -> str:
        """The end of its log, for an error."""
        return f"it said:\n{self.log_text()[-2000:]}"

    def _accepts(self) -> bool:
        if not self.running:
            self._process = None
            raise MariaDBFailed(f"the server ended; {self._said()}")
        with contextlib.suppress(pymysql.Error), contextlib.closing(self.connect()):
            return True
        return False

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > limit:
                raise MariaDBFailed(f"waited {PATIENCE:g} s until {what}; {self._said()}")
            time.sleep(0.01)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Tell it to end and wait for that. `immediate`: without tidying up, as after a crash."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM if mode == "fast" else signal.SIGKILL)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise MariaDBFailed(f"it did not stop; {self._said()}") from None
        self._process = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start_again()

    def kill(self) -> None:
        """SIGKILL: a real crash."""
        if self.running:
            self.stop("immediate")

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
        self._home.remove()

    @property
    def _main(self) -> psutil.Process:
        if self._process is None:
            raise MariaDBFailed("it does not run")
        return psutil.Process(self._process.pid)

    def cpu_seconds(self) -> float:
        """CPU time that it has used since its start."""
        times = self._main.cpu_times()
        return float(times.user + times.system)

    # -- what it holds

    def ask(self, statement: str, *values: object, database: str | None = None) -> list[Any]:
        """Run a statement outside a transaction."""
        with contextlib.closing(self.connect(database)) as link, link.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def new_database(self, name: str | None = None) -> str:
        """Make an empty database; its URL."""
        name = name or f"test_{os.getpid()}_{next(self._names)}"
        self.ask(f"CREATE DATABASE `{name}`")
        return self.url_of(name)

    def drop_database(self, database: str) -> None:
        """Drop a database, given by its name or its URL, with all connections to it."""
        name = database.rpartition("/")[2]
        self.cut_connections(name)
        self.ask(f"DROP DATABASE `{name}`")

    def fresh_database(self, key: str, make: Callable[[str], object]) -> str:
        """The URL of a new database as `make(url)` makes it; only the first of a key calls it.

        Further ones are made by the statements that make its tables as they are, and its rows; or
        are earlier ones that were given back.
        """
        if key not in self._templates:
            url = self.new_database()
            make(url)
            self._templates[key] = self._statements(url.rpartition("/")[2])
            return url
        if self._spare.get(key):
            return self._spare[key].pop()
        url = self.new_database()
        with contextlib.closing(self.connect(url.rpartition("/")[2])) as link:
            for statement in self._templates[key]:
                link.cursor().execute(statement)
        return url

    def give_back(self, key: str, url: str) -> None:
        """Empty a database of that key, in which the key's tables are as they were, to use again.

        To drop one with all its tables, and to make another, takes many times as long.
        """
        name = url.rpartition("/")[2]
        self.cut_connections(name)
        made = self._templates[key]
        tables = {one.split("`")[1] for one in made if one.startswith("CREATE TABLE")}
        rows = [one for one in made if not one.startswith("CREATE TABLE")]
        with contextlib.closing(self.connect(name)) as link, link.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            found = [table for (table,) in cursor.fetchall()]
            emptied = [
                f"{'DELETE FROM' if table in tables else 'DROP TABLE'} `{table}`" for table in found
            ]
            cursor.execute(";".join(["START TRANSACTION", *emptied, *rows, "COMMIT"]))
            while cursor.nextset():
                pass
        self._spare.setdefault(key, []).append(url)

    def _statements(self, database: str) -> list[str]:
        found = []
        with contextlib.closing(self.connect(database)) as link, link.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            for (table,) in cursor.fetchall():
                cursor.execute(f"SHOW CREATE TABLE `{table}`")
                found.append(cursor.fetchall()[0][1])
                cursor.execute(f"SELECT * FROM `{table}`")
                for row in cursor.fetchall():
                    marks = ", ".join(["%s"] * len(row))
                    found.append(cursor.mogrify(f"INSERT INTO `{table}` VALUES ({marks})", row))
        return found

    def cut_connections(self, database: str) -> int:
        """End all connections to a database, as an administrator does; how many there were."""
        listed = "SELECT id FROM information_schema.processlist WHERE db = %s"
        found = [row[0] for row in self.ask(listed, database)]
        for number in found:
            with contextlib.suppress(pymysql.Error):
                self.ask(f"KILL {number}")
        gone = set(found)
        self._wait(
            lambda: not gone & {row[0] for row in self.ask(listed, database)},
            "the connections are gone",
        )
        return len(found)


@functools.cache
def shared_server() -> MariaDBServer:
    """The server that the tests of this process share, each in its own databases. Harm it not."""
    server = MariaDBServer.start(_SHARED, fsync=False)
    atexit.register(server.close)
    return server


def fresh_database(key: str, make: Callable[[str], object]) -> str:
    """`fresh_database` of the shared server; whoever is done with it calls its `give_back`."""
    return shared_server().fresh_database(key, make)
