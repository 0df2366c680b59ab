"""examples/backup_worker as its README says, and all that is done to it. C1 to C8.

Everything is real: MariaDB, Redis, RQ's worker, tar, mariadb-dump, the page. After each fault the
customer's row tells the truth within the time that the README states.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults.harness import PATIENCE, ROOT, wait_until
from tests.servers.mariadb import MariaDBServer
from tests.servers.redis import RedisServer

import failbetter

EXAMPLE = ROOT / "examples" / "backup_worker"
LEASE = 3
# Stands before tar, so that there is time to kill something: it waits as long as the file is there.
SLOW = """#!/bin/sh
while [ -e {gate} ]; do sleep 0.05; done
exec {tar} "$@"
"""


class Panel:
    """The example in a folder of its own, with servers of its own."""

    def __init__(self, folder: Path, maria: MariaDBServer, redis: RedisServer) -> None:
        self.folder, self.maria, self.redis = folder, maria, redis
        self.code = folder / "panel"
        shutil.copytree(EXAMPLE, self.code, ignore=shutil.ignore_patterns("__pycache__"))
        self.store = folder / "store"
        self.gate = folder / "gate"
        programs = folder / "bin"
        programs.mkdir()
        (programs / "tar").write_text(SLOW.format(gate=self.gate, tar=shutil.which("tar")))
        (programs / "tar").chmod(0o755)
        self.url = maria.new_database("panel")
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.code),
            "FAILBETTER_APP": "backups:app",
            "FAILBETTER_LEASE": str(LEASE),
            "FAILBETTER_FLEET_FOLDER": str(folder / "fleet"),
            "PANEL_DATABASE": self.url,
            "REDIS_URL": redis.url,
            "BACKUP_STORE": str(self.store),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        for statement in (self.code / "schema.sql").read_text().split(";"):
            if statement.strip():
                self.sql(statement)
        self.app = failbetter.App(self.url, fleet_folder=folder / "fleet", lease=LEASE)
        self.app.migrate()

    def sql(self, statement: str, *values: object) -> list[Any]:
        return self.maria.ask(statement, *values, database="panel")

    def customer(self, name: str) -> str:
        home = self.folder / "homes" / name
        home.mkdir(parents=True)
        (home / "index.html").write_text(f"the page of {name}")
        (home / "database.sql").write_text("the customer's own")
        self.maria.new_database(name)
        self.maria.ask("CREATE TABLE posts (text VARCHAR(60))", database=name)
        self.maria.ask("INSERT INTO posts VALUES ('hello')", database=name)
        self.sql("INSERT INTO customers VALUES (%s, %s, %s)", name, str(home), name)
        return name

    # -- processes

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.code,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self) -> psutil.Process:
        url = self.redis.url
        options = ["worker", "--url", url, "-w", "failbetter.rq.Worker", "backups"]
        return psutil.Process(self._start("rq", *options).pid)

    def maintain(self) -> None:
        self._start("failbetter", "maintain")

    def ask(self, customer: str) -> None:
        """Press the button of the customer's page."""
        code = (
            "import sys; from panel import site;"
            f"found = site.test_client().post('/customers/{customer}/backups');"
            "sys.exit(0 if found.status_code == 303 else found.status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            cwd=self.code,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0

    def page(self, customer: str) -> str:
        code = (
            "from panel import site;"
            f"print(site.test_client().get('/customers/{customer}').get_data(as_text=True))"
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            cwd=self.code,
            timeout=PATIENCE,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout.decode()

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.app.close()

    # -- what is so

    def status(self, customer: str) -> str:
        rows = self.sql("SELECT status FROM customer_backup_jobs WHERE customer = %s", customer)
        return rows[0][0] if rows else "none"

    def wait_for(self, customer: str, status: str) -> None:
        wait_until(lambda: self.status(customer) == status, f"{customer} to be {status}")

    def job(self, customer: str) -> failbetter.Job:
        return next(iter(self.app.jobs.where(task="backup", args={"customer": customer})))

    def agrees(self, customer: str) -> bool:
        """Whether the row says what the ledger says."""
        state = self.job(customer).state
        says = {"succeeded": "completed", "discarded": "failed"}.get(state, state)
        return self.status(customer) == says

    def archive(self, customer: str) -> list[str]:
        """What is in the customer's one archive."""
        (found,) = (self.store / customer).glob("*.tar.gz")
        with tarfile.open(found) as archive:
            return sorted(name.removeprefix("./") for name in archive.getnames())


@pytest.fixture(scope="module")
def maria() -> Iterator[MariaDBServer]:
    server = MariaDBServer.start()
    yield server
    server.close()


@pytest.fixture
def panel(tmp_path: Path, maria: MariaDBServer) -> Iterator[Panel]:
    redis = RedisServer.start()
    made = Panel(tmp_path, maria, redis)
    try:
        yield made
    finally:
        made.close()
        redis.close()
        for (name,) in maria.ask("SHOW DATABASES"):
            if name == "panel" or name.startswith("ada"):
                maria.drop_database(name)


def horse_of(worker: psutil.Process) -> psutil.Process:
    def find() -> psutil.Process | None:
        return next(iter(worker.children()), None)

    return wait_until(find, "a work horse")


def family_of(worker: psutil.Process) -> list[psutil.Process]:
    """The worker, its horse and what that runs; not the sleeps of the gate, which come and go."""
    return [one for one in [*worker.children(recursive=True), worker] if lasts(one)]


def lasts(process: psutil.Process) -> bool:
    try:
        return process.name() != "sleep"
    except psutil.NoSuchProcess:
        return False


def test_a_backup_is_made_and_put_back(panel: Panel) -> None:
    """C1, C7: the row follows, and asking twice is asking once."""
    ada = panel.customer("ada")
    panel.maintain()
    panel.ask(ada)
    panel.ask(ada)
    assert panel.app.jobs.where(task="backup").count() == 1
    assert panel.status(ada) == "pending"
    panel.worker()
    panel.wait_for(ada, "completed")
    assert {"ada/index.html", "database.sql"} <= set(panel.archive(ada))
    page = panel.page(ada)
    assert "Your last backup is complete" in page
    assert "refresh" not in page
    # And back again, by hand.
    home = panel.folder / "homes" / ada
    (home / "index.html").unlink()
    panel.maria.ask("DELETE FROM posts", database=ada)
    (archive,) = (panel.store / ada).glob("*.tar.gz")
    done = panel._start("failbetter", "enqueue", "restore", ada, archive.name)
    assert done.wait(PATIENCE) == 0
    wait_until(lambda: panel.app.jobs.where(task="restore", state="succeeded").count(), "restored")
    assert (home / "index.html").read_text() == "the page of ada"
    assert (home / "database.sql").read_text() == "the customer's own"
    assert panel.maria.ask("SELECT text FROM posts", database=ada) == [("hello",)]


def test_a_changed_model_is_told_without_its_insides(panel: Panel) -> None:
    """C2, C5: the body fails before its first line; the customer is told so, and no more."""
    ada = panel.customer("ada")
    models = panel.code / "models.py"
    models.write_text(models.read_text().replace("home: str", "home_folder: str"))
    code = panel.code / "backups.py"
    code.write_text(code.read_text().replace("exponential(2, cap=60)", "fixed(0)"))
    panel.maintain()
    with panel.app.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO customer_backup_jobs (customer, status, requested_at)"
            " VALUES ('ada', 'pending', NOW())"
        )
    done = panel._start("failbetter", "enqueue", "backup", ada)
    assert done.wait(PATIENCE) == 0
    panel.worker()
    panel.wait_for(ada, "failed")
    job = panel.job(ada)
    assert (job.reason, len(job.attempts)) == ("error", 3)
    assert "TypeError" in (job.attempts[-1].error_type or "")
    ((said,),) = panel.sql("SELECT error_message FROM customer_backup_jobs")
    assert job.id in said
    assert "TypeError" not in said
    assert "home" not in said


def test_a_killed_work_horse_is_seen_and_its_backup_made(panel: Panel) -> None:
    """C2: whom RQ's callback is never called for."""
    ada = panel.customer("ada")
    panel.gate.touch()
    panel.maintain()
    worker = panel.worker()
    panel.ask(ada)
    panel.wait_for(ada, "running")
    horse = horse_of(worker)
    horse.kill()
    wait_until(lambda: panel.job(ada).attempts, "the crash to be told")
    (attempt, *_) = panel.job(ada).attempts
    assert attempt.cause == "crashed"
    assert attempt.evidence["signal"] == signal.SIGKILL
    panel.gate.unlink()
    panel.wait_for(ada, "completed")
    assert {"ada/index.html", "database.sql"} <= set(panel.archive(ada))


def test_a_killed_control_group_is_handed_back(panel: Panel) -> None:
    ada = panel.customer("ada")
    panel.gate.touch()
    panel.maintain()
    worker = panel.worker()
    panel.ask(ada)
    panel.wait_for(ada, "running")
    for process in family_of(worker):
        process.kill()
    wait_until(lambda: panel.job(ada).attempts, "the loss to be told")
    assert panel.agrees(ada)
    assert panel.job(ada).attempts[0].cause in ("lost", "crashed")
    panel.gate.unlink()
    panel.worker()
    panel.wait_for(ada, "completed")


def test_redis_down_at_enqueue_costs_nothing_but_time(panel: Panel) -> None:
    """C6: the row does not block the customer for ever."""
    ada = panel.customer("ada")
    panel.maintain()
    panel.redis.kill()
    panel.ask(ada)
    assert panel.status(ada) == "pending"
    panel.redis.start_again()
    panel.worker()
    panel.wait_for(ada, "completed")


def test_redis_forgets_everything(panel: Panel) -> None:
    ada = panel.customer("ada")
    panel.maintain()
    panel.ask(ada)
    with panel.redis.connect() as redis:
        wait_until(lambda: redis.keys("rq:job:*"), "the job to be in Redis")
    panel.redis.flush()
    assert panel.status(ada) == "pending"
    panel.worker()
    panel.wait_for(ada, "completed")


def test_mariadb_restarted_in_the_midst(panel: Panel) -> None:
    ada = panel.customer("ada")
    panel.gate.touch()
    panel.maintain()
    panel.worker()
    panel.ask(ada)
    panel.wait_for(ada, "running")
    panel.maria.restart("immediate")
    panel.gate.unlink()
    panel.wait_for(ada, "completed")
    assert panel.agrees(ada)


def test_a_frozen_worker_is_not_believed_dead_and_nothing_runs_twice(panel: Panel) -> None:
    """Frozen past its lease: its lock is held, so that it lives; thawed, it goes on."""
    ada = panel.customer("ada")
    panel.gate.touch()
    panel.maintain()
    worker = panel.worker()
    panel.ask(ada)
    panel.wait_for(ada, "running")
    frozen = family_of(worker)
    for process in frozen:
        process.suspend()
    time.sleep(LEASE + 1)
    assert "no news" in panel.page(ada) or "lease" in panel.page(ada)
    panel.gate.unlink()
    for process in frozen:
        process.resume()
    panel.wait_for(ada, "completed")
    assert len(panel.job(ada).attempts) == 1
