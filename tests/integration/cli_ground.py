"""What the tests of the command line stand on: the command itself, and a ledger with a past."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOP = """
import datetime, os
import failbetter

app = failbetter.App()

@app.task
def good(n: int) -> dict[str, int]:
    return {"n": n}

@app.task(max_attempts=2, backoff=0, queue="images", redact=("token",), tags=("billing",))
def deep(path: str, token: str) -> None:
    def inner(left: int) -> None:
        if left:
            inner(left - 1)
        raise ConnectionError(f"cannot read {path} with {token}\\n\\x1b[31m[bold] at http://bob:pw@h/")
    inner(8)

@app.task(max_attempts=1)
def boom(n: int) -> None:
    raise ValueError(f"boom {n}")

@app.task(max_crashes=1)
def poison() -> None:
    os.kill(os.getpid(), 9)

@app.task(max_attempts=1)
def charge() -> None:
    job = failbetter.current_job()
    job.once("sent", lambda: {"to": "bob"})
    job.once("charged", lambda: 1 / 0)

@app.task(unique=lambda key: key)
def only(key: str) -> None:
    pass

@app.task
def when(at: datetime.datetime, *rest: int, **named: str) -> None:
    pass

@app.task
def list_of(numbers: list[int]) -> None:
    failbetter.current_job().each(numbers, lambda n: 1 // n, errors="collect")

@app.task
def talk() -> None:
    log = failbetter.current_job().log
    log.info("in passing")
    log.error("in earnest")

@app.task(unique=lambda n: 1 // n)
def touchy(n: int) -> None:
    pass
"""


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its output as the one JSON document it has to be."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line that it complained in."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("failbetter: "), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("failbetter: ").rstrip("\n")


@dataclass(frozen=True)
class Ground:
    """A folder to type commands in."""

    folder: Path

    def run(self, *words: str, stdin: str = "", timeout: float = 60, **environment: str) -> Ran:
        """Run `failbetter` here, with nothing but `environment` set for it."""
        base = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        done = subprocess.run(
            [str(Path(sys.executable).with_name("failbetter")), *words],
            cwd=self.folder,
            env={**base, "TZ": "UTC", **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def shop(self, *words: str, stdin: str = "", timeout: float = 60) -> Ran:
        """Run `failbetter` with the app of this folder and its ledger."""
        settings = {"FAILBETTER_APP": "shop:app", "FAILBETTER_URL": "sqlite:///jobs.db"}
        return self.run(*words, stdin=stdin, timeout=timeout, **settings)

    def write(self, name: str, text: str) -> None:
        """Write a file in the folder."""
        (self.folder / name).write_text(text, "utf-8")

    def ids(self, *words: str) -> list[str]:
        """The ids of the jobs that `jobs list` finds."""
        return [job["id"] for job in self.shop("jobs", "list", "--json", *words).document["jobs"]]


def with_a_past(folder: Path) -> Ground:
    """An app whose jobs a worker has run."""
    ground = Ground(folder)
    ground.write("shop.py", SHOP)
    made = """
import shop
shop.good.enqueue(7)
shop.deep.enqueue("cat.png", "s3cret")
shop.boom.enqueue_many([(1,), (2,), (3,)])
shop.poison.enqueue()
shop.charge.enqueue()
"""
    subprocess.run(
        [sys.executable, "-c", made],
        cwd=ground.folder,
        env={**os.environ, "FAILBETTER_URL": "sqlite:///jobs.db", "PYTHONPATH": "."},
        check=True,
        timeout=60,
    )
    ran = ground.shop("worker", "--drain", "--processes", "1", "--log-format", "json")
    assert (ran.code, ran.out) == (0, ""), ran.err
    for line in ran.err.splitlines():
        json.loads(line)
    return ground
