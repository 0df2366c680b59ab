"""C4: new code on disk while jobs run: it is loaded, and nothing is lost, charged or run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.harness import PATIENCE, Site, Worker, open_site, wait_until

from failbetter.lifecycle.decide import NEWER_CODE_WITHIN

if TYPE_CHECKING:
    from failbetter import Job

SHOP = """
import pathlib, time
import failbetter
import models
from tests.faults.apps import told

app = failbetter.App()

@app.task(max_attempts=1)
def back_up(n):
    with told():
        return models.save(n)

@app.task(max_attempts=1, on_lost="fail")
def back_up_once(n):
    with told():
        return models.save(n)

@app.task(max_attempts=1)
def hold_open(gate, patience=60.0):
    with told():
        limit = time.monotonic() + patience
        while not pathlib.Path(gate).exists() and time.monotonic() < limit:
            time.sleep(0.005)
        return models.VERSION
"""
MODELS = """
VERSION = "{version}"

def save(n):
    return VERSION
"""
# Comes to its end once it is told to go on.
SLOW = """
import pathlib, time

VERSION = "{version}"
pathlib.Path("loading").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.005)

def save(n):
    return VERSION
"""
FAULTY = """
VERSION = "{version}"

def save(n):
    raise TypeError("save() got an unexpected keyword argument 'size'")
