"""The environment that the other systems are installed in, apart from failbetter's own."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from bench.session import ROOT

VENV = ROOT / ".bench-venv"
REQUIREMENTS = ROOT / "bench" / "requirements-peers.txt"
DISTRIBUTIONS = ("huey", "rq", "dramatiq", "redis")


class PeersMissing(Exception):
    """The peers could not be installed."""


def ready() -> Path:
    """The peers' interpreter, installing them when the requirements changed; or PeersMissing."""
    python = VENV / "bin" / "python"
    stamp = VENV / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    command = [str(ROOT / "tools" / "make_venv.sh"), str(VENV), str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise PeersMissing(f"could not be installed: {lines[-1] if lines else 'no reason given'}")
    stamp.write_text(wanted)
    return python
