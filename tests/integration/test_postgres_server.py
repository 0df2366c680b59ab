"""The PostgreSQL servers and the network that other tests rely on."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from tests.servers import home, postgres
from tests.servers.postgres import PostgresFailed, PostgresMissing, PostgresServer
from tests.servers.proxy import CuttingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


def connect(url: str, timeout: int = 30) -> psycopg.Connection[tuple[object, ...]]:
    dsn = url.replace("+psycopg", "")
    return psycopg.connect(dsn, autocommit=True, connect_timeout=timeout)


def ask(url: str, statement: str) -> list[tuple[object, ...]]:
    with connect(url) as link:
        cursor = link.execute(statement)
        return cursor.fetchall() if cursor.description else []


def wait_until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"waited in vain until {what}"
        time.sleep(0.01)


def unanswered(link: psycopg.Connection[tuple[object, ...]], statement: bytes) -> bool:
    """Send a statement; whether no answer comes for a while. The connection is then of no use."""
    link.pgconn.send_query(statement)
    link.pgconn.flush()
    return not select.select([link], [], [], 0.3)[0]


def answer(link: psycopg.Connection[tuple[object, ...]]) -> bytes | None:
    """What the server says at last to what was `unanswered`."""
    result = link.pgconn.get_result()
    return result.command_status if result else None


def left_over(pids: list[int]) -> list[int]:
    """Those that still run."""
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
    return alive


def memory_of(server: PostgresServer) -> list[str]:
    """The ids of its System V memory: the first to attach to it is its first process."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[4] == str(server._main.pid)]


@pytest.fixture(scope="module")
def calm() -> Iterator[PostgresServer]:
    """For tests that do it no harm."""
    with PostgresServer.start(fsync=False) as server:
        yield server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """For a test that hurts it."""
    with PostgresServer.start(fsync=False) as server:
        yield server


# -- what it is


def test_it_is_private_and_durable() -> None:
    with PostgresServer.start({"work_mem": "5MB"}) as server:
        assert ask(server.url, "SHOW work_mem") == [("5MB",)]
        assert ask(server.url, "SHOW fsync") == [("on",)]
        assert ask(server.url, "SHOW server_encoding") == [("UTF8",)]
        assert ask(server.url, "SHOW listen_addresses") == [("127.0.0.1",)]
        assert server.version.startswith("postgres (PostgreSQL)")
        with psycopg.connect(server.dsn) as link:
            assert link.info.port == server.port
        assert "ready to accept connections" in server.log_text()


def test_a_missing_server_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_DEBIAN", Path("/nowhere"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PostgresMissing, match=r"tools/install_servers\.sh"):
        postgres.find_binaries()


def test_a_setting_that_it_refuses_is_shown() -> None:
    with pytest.raises(PostgresFailed, match="no_such_setting"):
        PostgresServer.start({"no_such_setting": "1"}, fsync=False)


def test_its_data_goes_where_it_is_told(tmp_path: Path) -> None:
    place = tmp_path
    if os.geteuid() == 0:  # the user that runs the server cannot reach what pytest gives to root
        place = Path("/var/tmp")
    before = set(place.iterdir())
    with PostgresServer.start(fsync=False, data_parent=place) as server:
        assert server.data.parent == place
        assert (server.data / "PG_VERSION").exists()
    assert set(place.iterdir()) == before


def test_a_port_that_somebody_took_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    free = home.free_port
    with socket.create_server(("127.0.0.1", free())) as taken:
        ports = iter([taken.getsockname()[1], free()])
        monkeypatch.setattr(postgres, "free_port", lambda: next(ports))
        with PostgresServer.start(fsync=False) as server:
            assert ask(server.url, "SELECT 1") == [(1,)]


def test_settings_change_in_flight(calm: PostgresServer) -> None:
    calm.configure({"work_mem": "6MB", "application_name": "it's"})
    assert ask(calm.url, "SHOW work_mem") == [("6MB",)]


def test_it_tells_its_cpu_time(calm: PostgresServer) -> None:
    before = calm.cpu_seconds()
    ask(calm.url, "SELECT sum(sqrt(x)) FROM generate_series(1, 2000000) AS x")
    # The process that computed this is gone: its time has to be kept.
    assert calm.cpu_seconds() - before >= 0.05


# -- databases