"""
# Python's own compiled files are known by their second only.
PLAIN = {"PYTHONDONTWRITEBYTECODE": "1"}


class Shop:
    """An app in files of its own, and its worker."""

    def __init__(self, site: Site) -> None:
        self.site = site
        (site.folder / "shop.py").write_text(SHOP)
        for name, options in (
            ("back_up", {}),
            ("back_up_once", {"on_lost": "fail"}),
            ("hold_open", {}),
        ):
            site.app.task(name=name, max_attempts=1, **options)(self._stub(name))
        self.write(MODELS, "one")

    @staticmethod
    def _stub(name: str) -> Any:
        if name == "hold_open":
            return lambda gate, patience=60.0: None
        return lambda n: None

    def write(self, text: str, version: str = "") -> None:
        """Replace models.py, as an editor does."""
        path = self.site.folder / "models.py"
        new = path.with_suffix(".new")
        new.write_text(text.replace("{version}", version))
        os.replace(new, path)

    def worker(self, *paths: str, watch: bool = True, **settings: Any) -> Worker:
        change = list(paths) if watch else None
        env = {**PLAIN, **settings.pop("env", {})}
        return self.site.worker(app="shop:app", restart_on_change=change, env=env, **settings)

    def held(self, count: int, patience: float = 60.0) -> tuple[list[Job], Path]:
        """Jobs whose bodies run until the returned file is made, or for so long (s)."""
        gate = self.site.folder / f"gate-{len(self.site.accepted)}"
        made = self.site.enqueue_many("hold_open", [(str(gate), patience)] * count)
        return made, gate

    def wait_loaded(self, children: int) -> None:
        """Wait until so many children have loaded the app: each runs a body at the same time."""
        jobs, gate = self.held(children)
        for job in jobs:
            self.site.log.wait_for("start", job)
        gate.touch()
        self.site.wait_over(jobs)

    def save(self) -> str:
        """What the code that runs now returns."""
        job = self.site.enqueue("back_up", 1)
        self.site.wait_over([job])
        assert job.state == "succeeded", job.error_message
        return str(job.result(0))


@pytest.fixture
def shop(site: Site) -> Shop:
    return Shop(site)


ALL_NEW = "all children run code"


@pytest.mark.parametrize("how", ["watchfiles", "polling"])
def test_new_code_is_used_and_what_runs_may_finish(shop: Shop, how: str) -> None:
    """Nothing stranded: bodies under way finish on their code, what waits runs on the new."""
    if how == "polling":
        (shop.site.folder / "watchfiles.py").write_text("raise ImportError")
    worker = shop.worker(processes=2)
    shop.wait_loaded(2)
    assert shop.save() == "one"
    running, gate = shop.held(1)
    shop.site.log.wait_for("start", running[0])
    shop.write(MODELS, "version two")
    worker.wait_said("the code has changed")
    wait_until(lambda: shop.save() == "version two", "the new code to run beside the old body")
    assert running[0].refresh().state == "running"
    gate.touch()
    worker.wait_said(ALL_NEW)
    shop.site.wait_over(running)
    assert (running[0].state, running[0].result(0), running[0].row.starts) == (
        "succeeded",
        "one",
        1,
    )
    later = [shop.save() for _ in range(4)]
    assert set(later) == {"version two"}
    assert len(worker.children()) == 2
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    shop.site.check()


def test_a_body_that_does_not_finish_in_time_is_handed_back_uncharged(shop: Shop) -> None:
    worker = shop.worker(shutdown_timeout=0.3)
    (job,), gate = shop.held(1)
    shop.site.log.wait_for("start", job)
    shop.write(MODELS, "version two")
    worker.wait_said(ALL_NEW)
    shop.site.log.wait_for("start", job, times=2)
    gate.touch()
    shop.site.wait_over([job])
    assert (job.state, job.result(0), job.row.attempts) == ("succeeded", "version two", 0)
    assert [one.cause for one in job.attempts] == ["interrupted", "returned"]
    first, second = (one.code for one in job.attempts)
    assert first != second
    worker.kill()
    shop.site.check()


def test_code_that_cannot_be_loaded_stops_nobody(shop: Shop) -> None:
    """The old children go on, it is said with its error, and the next change is tried."""
    worker = shop.worker(processes=2)
    shop.wait_loaded(2)
    assert shop.save() == "one"
    before = {child.pid for child in worker.children()}
    shop.write("def save(n:\n")
    worker.wait_said(r"the new code cannot be loaded: SyntaxError")
    assert worker.said(r"models\.py")
    assert {shop.save() for _ in range(4)} == {"one"}
    wait_until(lambda: {child.pid for child in worker.children()} == before, "the same children")
    shop.write(MODELS, "version three")
    worker.wait_said(ALL_NEW)
    assert shop.save() == "version three"
    assert worker.text().count("the new code cannot be loaded") == 1
    worker.kill()
    shop.site.check()


def test_what_is_no_change_replaces_nobody(shop: Shop) -> None:
    """Editors write files again as they were, and others beside them."""
    worker = shop.worker()
    assert shop.save() == "one"
    before = [child.pid for child in worker.children()]
    shop.write(MODELS, "one")
    (shop.site.folder / "models.py~").write_text("")
    (shop.site.folder / "notes.txt").write_text("no code")
    shop.write(MODELS, "version two")
    worker.wait_said(ALL_NEW)
    after = [child.pid for child in worker.children()]
    assert before != after
    assert worker.text().count("the code has changed") == 1
    worker.kill()


def test_code_that_changes_while_it_is_loaded(shop: Shop) -> None:
    """What a child has read is not what is there when it is done: it does not pass for new."""
    shop.write(SLOW, "one")
    worker = shop.worker(ready=False)
    loading = shop.site.folder / "loading"
    wait_until(loading.exists, "the old code to be loaded")
    shop.write(MODELS, "version two")
    (shop.site.folder / "go").touch()
    wait_until(lambda: shop.save() == "version two", "the new code to be used")
    worker.wait_said(ALL_NEW)
    job = shop.site.enqueue("back_up", 1)
    shop.site.wait_over([job])
    assert (job.attempts[0].code or "?")[-1] != "?"  # it is known for sure by then
    worker.kill()
    shop.site.check()


def test_paths_that_are_named(shop: Shop) -> None:
    """Then these are watched, whatever they hold."""
    templates = shop.site.folder / "templates"
    templates.mkdir()
    (templates / "mail.txt").write_text("hello")
    worker = shop.worker(str(templates))
    assert shop.save() == "one"
    (templates / "deeper").mkdir()
    (templates / "deeper" / "other.txt").write_text("hello")
    worker.wait_said("files have changed")
    worker.wait_said(ALL_NEW)
    shop.write(MODELS, "version two")
    (templates / "mail.txt").write_text("goodbye")
    wait_until(lambda: worker.text().count(ALL_NEW) == 2, "another replacement")
    assert shop.save() == "version two"
    worker.kill()
    shop.site.check()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_job_that_fails_on_old_code_is_handed_back_once(shop: Shop, concurrency: int) -> None:
    """Not charged, on record, and run by fresh children; on the new code it is charged."""
    shop.write(FAULTY, "one")
    worker = shop.worker(watch=False, processes=2, concurrency=concurrency)
    (running,), gate = shop.held(1)
    (other,), soon = shop.held(1)
    for one in (running, other):
        shop.site.log.wait_for("start", one)  # both children have loaded it
    shop.write(MODELS, "version two")
    soon.touch()
    job = shop.site.enqueue("back_up", 1)
    shop.site.log.wait_for("raise TypeError", job)
    worker.wait_said("a job failed on older code than is on disk")
    gate.touch()
    shop.site.wait_over([job, running])
    assert (job.state, job.result(0)) == ("succeeded", "version two")
    assert (job.row.attempts, job.row.hand_backs, job.row.starts) == (0, 1, 2)
    first, second = job.attempts
    assert (first.cause, first.error_type, first.state) == ("raised", "TypeError", "pending")
    assert first.evidence["not_charged"] is True
    assert first.evidence["newer_code"] == second.code
    assert first.code != second.code
    shop.write(FAULTY, "version three")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    shop.worker(watch=False)
    again = shop.site.enqueue("back_up", 1)
    shop.site.wait_over([again])
    assert (again.state, again.reason, again.row.attempts) == ("failed", "error", 1)
    shop.site.workers[-1].kill()
    shop.site.check()


def test_new_code_that_cannot_be_loaded_charges_the_second_failure(shop: Shop) -> None:
    """Once for each job and version of the code: no job is handed back for ever."""
    shop.write(FAULTY, "one")
    worker = shop.worker(watch=False)
    shop.wait_loaded(1)
    shop.write("def save(n:\n")
    job = shop.site.enqueue("back_up", 1)
    shop.site.wait_over([job], PATIENCE + NEWER_CODE_WITHIN)
    assert (job.state, job.reason, job.row.attempts) == ("failed", "error", 1)
    assert [one.evidence.get("not_charged") for one in job.attempts] == [True, None]
    assert worker.text().count("the new code cannot be loaded: SyntaxError") == 1
    worker.kill()
    shop.site.check()


def test_a_worker_that_nobody_can_wake_looks_for_what_was_handed_back(tmp_path: Path) -> None:
    """Where the folder's path is too long for a socket: what it has handed back itself is no news
    to it, and once its children take jobs again it must look by itself."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with open_site(f"sqlite:///{folder / 'jobs.db'}", folder) as site:
        shop = Shop(site)
        shop.write(FAULTY, "one")
        shop.worker(watch=False)
        shop.wait_loaded(1)
        shop.write("def save(n:\n")
        job = site.enqueue("back_up", 1)
        site.wait_over([job], PATIENCE + NEWER_CODE_WITHIN)
        assert [one.evidence.get("not_charged") for one in job.attempts] == [True, None]


