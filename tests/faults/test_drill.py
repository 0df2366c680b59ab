"""`failbetter drill` as users run it: it passes, finds what is wrong, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import on_sqlite
from tests.faults.harness import Site, open_site, wait_until

import failbetter
from failbetter.drill.tasks import drill_app
from failbetter.ledger.schema import metadata

FAILBETTER = (sys.executable, "-m", "failbetter")
# What a ledger remembers by name, such as the last recovery, it remembers of a drill's too.
REMEMBERED = {"failbetter_bases", "failbetter_turns", "failbetter_notes"}

TWICE = """
import failbetter.running

real = failbetter.running.RunningJob.once

def twice(self, name, function, **more):
    if name == "effect-3":
        function()
    return real(self, name, function, **more)

failbetter.running.RunningJob.once = twice
"""


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite."""
    with open_site(on_sqlite(tmp_path), tmp_path) as site:
        site.app.migrate()
        yield site


def rows(site: Site) -> dict[str, int]:
    """How many rows each table has, and how many drills are known."""
    tables = [table for table in metadata.sorted_tables if table.name not in REMEMBERED]
    found = {table.name: len(site.app.database.query(table.select())) for table in tables}
    notes = site.app.database.query(metadata.tables["failbetter_notes"].select())
    return found | {"drills": sum(row.name.startswith("drill ") for row in notes)}


def folders(site: Site) -> list[Path]:
    return list(site.app.database.fleet.folder.glob("drill-*"))


def drill(site: Site, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*FAILBETTER, "drill", *words],
        env=site.environment(**environment),
        cwd=site.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=90)
    return process.returncode, out.decode(), err.decode()


def report(process: subprocess.Popen[bytes], code: int) -> Any:
    """The document of a drill that must end so."""
    found, out, err = ended(process)
    bad = [check for check in json.loads(out or '{"checks": []}')["checks"] if not check["ok"]]
    assert (found, err) == (code, ""), (bad, err)
    return json.loads(out)


def nothing_runs(site: Site, *but: int) -> None:
    """Wait until no process of the site runs but these."""
    wait_until(
        lambda: not {one.pid for one in site.leftovers()} - set(but), "every process to end", 5
    )


def wait_line(process: subprocess.Popen[bytes], beginning: str) -> None:
    """Read what it prints up to that line."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.decode().startswith(beginning):
            return
    raise AssertionError(f"it ended before it said {beginning!r}")


def test_it_passes_beside_a_worker_of_all_queues_and_leaves_nothing(site: Site) -> None:
    worker = site.worker()
    jobs, gate = site.hold(1)
    wait_until(lambda: jobs[0].refresh().state == "running", "the user's job to run")
    mine = {worker.pid, *(child.pid for child in worker.children())}
    before = rows(site)

    found = report(drill(site, "--json", "--jobs", "9"), 0)

    assert (found["ok"], found["kept"]) == (True, None)
    assert [check["name"] for check in found["checks"] if not check["ok"]] == []
    assert found["checks"][-1]["name"] == "nothing is left behind"
    struck = next(one["seen"] for one in found["checks"] if "on record" in one["name"])
    assert struck == "1 crashed, 4 interrupted, 4 lost"
    assert rows(site) == before
    assert folders(site) == []
    nothing_runs(site, *mine)
    assert (jobs[0].refresh().state, jobs[0].attempt) == ("running", 1)
    assert {child.pid for child in worker.children()} == mine - {worker.pid}
    gate.touch()
    site.wait_over(jobs)
    assert jobs[0].state == "succeeded"


def test_a_worker_of_all_queues_leaves_the_jobs_of_drills_alone(quiet: Site) -> None:
    app = drill_app(failbetter.App(quiet.url))
    theirs = app.tasks["failbetter.drill.sleep"].using(queue="failbetter.drill.x", priority=9)
    left = theirs.enqueue()
    jobs, gate = quiet.hold(1)
    gate.touch()
    quiet.drain()  # with none of its queues named; and it does not wait for what it leaves alone
    assert jobs[0].refresh().state == "succeeded"
    assert (left.refresh().state, left.row.fence) == ("pending", 0)
    app.close()


def test_it_fails_where_an_effect_happens_twice(quiet: Site) -> None:
    broken = quiet.folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(TWICE)
    path = f"{broken}{os.pathsep}{quiet.environment()['PYTHONPATH']}"

    process = drill(quiet, "--jobs", "8", PYTHONPATH=path)
    code, out, err = ended(process)

    assert (code, err) == (1, ""), out
    (bad,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert bad.startswith("FAIL no effect twice, none missing")
    assert "effect-3 happened 2 times" in out
    assert "this means: an effect of yours" in out
    assert out.splitlines()[-1].startswith("failed: 1 check of ")
    assert rows(quiet)["failbetter_jobs"] == 0
    nothing_runs(quiet)


def test_what_a_killed_drill_left_is_taken_away_by_the_next(quiet: Site) -> None:
    before = rows(quiet)
    killed = drill(quiet)
    wait_line(killed, "ok   a child killed")
    killed.kill()
    ended(killed)

    nothing_runs(quiet)  # its workers end without it
    left = rows(quiet)
    assert (left["failbetter_jobs"], left["drills"], len(folders(quiet))) == (20, 1, 1)

    code, out, _ = ended(drill(quiet, "--timeout", "0"))
    assert code == 1  # it had no time for a course of its own
    assert out.startswith("ok   what an earlier drill left is taken away: queue failbetter.drill.")
    assert rows(quiet) == before
    assert folders(quiet) == []


def test_a_drill_that_is_alive_is_not_taken_away(quiet: Site) -> None:
    one = drill(quiet)
    with contextlib.ExitStack() as last:
        last.callback(ended, one)
        wait_line(one, "ok   a worker of 4 processes")
        code, out, _ = ended(drill(quiet, "--timeout", "0"))
        assert code == 1
        assert "earlier drill" not in out
        assert rows(quiet)["failbetter_jobs"] == 20
        one.send_signal(signal.SIGINT)
        code, _, err = ended(one)
        assert (code, rows(quiet)["failbetter_jobs"]) == (130, 0), err


def test_it_keeps_what_it_is_told_to_and_clears_up_when_told_to_end(quiet: Site) -> None:
    before = rows(quiet)
    code, out, _ = ended(drill(quiet, "--keep", "--timeout", "0.1"))
    assert code == 1
    assert "waited in vain for" in out
    assert f"logs in {folders(quiet)[0]}" in out
    kept = rows(quiet)
    assert (kept["failbetter_jobs"], kept["drills"]) == (20, 1)

    process = drill(quiet)
    wait_line(process, "ok   what an earlier drill left is taken away")
    wait_line(process, "ok   a worker of 4 processes")
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err) == (
        143,
        "failbetter: stopped by SIGTERM; its workers are gone, and so are its jobs\n",
    )
    assert rows(quiet) == before
    assert folders(quiet) == []
    nothing_runs(quiet)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--url", "sqlite:///missing.db"), 69, "there is no ledger at"),
        (("--url", "nonsense"), 78, "no URL"),
        (("--jobs", "7"), 2, "from 8 to 1,000"),
        (("--timeout", "soon"), 2, "soon"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(
    quiet: Site, words: tuple[str, ...], code: int, told: str
) -> None:
    found, out, err = ended(drill(quiet, *words))
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert told in err
