"""`failbetter mirror check` (C1): what it finds, repairs and says, and the finding of `health`."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli_ground import Ground, Ran

GALLERY = """
import os
import failbetter

app = failbetter.App()
app.mirror("uploads", key="id", from_arg="upload", status="status", error="error",
           ended_at="ended_at", tasks=["publish"])
app.mirror("orders", key="id", from_arg="order", status="status", url="sqlite:///orders.db")

@app.task(max_attempts=1)
def publish(upload: str) -> None:
    if upload == "2":
        raise ValueError("a secret")

@app.task
def ship(order: int) -> None:
    pass
"""


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Rows, and jobs that a worker has run. Tests do not change it: see `ground`."""
    ground = Ground(tmp_path_factory.mktemp("gallery"))
    ground.write("gallery.py", GALLERY)
    sql(
        ground,
        "jobs.db",
        "CREATE TABLE uploads (id INTEGER PRIMARY KEY, status, error, ended_at TIMESTAMP)",
        "INSERT INTO uploads (id) VALUES (1), (2), (3)",
    )
    sql(ground, "orders.db", "CREATE TABLE orders (id INTEGER, status)", "INSERT INTO orders (id)"
        " VALUES (7)")  # fmt: skip
    made = "import gallery as g\ng.publish.enqueue_many([('1',), ('2',)])\ng.ship.enqueue(7)"
    subprocess.run(
        [sys.executable, "-c", made],
        cwd=ground.folder,
        env={"FAILBETTER_URL": "sqlite:///jobs.db", "PYTHONPATH": "."},
        check=True,
        timeout=60,
    )
    ran = gallery(ground, "worker", "--drain")
    assert ran.code == 0, ran.err
    return ground


@pytest.fixture
def ground(past: Ground, tmp_path: Path) -> Ground:
    """A copy to act on."""
    shutil.copytree(past.folder, tmp_path / "copy")
    return Ground(tmp_path / "copy")


def gallery(ground: Ground, *words: str) -> Ran:
    settings = {"FAILBETTER_APP": "gallery:app", "FAILBETTER_URL": "sqlite:///jobs.db"}
    return ground.run(*words, **settings)


def sql(ground: Ground, name: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements on a database of the folder; what the last one finds."""
    found: list[tuple[Any, ...]] = []
    with contextlib.closing(sqlite3.connect(ground.folder / name)) as connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        connection.commit()
    return found


def test_all_is_right(past: Ground) -> None:
    ran = gallery(past, "mirror", "check")
    assert (ran.code, ran.out, ran.err) == (0, "3 rows checked, 3 right\n", "")
    assert gallery(past, "mirror", "check", "--json").document == {
        "checked": 3,
        "dry_run": False,
        "rows": [],
    }
    assert gallery(past, "mirror", "check", "--limit", "2").out == "2 rows checked, 2 right\n"


def spoil(ground: Ground) -> None:
    sql(ground, "jobs.db", "UPDATE uploads SET status = 'x', error = 'y' WHERE id = 2",
        "DELETE FROM uploads WHERE id = 1")  # fmt: skip
    sql(ground, "orders.db", "UPDATE orders SET status = 'z'")


def test_it_compares_and_repairs(ground: Ground) -> None:
    """C1: in the ledger's own database and in another one."""
    spoil(ground)
    ran = gallery(ground, "mirror", "check", "--dry-run")
    assert ran.code == 1
    head, *lines, summary = ran.out.splitlines()
    assert head.split() == ["JOB", "TABLE", "KEY", "ROW", "WHAT"]
    assert summary == "3 rows checked, 0 right, 2 different, 1 missing"
    found = {tuple(line.split()[1:4]): line for line in lines}
    assert set(found) == {
        ("orders", "7", "differs"),
        ("uploads", "2", "differs"),
        ("uploads", "1", "missing"),
    }
    assert found["orders", "7", "differs"].endswith('status is "z", not "succeeded"')
    assert (
        'status is "x", not "failed"; error is "y", not "It failed because of an error. (job'
        in (found["uploads", "2", "differs"])
    )
    assert "secret" not in ran.out
    assert sql(ground, "jobs.db", "SELECT status FROM uploads WHERE id = 2") == [("x",)]

    ran = gallery(ground, "mirror", "check")
    assert ran.code == 1  # one is missing
    assert ran.out.splitlines()[-1] == "3 rows checked, 0 right, 2 repaired, 1 missing"
    assert sql(ground, "jobs.db", "SELECT status FROM uploads WHERE id = 2") == [("failed",)]
    assert sql(ground, "orders.db", "SELECT status FROM orders") == [("succeeded",)]

    sql(ground, "jobs.db", "INSERT INTO uploads (id) VALUES (1)")
    ran = gallery(ground, "mirror", "check", "--json")
    assert ran.code == 0
    (row,) = ran.document["rows"]
    assert (row["key"], row["finding"], row["repaired"], row["problem"]) == (
        "1", "differs", True, None
    )  # fmt: skip
    assert row["columns"]["status"] == {"is": None, "should_be": "succeeded"}


def test_without_the_app_other_databases_are_not_known(ground: Ground) -> None:
    spoil(ground)
    ran = ground.run("--url", "sqlite:///jobs.db", "mirror", "check")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == (
        "3 rows checked, 0 right, 1 repaired, 1 missing, 1 that could not be looked at"
    )
    assert "the app does not name its database" in ran.out


def test_health_says_what_waits(ground: Ground) -> None:
    """C1: the lag is in sight."""
    assert "mirror" not in health(ground)["checks"]
    sql(ground, "jobs.db", "ALTER TABLE uploads RENAME TO moved")
    made = "import gallery as g\ng.publish.enqueue('3')"
    subprocess.run(
        [sys.executable, "-c", made],
        cwd=ground.folder,
        env={"FAILBETTER_URL": "sqlite:///jobs.db", "PYTHONPATH": "."},
        check=True,
        timeout=60,
    )
    sql(ground, "jobs.db", "UPDATE failbetter_outbox SET since = since - 60000000")
    found = health(ground)["checks"]["mirror"]
    assert found["status"] == "warn"
    assert found["observedValue"]["waiting"] == 1
    assert 60 <= found["observedValue"]["oldest_seconds"] < 120
    assert "no such table: uploads" in found["output"]
    shown = gallery(ground, "health").out
    assert "1 waiting, oldest 1 m" in shown
    ran = gallery(ground, "mirror", "check", "--limit", "1")
    assert ran.code == 1
    assert "no such table: uploads" in ran.out


def health(ground: Ground) -> Any:
    return gallery(ground, "health", "--json").document


def test_the_group_alone_shows_its_help(past: Ground) -> None:
    ran = gallery(past, "mirror")
    assert ran.code == 2
    assert "check" in ran.out