def test_a_database_is_made_copied_and_dropped(calm: PostgresServer) -> None:
    first = calm.new_database('it\'s "first"'.replace(" ", "_"))
    assert ask(calm.url, "SELECT count(*) FROM pg_database WHERE datname LIKE '%first%'") == [(1,)]
    calm.drop_database(first)
    second = calm.new_database()
    ask(second, "CREATE TABLE kept AS SELECT 42 AS answer")
    third = calm.new_database(template=second.rpartition("/")[2])
    assert ask(third, "SELECT answer FROM kept") == [(42,)]
    with connect(third) as link:
        calm.drop_database(third)
        with pytest.raises(psycopg.OperationalError):
            link.execute("SELECT 1")


def test_a_template_is_made_once_and_copies_are_apart(calm: PostgresServer) -> None:
    made: list[str] = []
    held: list[psycopg.Connection[tuple[object, ...]]] = []

    def make(url: str) -> None:
        made.append(url)
        ask(url, "CREATE TABLE jobs (id int)")
        held.append(connect(url))  # as an engine's pool would

    one, two = (calm.fresh_database("jobs", make) for _ in range(2))
    ask(one, "INSERT INTO jobs VALUES (1)")
    assert len(made) == 1
    assert one != two
    assert ask(two, "SELECT * FROM jobs") == []
    for link in held:
        link.close()


def test_the_process_shares_one_server() -> None:
    server = postgres.shared_server()
    assert postgres.shared_server() is server
    url = postgres.fresh_database("shared", lambda url: ask(url, "CREATE TABLE mine ()"))
    assert url.startswith(server.url.removesuffix("postgres"))
    assert ask(url, "SELECT count(*) FROM mine") == [(0,)]
    server.drop_database(url)


def test_connections_are_cut(calm: PostgresServer) -> None:
    url = calm.new_database()
    with connect(url) as one, connect(url) as two:
        assert calm.cut_connections(url.rpartition("/")[2]) == 2
        for link in (one, two):
            with pytest.raises(psycopg.errors.AdminShutdown):
                link.execute("SELECT 1")


# -- what befalls it


def test_what_was_committed_outlives_a_stop_and_a_crash(server: PostgresServer) -> None:
    ask(server.url, "CREATE TABLE kept (how text)")
    address = server.url
    ends: dict[str, Callable[[], None]] = {
        "fast": lambda: server.stop("fast"),
        "immediate": lambda: server.stop("immediate"),
        "kill": server.kill,
    }
    for how, end in ends.items():
        with connect(server.url) as link:
            link.execute("INSERT INTO kept VALUES (%s)", [how])
            end()
            assert not server.running
            with pytest.raises(psycopg.OperationalError):
                link.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            connect(server.url)
        server.start_again()
    server.restart()
    assert server.url == address
    assert ask(server.url, "SELECT how FROM kept") == [("fast",), ("immediate",), ("kill",)]
    assert server.log_text().count("was not properly shut down") == 2


def test_a_crash_takes_all_processes(server: PostgresServer) -> None:
    with connect(server.url):
        pids = [process.pid for process in server._processes()]
        assert len(pids) > 4
        server.kill()
        assert left_over(pids) == []