def test_a_body_that_may_not_run_twice_does_not(shop: Shop) -> None:
    shop.write(FAULTY, "one")
    worker = shop.worker(watch=False)
    shop.wait_loaded(1)
    shop.write(MODELS, "version two")
    job = shop.site.enqueue("back_up_once", 1)
    shop.site.wait_over([job])
    assert (job.state, job.reason, job.row.starts) == ("failed", "error", 1)
    worker.wait_said(ALL_NEW)
    worker.kill()
    shop.site.check()


# -- asked for


def restart(shop: Shop, *words: str) -> subprocess.CompletedProcess[str]:
    """`failbetter restart`, as a deploy calls it."""
    return subprocess.run(
        [sys.executable, "-m", "failbetter", "--url", shop.site.url, "restart", *words],
        cwd=shop.site.folder,
        env=shop.site.environment(**PLAIN),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_every_worker_is_asked(shop: Shop) -> None:
    """Nothing is watched; all have the new code when the command says so, and lose nothing."""
    workers = [shop.worker(watch=False, processes=2), shop.worker(watch=False)]
    shop.wait_loaded(3)
    (job,), gate = shop.held(1)
    shop.site.log.wait_for("start", job)
    shop.write(MODELS, "version two")
    asked = restart(shop)
    assert (asked.returncode, asked.stdout.partition(" (")[0]) == (0, "asked to restart: 2 workers")
    gate.touch()
    done = restart(shop, "--wait", "60", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["workers"]
    assert [one["state"] for one in found] == ["done", "done"]
    assert len({one["code"] for one in found}) == 1
    assert {shop.save() for _ in range(8)} == {"version two"}
    shop.site.wait_over([job])
    assert (job.state, job.row.starts, job.row.attempts) == ("succeeded", 1, 0)
    for worker in workers:
        assert worker.alive
        worker.kill()
    shop.site.check()


def test_a_restart_that_fails_is_said(shop: Shop) -> None:
    """Not exit 0: the worker goes on with its old code, and health says so, until it can."""
    worker = shop.worker(watch=False)
    assert shop.save() == "one"
    shop.write("def save(n:\n")
    done = restart(shop, "--wait", "60")
    assert done.returncode == 1
    assert "could not load the new code and goes on with the old" in done.stdout
    assert "SyntaxError" in done.stdout
    assert shop.save() == "one"
    findings = {one.name: one for one in shop.site.app.health().findings}
    assert findings["restarts"].status == "warn"
    assert "SyntaxError" in (findings["restarts"].output or "")
    shop.write(MODELS, "version three")
    assert restart(shop, "--wait", "60").returncode == 0
    assert shop.save() == "version three"
    assert "restarts" not in {one.name for one in shop.site.app.health().findings}
    worker.kill()
    shop.site.check()


def test_one_that_takes_longer_than_is_waited(shop: Shop) -> None:
    worker = shop.worker(watch=False)
    (job,), gate = shop.held(1)
    shop.site.log.wait_for("start", job)
    done = restart(shop, "--wait", "0.5")
    assert done.returncode == 75
    assert "asked to restart: 1 worker" in done.stdout
    gate.touch()
    worker.wait_said(ALL_NEW)
    worker.kill()


def test_health_tells_of_workers_on_old_code(shop: Shop) -> None:
    """Also where nobody has asked for a restart: other code is on disk by now."""
    worker = shop.worker(watch=False)
    assert shop.save() == "one"
    shop.write(MODELS, "version two")

    def told() -> str:
        found = {one.name: one for one in shop.site.app.health().findings}
        return found["old_code"].output or "" if "old_code" in found else ""

    assert "failbetter restart" in wait_until(told, "health to tell of old code")
    assert restart(shop, "--wait", "60").returncode == 0
    wait_until(lambda: not told(), "health to be content")
    worker.kill()


@pytest.mark.parametrize("wait", [0.0, 0.3, 0.6, 1.2])
def test_killed_in_the_middle_of_it(shop: Shop, wait: float) -> None:
    """SIGKILL at some moment of the replacement: nothing is lost, run twice or left behind."""
    worker = shop.worker(processes=2, concurrency=2)
    shop.wait_loaded(2)
    running, gate = shop.held(3)
    for job in running:
        shop.site.log.wait_for("start", job)
    shop.write(MODELS, "version two")
    worker.wait_said("the code has changed")
    waiting = [shop.site.enqueue("back_up", n) for n in range(40)]
    time.sleep(wait)  # the moment is what is tested
    worker.kill()
    wait_until(lambda: not shop.site.leftovers(), "its children to be gone")
    gate.touch()
    shop.worker(watch=False, processes=2)
    shop.site.wait_over([*running, *waiting])
    assert {job.state for job in [*running, *waiting]} == {"succeeded"}
    assert {job.row.attempts for job in [*running, *waiting]} == {0}
    shop.site.workers[-1].kill()
    shop.site.check()


def test_new_code_under_load(shop: Shop) -> None:
    """Jobs come all the while, and the code changes time and again: each runs once, to its end."""
    worker = shop.worker(processes=2, concurrency=2)
    shop.wait_loaded(2)
    jobs = []
    for version in ("two", "three", "four"):
        shop.write(MODELS, f"version {version}")
        replaced = worker.text().count(ALL_NEW)
        while worker.text().count(ALL_NEW) == replaced:
            jobs += shop.site.enqueue_many("back_up", [(n,) for n in range(10)])
            shop.site.wait_over(jobs[-10:])
    assert shop.save() == "version four"
    assert {(job.state, job.row.starts) for job in jobs} == {("succeeded", 1)}
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    shop.site.check()


def test_stopped_in_the_middle_of_it(shop: Shop) -> None:
    """SIGTERM while children are replaced: exit 0, nothing left behind, nothing charged."""
    worker = shop.worker(processes=2, shutdown_timeout=0.3)
    shop.wait_loaded(2)
    running, gate = shop.held(2)
    for job in running:
        shop.site.log.wait_for("start", job)
    shop.write(MODELS, "version two")
    worker.wait_said("the code has changed")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert not shop.site.leftovers()
    gate.touch()
    shop.worker(watch=False, processes=2)
    shop.site.wait_over(running)
    assert {(job.state, job.row.attempts) for job in running} == {("succeeded", 0)}
    shop.site.workers[-1].kill()
    shop.site.check()
