"""`failbetter restart`: what changed between two revisions, and what it says and exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.kit import Ledger

import failbetter
from failbetter.cli.changed import matches, matching

ZEROS = "0" * 40


class Repository:
    """A git repository with a ledger in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
            "FAILBETTER_URL": "sqlite:///jobs.db",
        }
        for name in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{name}_NAME": "a", f"GIT_{name}_EMAIL": "a@example.org"}
        self.app = failbetter.App(f"sqlite:///{folder / 'jobs.db'}")
        self.app.migrate()

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

    def commit(self, *names: str) -> str:
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.exists() and path.read_text()}.")
            self.git("add", name)
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def restart(self, *words: str, folder: str = ".", **more: str) -> tuple[int, str, str]:
        done = self.run("restart", *words, folder=folder, **more)
        return done.returncode, done.stdout, done.stderr

    def run(self, *words: str, folder: str = ".", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "failbetter", *words],
            cwd=self.folder / folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path)
    made.git("init", "-q")
    yield made
    made.app.close()


def changed(repository: Repository, *words: str, **more: str) -> list[str]:
    code, out, err = repository.restart("--json", *words, **more)
    assert code == 0, err
    found: list[str] = json.loads(out)["changed"]
    return found


def test_all_commits_of_a_deploy_count(there: Repository) -> None:
    """C4: not the last one alone."""
    first = there.commit("models.py", "shop/views.py", "README")
    there.commit("shop/models.py")
    there.commit("README")
    last = there.commit("ünïcode file.py")
    span = f"{first}..{last}"
    assert changed(there, "--if-changed", span) == [
        "README",
        "shop/models.py",
        "ünïcode file.py",
    ]
    assert changed(there, "--if-changed", span, "--path", "models.py") == ["shop/models.py"]
    assert changed(there, "--if-changed", span, "--path", "views.py") == []
    url = f"sqlite:///{there.folder / 'jobs.db'}"
    both = ("--path", "views.py", "--path", "shop/*")
    assert changed(there, "--if-changed", span, *both) == ["shop/models.py"]
    assert changed(there, "--if-changed", "HEAD~1..HEAD", "--path", "*.py") == ["ünïcode file.py"]
    # From a folder deeper down, paths are still from the root.
    deeper = there.restart("--if-changed", span, *both, "--json", folder="shop", FAILBETTER_URL=url)
    assert json.loads(deeper[1])["changed"] == ["shop/models.py"]


def test_a_file_that_was_moved_or_removed_has_changed(there: Repository) -> None:
    first = there.commit("models.py", "old.py")
    there.git("mv", "models.py", "records.py")
    there.git("rm", "-q", "old.py")
    there.commit()
    found = changed(there, "--if-changed", f"{first}..HEAD")
    assert found == ["models.py", "old.py", "records.py"]


def test_a_new_branch(there: Repository) -> None:
    there.commit("models.py")
    there.commit("README")
    assert changed(there, "--if-changed", f"{ZEROS}..HEAD") == ["README", "models.py"]


def test_nothing_to_do(there: Repository) -> None:
    """Exit 0, without even a ledger to ask."""
    there.commit("models.py")
    there.commit("README")
    for words, says in (
        (["--if-changed", "HEAD..HEAD"], "nothing to do: no file changed in HEAD..HEAD\n"),
        (
            ["--if-changed", "HEAD~1..HEAD", "--path", "*.py"],
            "nothing to do: of 1 file that changed in HEAD~1..HEAD, none fits --path\n",
        ),
    ):
        assert there.restart(*words, FAILBETTER_URL="sqlite:////none/jobs.db") == (0, says, "")


@pytest.mark.parametrize("revisions", ["HEAD~9..HEAD", "nowhere..HEAD", f"HEAD..{ZEROS}"])
def test_revisions_that_are_not_known(there: Repository, revisions: str) -> None:
    there.commit("models.py")
    code, out, err = there.restart("--if-changed", revisions)
    assert (code, out) == (66, "")
    assert err.startswith("failbetter: whether anything changed cannot be told: ")
    assert err.count("\n") == 1


