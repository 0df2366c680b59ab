"""What a worker's child does without: it costs each of them memory and the time to load it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("sqlalchemy", "alembic", "psycopg", "rich", "typer", "prometheus_client", "starlette")


@pytest.mark.parametrize("module", ["failbetter", "failbetter.worker.child"])
def test_what_loads_only_when_it_is_used(module: str) -> None:
    script = f"import sys, {module}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
