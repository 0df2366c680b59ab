"""A Redis of our own: on a free port, without persistence, gone when the run ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil


class RedisMissing(Exception):
    """There is no redis-server or valkey-server here, and none could be installed."""


def find_server() -> str:
    """The path of a server's program, installed when missing and permitted; else RedisMissing."""
    names = ("redis-server", "valkey-server")
    if not any(map(shutil.which, names)):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise RedisMissing("no redis-server here (on Debian: apt-get install redis-server)")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"],
                        ["apt-get", "install", "-y", "-qq", "redis-server"]):  # fmt: skip
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RedisMissing(f"no redis-server here, and apt-get failed: {lines[-1:]}")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise RedisMissing("the package was installed, but has no server program")
    return found


class RedisServer:
    """A running server. `flush` empties it."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        settings = ("--port", str(self._port), "--bind", "127.0.0.1", "--save", "",
                    "--appendonly", "no", "--dir", str(folder))  # fmt: skip
        self._process = subprocess.Popen([program, *settings], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                self._command("PING")
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    raise RedisMissing(f"{program} did not start") from None
                time.sleep(0.02)

    def _command(self, command: str) -> None:
        """Send one command without arguments and wait for its answer: no client needed here."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as link:
            link.sendall(f"{command}\r\n".encode())
            answer = link.recv(256)
        if not answer.startswith(b"+"):
            raise RuntimeError(f"Redis answered {command} with {answer!r}")

    def flush(self) -> None:
        """Forget everything."""
        self._command("FLUSHALL")

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