def test_where_there_is_no_repository(tmp_path: Path) -> None:
    place = Repository(tmp_path)
    code, _, err = place.restart("--if-changed", "a..b")
    assert code == 66
    assert "not a git repository" in err
    assert err.endswith("without --if-changed all are\n")
    code, _, err = place.restart("--if-changed", "a..b", PATH=str(tmp_path))
    assert code == 66
    assert "git cannot be run" in err
    place.app.close()


@pytest.mark.parametrize(
    "words",
    [
        ["--path", "models.py"],
        ["--if-changed", "HEAD"],
        ["--if-changed", "HEAD.."],
        ["--if-changed", "a...b"],
        ["--if-changed", "--output=x..b"],
        ["--wait", "soon"],
    ],
)
def test_wrong_usage(there: Repository, words: list[str]) -> None:
    code, out, err = there.restart(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models.py"], "a worker takes paths with --restart-on-change only"),
        (["--restart-on-change", "nowhere"], "there is nothing at 'nowhere'"),
    ],
)
def test_what_a_worker_cannot_watch(there: Repository, words: list[str], says: str) -> None:
    done = there.run("worker", "-A", "shop", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_worker_that_watches(there: Repository) -> None:
    """The command's own words: with paths, and without."""
    (there.folder / "shop.py").write_text("import failbetter\n\napp = failbetter.App()\n")
    (there.folder / "templates").mkdir()
    for words in (["--restart-on-change"], ["--restart-on-change", "templates", "shop.py"]):
        done = there.run("worker", "-A", "shop", "--drain", *words)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("models.py", "models.py", True),
        ("shop/deep/models.py", "models.py", True),
        ("shop/my_models.py", "models.py", False),
        ("shop/my_models.py", "*models.py", True),
        ("shop/models.py", "shop/*.py", True),
        ("shop/deep/models.py", "shop/*.py", True),
        ("other/shop/models.py", "shop/*.py", False),
        ("shop/models.py", "./shop/models.py", True),
        ("shop/models.py", "/shop/models.py", True),
        ("templates/mail/a.txt", "templates/", True),
        ("my/templates/a.txt", "templates/", False),
        ("models.PY", "models.py", False),
        ("a[1].py", "a[[]1].py", True),
    ],
)
def test_patterns(path: str, pattern: str, fits: bool) -> None:
    assert matches(path, pattern) is fits


def test_without_patterns_every_file_counts() -> None:
    assert matching(["a", "b/c"], []) == ["a", "b/c"]


def test_which_workers_are_asked(there: Repository) -> None:
    """Those that live; of those in another system's process it is said."""
    code, out, err = there.restart()
    assert (code, err) == (0, "")
    assert out.startswith("no worker runs: nothing to restart")
    ledger = Ledger(there.app.database)
    now = there.app.database.now()
    alive = {"renewed_at": now, "lease": 60_000_000}
    ledger.register(1, **alive)
    ledger.register(2, **alive, engine="rq")
    ledger.register(3, **alive, stopping=1)
    ledger.register(4, renewed_at=now - 9_000_000, lease=2_000_000)
    code, out, err = there.restart()
    assert (code, err) == (0, "")
    assert out == (
        "asked to restart: 1 worker (worker-1)\n"
        "not ours to restart: it runs in another system's process: 1 worker (worker-2)\n"
    )
    asked = {worker.id: worker.restart_at for worker in ledger.workers()}
    assert [number for number, at in asked.items() if at is not None] == [1]
    code, out, _ = there.restart("--wait", "0.1", "--json")
    assert code == 75
    assert [one["state"] for one in json.loads(out)["workers"]] == ["asked", "not_ours"]


def test_a_ledger_that_is_not_there(there: Repository) -> None:
    code, out, _ = there.restart(FAILBETTER_URL="sqlite:///none.db")
    assert (code, out) == (69, "")
