"""Mirrors an owner's repositories with git: one job, which goes on where it was interrupted.

`failbetter -A tasks enqueue mirror_owner ada` asks for one; `web.py` shows how far it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import failbetter

HOME = Path(os.environ.get("MIRROR_HOME") or Path(__file__).parent / "data").absolute()
SOURCES = HOME / "sources"  # OWNER/NAME.git: what is mirrored, as if on somebody else's server
MIRRORS = HOME / "mirrors"  # OWNER/NAME.git: the mirrors

app = failbetter.App(os.environ.get("FAILBETTER_URL") or f"sqlite:///{HOME / 'jobs.db'}")

# git must not go on in the background, where it would leave this job's session and outlive it.
GIT = ("git", "-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false")


class GitFailed(Exception):
    """git said that it could not, and why."""


class InUse(Exception):
    """Another git works on this mirror."""


def owners() -> list[str]:
    """Whose repositories there are."""
    return sorted(folder.name for folder in SOURCES.glob("*") if folder.is_dir())


def repositories(owner: str) -> list[Path]:
    """The owner's repositories."""
    return sorted((SOURCES / owner).glob("*.git"))


@app.task(
    unique=lambda owner: owner,  # one run at a time of an owner: asking again finds that one
    timeout="6h",
    stalled_after="15m",  # no repository finished for so long: git hangs, and is killed
    max_crashes=20,  # it goes on where it was, so that a death costs four repositories at most
)
def mirror_owner(owner: str) -> int:
    """Mirror each repository of `owner`: how many. What earlier attempts did is left out."""
    if owner not in owners():
        raise failbetter.Fail(f"there is no owner {owner!r} in {SOURCES}")
    found = failbetter.current_job().each(
        repositories(owner),
        mirror,
        key=lambda source: source.name,
        concurrency=4,
        errors="collect",  # one bad repository does not keep the others from being mirrored
    )
    return found.done + found.skipped


def mirror(source: Path) -> None:
    """Make or update the mirror of one repository. May be killed at any moment, and run again."""
    target = MIRRORS / source.parent.name / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target) as lock:
        if target.exists():
            remove_stale_locks(target)
            git(lock, "-C", target, "remote", "update", "--prune")
        else:
            # Under its own name there is only ever a whole mirror.
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            git(lock, "clone", "--mirror", source.as_uri(), partial)
            partial.rename(target)


@contextlib.contextmanager
def only_one(target: Path) -> Iterator[BinaryIO]:
    """Have this mirror alone, or put the job off.

    What a killed attempt left running is killed before its job is handed on, so that this never
    has to wait. But it would be seen: every git inherits the lock, which is free when the last
    process of the last git is dead, whatever became of the job that started it.
    """
    with target.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise failbetter.Release(after=5) from InUse(f"another git works on {target}")
        yield lock


def remove_stale_locks(target: Path) -> None:
    """Remove the lock files that a killed git has left in its repository.

    git itself cannot know whether their owner lives. Here it is known: all that works on this
    mirror holds the lock of `only_one`, and that is ours now.
    """
    for stale in target.rglob("*.lock"):
        stale.unlink(missing_ok=True)


def git(lock: BinaryIO, *arguments: str | Path) -> None:
    """Run git to its end. Raises GitFailed."""
    done = subprocess.run(
        [*GIT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},  # there is nobody to ask for a password
        pass_fds=[lock.fileno()],
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        why = said[0] if said else f"git ended with {done.returncode}"
        raise GitFailed(why)
