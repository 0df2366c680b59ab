"""C4, C8: the hook of examples/deploy after real deploys: a git repository and a running worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.sites import PATIENCE, wait_until

import failbetter

HOOK = Path(__file__).parents[2] / "examples" / "deploy" / "post-deploy.sh"
SHOP = """
import failbetter
import models

app = failbetter.App("sqlite:///jobs.db")

@app.task(max_attempts=1)
def save(n: int) -> str:
    return models.VERSION
"""


class Checkout:
    """A repository that is deployed by committing in it, and its worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "shop",
            "GIT_AUTHOR_EMAIL": "shop@example.org",
            "GIT_COMMITTER_NAME": "shop",
            "GIT_COMMITTER_EMAIL": "shop@example.org",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FAILBETTER_APP": "shop",
            "FAILBETTER_RESTART_PATHS": "models.py templates/",
        }
        self.git("init", "-q")
        (folder / ".gitignore").write_text("jobs.db*\nworker.log\n")
        self.commit({"shop.py": SHOP, "models.py": 'VERSION = "one"\n'})
        self.app = failbetter.App(f"sqlite:///{folder / 'jobs.db'}")
        self.save = self.app.task(name="save", max_attempts=1)(lambda n: None)
        self.log = folder / "worker.log"
        self.worker: subprocess.Popen[bytes] | None = None

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def start_worker(self) -> None:
        with self.log.open("wb") as sink:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", "failbetter", "worker"],
                cwd=self.folder,
                env=self.environment,
                stderr=sink,
            )
        assert self.version() == "one"

    def version(self) -> str:
        """Of the code that the worker runs."""
        job = self.save.enqueue(1)
        return str(job.result(PATIENCE))

    def replaced(self) -> int:
        """How often the worker was asked to go on with other code."""
        return self.log.read_text().count("a restart was asked for")

    def hook(self, *revisions: str, **more: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["/bin/sh", str(HOOK), *revisions],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    yield made
    made.app.close()
    if made.worker is not None:
        made.worker.kill()
        made.worker.wait()


def test_deploys(checkout: Checkout) -> None:
    """The worker runs new code when the hook says so, and only then; no process of it is ended."""
    first = checkout.git("rev-parse", "HEAD")
    checkout.start_worker()
    # Several commits, of which the last is not the one that matters.
    checkout.commit({"models.py": 'VERSION = "version two"\n'})
    checkout.commit({"README": "what it is"})
    code, out, err = checkout.hook(first)
    assert (code, err) == (0, "")
    assert out.startswith("1 file changed: models.py\nrestarted: 1 worker (")
    assert checkout.version() == "version two"

    checkout.commit({"README": "what it was"})
    assert checkout.hook()[:2] == (
        0,
        "nothing to do: of 1 file that changed in"
        f" {checkout.git('rev-parse', 'HEAD~1')}..{checkout.git('rev-parse', 'HEAD')},"
        " none fits --path\n",
    )
    assert checkout.replaced() == 1

    # What cannot be loaded: no exit 0, and the next deploy has it in mind.
    checkout.commit({"models.py": "VERSION = \n"})
    away = {"FAILBETTER_APP": "", "FAILBETTER_URL": "sqlite:///jobs.db"}
    code, out, err = checkout.hook(**away)
    assert code == 1
    assert "SyntaxError" in out
    assert "could not load the new code" in err
    assert checkout.version() == "version two"
    checkout.commit({"models.py": 'VERSION = "version three"\n'})
    checkout.commit({"README": "what it will be"})
    assert checkout.hook()[0] == 0
    assert checkout.version() == "version three"

    # Where it cannot be told what changed, it is not assumed that nothing did.
    code, out, err = checkout.hook("0123456789abcdef0123456789abcdef01234567")
    assert code == 0
    assert "all workers are restarted" in err
    assert "restarted: 1 worker" in out
    assert checkout.replaced() == 4

    assert checkout.worker is not None
    assert checkout.worker.poll() is None
    checkout.worker.send_signal(signal.SIGTERM)
    assert checkout.worker.wait(PATIENCE) == 0
    assert {job.row.starts for job in checkout.app.jobs} == {1}


def test_app_that_cannot_be_imported(checkout: Checkout) -> None:
    """Then the command itself says so, and the running worker is not touched."""
    checkout.start_worker()
    checkout.commit({"models.py": "VERSION = \n"})
    code, _, err = checkout.hook("HEAD~1")
    assert code == 78
    assert "cannot be imported: SyntaxError" in err
    assert checkout.replaced() == 0
    assert checkout.version() == "one"


def test_as_a_git_hook(checkout: Checkout, tmp_path: Path) -> None:
    """`git pull` of many commits calls it."""
    checkout.start_worker()
    other = tmp_path / "other"
    checkout.git("clone", "-q", ".", str(other))
    (other / "templates").mkdir()
    (other / "templates" / "mail.txt").write_text("hello")
    for words in (["add", "-A"], ["commit", "-q", "-m", "a template"]):
        checkout.git("-C", str(other), *words)
    (other / "README").write_text("what it is")
    for words in (["add", "-A"], ["commit", "-q", "-m", "words"]):
        checkout.git("-C", str(other), *words)
    hooks = checkout.folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "post-merge").symlink_to(HOOK)
    checkout.git("pull", "-q", "--ff-only", str(other), "HEAD")
    wait_until(lambda: checkout.replaced() == 1, "the hook to have the worker asked")
    noted = (checkout.folder / ".git" / "failbetter-deployed").read_text().strip()
    assert noted == checkout.git("rev-parse", "HEAD")


def test_nothing_to_deploy(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", str(HOOK)],
        cwd=tmp_path,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 66
