"""What every test shares: how tests are sorted into rounds, and an environment of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# A developer's own settings and database must not reach a test. What is meant for the tests
# themselves is named FAILBETTER_TEST_*.
for _name in list(os.environ):
    _ours = _name.startswith("FAILBETTER_") and not _name.startswith("FAILBETTER_TEST_")
    if _ours or _name == "DATABASE_URL":
        del os.environ[_name]


# Fault tests that wait for what happens and mostly for that: they bear others beside them.
SHARING = frozenset(
    {
        "test_celery_adopt.py",
        "test_celery_engine.py",
        "test_example_backup.py",
        "test_guests.py",
        "test_restart.py",
        "test_rq_engine.py",
        "test_rq_traps.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests under `tests/faults` as `alone`: they time, stop and kill processes."""
    for item in items:
        if item.path.is_relative_to(HERE / "faults") and item.path.name not in SHARING:
            item.add_marker(pytest.mark.alone)
