"""The environments that the other systems are installed in, apart from failbetter's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.session import ROOT


class PeersMissing(Exception):
    """The peers could not be installed."""


@dataclass(frozen=True)
class Environment:
    """What is installed where; `least` is the Python that it needs."""

    venv: Path
    requirements: Path
    distributions: tuple[str, ...]
    least: tuple[int, int] = (3, 11)

    def ready(self) -> Path:
        """Its interpreter, installing when the requirements changed; or PeersMissing."""
        python = self.venv / "bin" / "python"
        stamp = self.venv / "installed"
        wanted = hashlib.sha256(self.requirements.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted and python.exists():
            return python
        command = [str(ROOT / "tools" / "make_venv.sh"), str(self.venv), str(self.requirements)]
        # An environment that exists keeps its Python.
        interpreter = str(python) if python.exists() else self._interpreter()
        env = {**os.environ, "PYTHON": interpreter}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise PeersMissing(f"could not be installed: {lines[-1] if lines else 'no reason'}")
        stamp.write_text(wanted)
        return python

    def _interpreter(self) -> str:
        """This run's own interpreter when it is new enough, else the newest on the PATH."""
        if sys.version_info >= self.least:
            return os.environ.get("PYTHON", "python3")
        for minor in range(self.least[1] + 9, self.least[1] - 1, -1):
            found = shutil.which(f"python3.{minor}")
            # A version manager may have put a name there with nothing behind it.
            if found and _runs(found):
                return found
        raise PeersMissing(f"no Python {'.'.join(map(str, self.least))} or newer on the PATH")


def _runs(program: str) -> bool:
    return not subprocess.run([program, "-V"], capture_output=True, check=False).returncode


_VENV = ROOT / ".bench-venv"

MOST = Environment(
    _VENV,
    ROOT / "bench" / "requirements-peers.txt",
    ("huey", "rq", "dramatiq", "redis", "pgqueuer", "asyncpg", "procrastinate", "psycopg",
     "django-tasks-db", "django"),
)  # fmt: skip
OBAN = Environment(
    _VENV / "newer", ROOT / "bench" / "requirements-oban.txt", ("oban", "psycopg"), (3, 12)
)
