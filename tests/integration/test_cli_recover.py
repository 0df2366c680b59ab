"""`failbetter recover` and `failbetter maintain`, typed as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.integration.cli_ground import Ground

APP = """
import time
import failbetter

app = failbetter.App("sqlite:///jobs.db", lease=2)

@app.task
def count(seconds: float) -> None:
    failbetter.current_job().progress(40, 100)
    open("began", "w").close()
    time.sleep(seconds)
"""


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """A folder with an app and no ledger."""
    made = Ground(tmp_path)
    made.write("shop.py", APP)
    return made


def interrupt(ground: Ground) -> str:
    """A job whose worker was killed; its id."""
    number = ground.run("-A", "shop", "enqueue", "count", "60").out.strip()
    worker = subprocess.Popen(
        [Path(sys.executable).with_name("failbetter"), "-A", "shop", "worker"],
        cwd=ground.folder,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 30
    while not (ground.folder / "began").exists() or not told(ground, number):
        assert time.monotonic() < limit, "the body does not begin"
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    return number


def told(ground: Ground, number: str) -> bool:
    """Whether the ledger knows how far the job is."""
    script = f"import shop; print(shop.app.job({number!r}).progress is not None)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ground.folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip() == "True"


def test_before_there_is_anything(ground: Ground) -> None:
    dry = ground.run("-A", "shop", "recover", "--dry-run")
    assert dry.code == 69
    assert "no ledger" in dry.complaint
    assert not (ground.folder / "jobs.db").exists()
    ran = ground.run("-A", "shop", "recover")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("nothing to recover (")
    assert (ground.folder / "jobs.db").exists()
    document = ground.run("--url", "sqlite:///jobs.db", "recover", "--json").document
    assert (document["outcome"], document["ok"], document["jobs"]) == ("nothing", True, [])
    skipped = ground.run("-A", "shop", "recover", "--skip-window", "1h")
    assert (skipped.code, skipped.out.startswith("skipped")) == (0, True)
    assert ground.run("-A", "shop", "recover", "--skip-window", "1h", "--force").code == 0


def test_what_was_interrupted(ground: Ground) -> None:
    number = interrupt(ground)
    dry = ground.run("-A", "shop", "recover", "--dry-run")
    assert dry.code == 0
    assert "dry run: 1 would be handed back" in dry.out
    ran = ground.run("-A", "shop", "recover")
    assert ran.code == 0
    assert "is gone: its supervisor died" in ran.out
    assert f"{number}  handed back  count" in ran.out
    assert "recovered: 1 handed back" in ran.out
    story = ground.run("-A", "shop", "jobs", "show", number).out
    lines = [line.strip() for line in story.splitlines()]
    assert "checkpoint: 40 of 100 done" in lines
    (host,) = [line for line in lines if line.startswith("host: ")]
    assert host == f"host: {os.uname().nodename}"
    (heard,) = [line for line in lines if line.startswith("last heard: ")]
    assert heard.removeprefix("last heard: ").startswith("20")
    assert lines.index("checkpoint: 40 of 100 done") > lines.index(host)
    assert ground.run("-A", "shop", "recover").out.startswith("nothing")


@pytest.mark.parametrize(
    "words",
    [
        ("--timeout", "soon"),
        ("--timeout", "-1"),
        ("--max-retries", "-1"),
        ("--max-retries", "many"),
        ("--skip-window", "x"),
        ("--nonsense",),
    ],
)
def test_what_cannot_be_meant(ground: Ground, words: tuple[str, ...]) -> None:
    ran = ground.run("-A", "shop", "recover", *words)
    assert ran.code == 2
    assert words[0] in ran.complaint


def test_out_of_reach(ground: Ground) -> None:
    began = time.monotonic()
    ran = ground.run("--url", "sqlite:////nowhere/jobs.db", "recover", "--max-retries", "0")
    assert (ran.code, ran.out) == (69, "")
    assert "/nowhere does not exist" in ran.complaint
    again = ground.run("--url", "sqlite:////nowhere/jobs.db", "recover", "--retry-delay", "0.2")
    assert again.code == 69
    assert "trying again in 0.2 s" in again.err
    assert time.monotonic() - began < 20


# -- maintain


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("maintain", "--json"), 2, "--log-format json"),
        (("maintain",), 2, "which ledger"),
        (("maintain", "--log-level", "loud", "--url", "sqlite:///jobs.db"), 2, "loud"),
        (("--url", "nonsense://x", "maintain"), 78, "nonsense"),
        (("-A", "nobody", "maintain"), 78, "nobody"),
        (("--url", "sqlite:////nowhere/jobs.db", "maintain", "--once"), 69, "/nowhere"),
    ],
)
def test_what_maintain_refuses(
    ground: Ground, words: tuple[str, ...], code: int, says: str
) -> None:
    ran = ground.run(*words)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_maintain_once(ground: Ground) -> None:
    number = interrupt(ground)
    ran = ground.run("-A", "shop", "maintain", "--once", "--log-format", "json")
    assert (ran.code, ran.out) == (0, "")
    messages = [json.loads(line)["message"] for line in ran.err.splitlines()]
    assert any("is gone (its supervisor died); 1 jobs" in message for message in messages)
    shown = ground.run("-A", "shop", "jobs", "show", number, "--json").document
    assert (shown["state"], shown["attempts"][0]["cause"]) == ("pending", "lost")


def test_maintain_until_told_to_stop(ground: Ground) -> None:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("failbetter"), "-A", "shop", "maintain"],
        cwd=ground.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "maintaining as" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "stopping" in said
    assert "Traceback" not in said