def test_frozen_it_answers_nobody_and_thawed_it_goes_on(server: PostgresServer) -> None:
    with contextlib.closing(connect(server.url)) as link:
        server.freeze()
        assert server.running
        assert unanswered(link, b"SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            connect(server.url, timeout=2)
        server.thaw()
        assert answer(link) == b"SELECT 1"
    server.freeze()
    server.kill()  # a frozen server, too, can be killed
    server.start_again()


def lose_data(server: PostgresServer) -> None:
    """As when its folder was inside of one that is gone already."""
    shutil.rmtree(server.data)


def test_closed_it_leaves_nothing() -> None:
    for end in (PostgresServer.kill, PostgresServer.stop, PostgresServer.freeze, lose_data):
        server = PostgresServer.start(fsync=False)
        pids = [process.pid for process in server._processes()]
        (memory,) = memory_of(server)
        end(server)
        server.close()
        assert not server._home.path.exists()
        assert left_over(pids) == []
        assert f" {memory} " not in Path("/proc/sysvipc/shm").read_text()


OWNER = """
import sys
from tests.servers.postgres import PostgresServer
server = PostgresServer.start(fsync=False)
if sys.argv[1] == "frozen":
    server.freeze()
if sys.argv[1] == "crashed":
    server.kill()
pids = [process.pid for process in server._processes()] if server.running else []
print(server._home.path, *pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["running", "frozen", "crashed"])
def test_it_dies_with_its_owner_and_the_next_run_tidies_up(state: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, state],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        home.sweep.__wrapped__()
        assert Path(folder, "data").exists()  # what has an owner is left alone
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not left_over([int(pid) for pid in pids]), "the server is gone")
    home.sweep.__wrapped__()
    assert not Path(folder).exists()


# -- failover


def test_a_standby_has_all_that_was_committed_and_takes_over(server: PostgresServer) -> None:
    ask(server.url, "CREATE TABLE kept (id int)")
    with server.standby() as standby:
        before = server.new_database()
        ask(server.url, "INSERT INTO kept VALUES (1)")
        assert standby.port != server.port
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ask(standby.url, "INSERT INTO kept VALUES (2)")
        standby.restart()  # it finds its place again
        ask(server.url, "INSERT INTO kept VALUES (3)")
        server.kill()
        standby.promote()
        ask(standby.url, "INSERT INTO kept VALUES (4)")
        assert ask(standby.url, "SELECT id FROM kept") == [(1,), (3,), (4,)]
        standby.drop_database(before)
        assert standby.new_database() != before


def test_without_its_standby_a_server_commits_nothing(server: PostgresServer) -> None:
    ask(server.url, "CREATE TABLE kept (id int)")
    with server.standby() as standby, contextlib.closing(connect(server.url)) as link:
        standby.freeze()
        assert unanswered(link, b"INSERT INTO kept VALUES (1)")
        assert ask(server.url, "SELECT id FROM kept") == []
        standby.thaw()
        assert answer(link) == b"INSERT 0 1"
        assert ask(server.url, "SELECT id FROM kept") == [(1,)]


# -- the network


@pytest.fixture
def proxy(calm: PostgresServer) -> Iterator[CuttingProxy]:
    before = threading.active_count()
    with CuttingProxy("127.0.0.1", calm.port) as proxy:
        yield proxy
    assert threading.active_count() == before


def test_the_proxy_passes_everything_on(calm: PostgresServer, proxy: CuttingProxy) -> None:
    url = proxy.through(calm.url)
    assert f":{proxy.address[1]}/" in url
    with connect(url) as one, connect(url) as two:
        size = 20_000_000  # far beyond any buffer between them
        assert one.execute("SELECT length(%s)", ["x" * size]).fetchall() == [(size,)]
        assert two.execute("SELECT repeat('y', %s)", [size]).fetchall() == [("y" * size,)]
    pids = "SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> {}"
    with connect(calm.url) as link:
        others = pids.format(link.info.backend_pid)
        wait_until(lambda: link.execute(others).fetchall() == [(0,)], "both ends are closed")


def test_a_cut_network_is_silent_and_healed_it_has_forgotten(
    calm: PostgresServer, proxy: CuttingProxy
) -> None:
    url = proxy.through(calm.url)
    with contextlib.closing(connect(url)) as link:
        proxy.cut()
        assert unanswered(link, b"SELECT 1")
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            connect(url, timeout=2)
        # The server knows nothing of it, and keeps what the client held.
        alive = f"SELECT 1 FROM pg_stat_activity WHERE pid = {link.info.backend_pid}"
        assert ask(calm.url, alive) == [(1,)]
        proxy.heal()
        with pytest.raises(psycopg.OperationalError, match=r"closed|reset"):
            link.pgconn.consume_input()
    wait_until(lambda: not ask(calm.url, alive), "the server has noticed")
    assert ask(url, "SELECT 1") == [(1,)]


def test_who_connects_to_a_cut_network_is_reset_when_it_heals(proxy: CuttingProxy) -> None:
    proxy.cut()
    with socket.create_connection(proxy.address, timeout=PATIENCE) as waiting:
        waiting.sendall(b"hello")
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)


def test_connections_are_reset(calm: PostgresServer, proxy: CuttingProxy) -> None:
    url = proxy.through(calm.url)
    with connect(url) as link, socket.socket(fileno=os.dup(link.fileno())) as wire:
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            wire.recv(1)
    assert ask(url, "SELECT 1") == [(1,)]


def test_new_connections_go_elsewhere(calm: PostgresServer, proxy: CuttingProxy) -> None:
    url = proxy.through(calm.url)
    with connect(url) as link, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(PATIENCE)
        proxy.retarget(*elsewhere.getsockname())
        with (
            socket.create_connection(proxy.address, timeout=PATIENCE) as client,
            elsewhere.accept()[0] as server,
        ):
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert server.recv(16) == b"hello"
            assert server.recv(16) == b""
            server.sendall(b"bye")  # one direction may end before the other
            assert client.recv(16) == b"bye"
        assert link.execute("SELECT 1").fetchall() == [(1,)]


def test_a_dead_address_resets_who_connects(proxy: CuttingProxy) -> None:
    proxy.retarget("127.0.0.1", home.free_port())
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, timeout=PATIENCE) as client,
    ):
        client.recv(1)
