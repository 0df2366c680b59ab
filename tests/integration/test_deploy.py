"""The files to copy of examples/deploy, run for real: the entrypoint and the systemd units."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.conformance.kit import Ledger
from tests.integration.sites import PATIENCE, SHOP, wait_until

import failbetter

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
UNITS = ["failbetter-worker.service", "failbetter-web.service", "failbetter-maintain.service"]

# Stands for `failbetter`: notes its arguments, then does as its environment says.
FAKE = """#!{python}
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (note("stopped"), os._exit(143)))
def note(text):
    with open("calls", "a") as file:
        file.write(text + "\\n")
note(" ".join(sys.argv[1:]))
if os.environ.get("FAKE_HANGS"):
    time.sleep(60)
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""
# The application: says that it runs, and by which signal it was ended.
SERVE = """
import os, signal, sys, time
def end(number, _frame):
    open("ended", "w").write(str(number))
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
open("pid", "w").write(str(os.getpid()))
while True:
    time.sleep(0.01)
"""


@dataclass
class Container:
    """A folder in which the entrypoint is started as a container would."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["/bin/sh", str(DEPLOY / "entrypoint.sh"), *command],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    fake = tmp_path / "failbetter"
    fake.write_text(FAKE.replace("{python}", sys.executable))
    fake.chmod(0o755)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


# -- the entrypoint


def test_recovery_comes_first_then_the_application(container: Container) -> None:
    code, out, _ = container.run("sh", "-c", 'cat calls; echo "$0 $1"; exit 3', "a b", "c")
    assert (code, out) == (3, "recover --timeout 30\na b c\n")
    container.run("true", FAILBETTER_RECOVERY_TIMEOUT="2m")
    assert container.calls()[-1] == "recover --timeout 2m"


@pytest.mark.parametrize("code", [1, 69, 75, 78])
def test_warn_starts_the_application_all_the_same(container: Container, code: int) -> None:
    ended, out, err = container.run("echo", "serving", FAKE_CODE=str(code))
    assert (ended, out) == (0, "serving\n")
    assert f"recovery ended with {code}; starting the application all the same" in err


@pytest.mark.parametrize("code", [1, 69, 75, 78])
def test_block_does_not(container: Container, code: int) -> None:
    ended, out, err = container.run(
        "echo", "serving", FAKE_CODE=str(code), FAILBETTER_RECOVERY="block"
    )
    assert (ended, out) == (code, "")
    assert f"recovery ended with {code}; the application is not started" in err


def test_block_starts_it_after_a_good_one(container: Container) -> None:
    assert container.run("echo", "serving", FAILBETTER_RECOVERY="block")[:2] == (0, "serving\n")


@pytest.mark.parametrize("policy", ["warn", "block"])
def test_without_failbetter_itself(tmp_path: Path, policy: str) -> None:
    process = subprocess.run(
        ["/bin/sh", str(DEPLOY / "entrypoint.sh"), "echo", "serving"],
        env={"PATH": "/usr/bin:/bin", "FAILBETTER_RECOVERY": policy},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    started = policy == "warn"
    assert (process.returncode, process.stdout) == ((0, "serving\n") if started else (127, ""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("policy", ["warn", "block"])
def test_a_signal_during_recovery_ends_it_and_starts_nothing(
    container: Container, number: signal.Signals, policy: str
) -> None:
    process = container.start("touch", "served", FAKE_HANGS="1", FAILBETTER_RECOVERY=policy)
    wait_until(container.calls, "recovery to begin")
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert container.calls()[-1] == "stopped"  # it was waited for
    assert f"stopped by signal {int(number)}" in err
    assert not (container.folder / "served").exists()


def test_the_application_takes_the_entrypoints_place(container: Container) -> None:
    """So that its signals reach it, and its exit code is the container's."""
    process = container.start(sys.executable, "-c", SERVE)
    pid = container.folder / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), "the application to run")
    assert pid.read_text() == str(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 7
    assert (container.folder / "ended").read_text() == "15"


@pytest.mark.parametrize(
    ("command", "environment", "code", "says"),
    [
        ([], {}, 2, "nothing to start"),
        (["true"], {"FAILBETTER_RECOVERY": "ignore"}, 78, "warn or block, not 'ignore'"),
    ],
)
def test_wrong_usage(
    container: Container, command: list[str], environment: dict[str, str], code: int, says: str
) -> None:
    ended, _, err = container.run(*command, **environment)
    assert (ended, container.calls()) == (code, [])
    assert says in err


# -- the entrypoint with failbetter itself


@pytest.fixture
def real(container: Container) -> Container:
    """The entrypoint finds failbetter, and an app whose ledger is in the folder."""
    fake = container.folder / "failbetter"
    fake.unlink()
    fake.symlink_to(Path(sys.executable).with_name("failbetter"))
    (container.folder / "shop.py").write_text(SHOP)
    return container


def settings(container: Container, policy: str, url: str = "") -> dict[str, str]:
    """What a container's environment says."""
    return {
        "FAILBETTER_APP": "shop:app",
        "FAILBETTER_URL": url or f"sqlite:///{container.folder / 'jobs.db'}",
        "FAILBETTER_RECOVERY": policy,
    }


def test_what_a_dead_worker_held_is_pending_when_the_application_starts(real: Container) -> None:
    app = failbetter.App(settings(real, "block")["FAILBETTER_URL"])
    job = app.task(name="resize")(lambda n: n).enqueue(1)
    ledger = Ledger(app.database)
    ledger.register(1, fleet=app.database.fleet.id)
    app.database.fleet.hold(1).close()
    ledger.begin(*ledger.claim(1, now=ledger.soon()), now=app.database.now())
    shown = ("failbetter", "jobs", "list", "--json", "--state", "pending")
    code, out, err = real.run(*shown, **settings(real, "block"))
    assert code == 0, err
    assert job.id in out.partition('"jobs"')[2]
    app.close()


@pytest.mark.parametrize(("policy", "ended", "said"), [("warn", 0, "serving\n"), ("block", 69, "")])
def test_a_ledger_out_of_reach(real: Container, policy: str, ended: int, said: str) -> None:
    away = settings(real, policy, "sqlite:////nowhere/at/all/jobs.db")
    code, out, err = real.run("echo", "serving", FAILBETTER_RECOVERY_TIMEOUT="1", **away)
    assert (code, out) == (ended, said), err


@pytest.mark.parametrize("policy", ["warn", "block"])
def test_a_signal_during_a_real_recovery(real: Container, policy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://127.0.0.1:{silent.getsockname()[1]}/jobs"
        process = real.start("touch", "served", **settings(real, policy, url))
        silent.settimeout(PATIENCE)
        connection, _ = silent.accept()  # recovery asks, and is not answered
        with connection:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, err
    assert not (real.folder / "served").exists()


# -- systemd units


def read_unit(name: str) -> dict[str, list[str]]:
    """The [Service] section; a key that is given twice has two values."""
    parser = configparser.RawConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return {key: [value] for key, value in parser["Service"].items()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_of_a_unit(name: str, tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for program in ("failbetter", "uvicorn"):
        (programs / program).symlink_to("/bin/true")
    text = (DEPLOY / name).read_text().replace("/srv/shop", str(tmp_path))
    (tmp_path / name).write_text(text.replace("User=shop", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_a_units_commands_are_what_the_command_line_takes(name: str, tmp_path: Path) -> None:
    section = read_unit(name)
    names = ("ExecStartPre", "ExecStart", "ExecReload")
    commands = [command for name in names for command in section.get(name, [])]
    ours = [shlex.split(one.lstrip("-")) for one in commands if "failbetter " in one]
    assert ours
    for words in ours:
        done = subprocess.run(
            [sys.executable, "-m", "failbetter", *words[1:], "--help"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout


def test_a_unit_waits_longer_than_the_worker_needs_to_stop() -> None:
    section = read_unit("failbetter-worker.service")
    assert int(section["TimeoutStopSec"][0]) > 25 + 5
    assert section["KillMode"] == ["mixed"]
    assert section["RestartPreventExitStatus"] == ["2 78"]


def test_the_workers_unit_runs_a_worker_that_says_it_is_ready(tmp_path: Path) -> None:
    """Its command as it stands there, with a notify socket as systemd gives it."""
    section = read_unit("failbetter-worker.service")
    (words,) = map(shlex.split, section["ExecStart"])
    (tmp_path / "shop.py").write_text(SHOP)
    words[words.index("8080")] = "0"
    name, _, app = section["Environment"][0].partition("=")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        process = subprocess.Popen(
            [sys.executable, "-m", "failbetter", *words[1:]],
            cwd=tmp_path,
            env={
                **os.environ,
                name: app,
                "FAILBETTER_URL": "sqlite:///jobs.db",
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "400000",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            told = _told_until(manager, "READY=1")
            assert told[-1] == "READY=1\nSTATUS=running jobs of queues: all"
            began = time.monotonic()
            for _ in range(5):
                assert manager.recv(4096) == b"WATCHDOG=1"
            # At half of what is allowed; twice that would be too late for systemd.
            assert 0.5 < time.monotonic() - began < 5 * 0.4
            process.send_signal(signal.SIGTERM)
            assert _told_until(manager, "STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.communicate()


def _told_until(manager: socket.socket, word: str) -> list[str]:
    told: list[str] = []
    while not told or not told[-1].startswith(word):
        told.append(manager.recv(4096).decode())
    return told
