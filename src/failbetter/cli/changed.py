"""Which files of a git repository differ between two revisions."""

from __future__ import annotations

import fnmatch
import os
import subprocess
from collections.abc import Sequence

from failbetter.cli.problems import NoInput, WrongUsage

# Seconds that git may take.
_PATIENCE = 60


def changed_files(revisions: str) -> list[str]:
    """The files, from the repository's root, that differ between `OLD..NEW`, in name order.

    In the repository of the current directory. However many commits lie between the two; a file
    that was moved counts with both of its names. Of an OLD of zeros, as a hook is given for a new
    branch, every file differs. Raises NoInput when git cannot tell.
    """
    old, dots, new = revisions.partition("..")
    if not (old and dots and new) or new.startswith(".") or "-" in (old[0], new[0]):
        raise WrongUsage(f"--if-changed takes OLD..NEW, two revisions, not {revisions!r}")
    before = _empty() if not old.strip("0") else _commit(old)
    found = _git("diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", before, _commit(new))
    return sorted(path for path in found.split("\0") if path)


def matches(path: str, pattern: str) -> bool:
    """Whether a path from the root fits: without a slash, a name in any folder.

    `*` stands for anything, slashes too. A pattern that ends in a slash means all in that folder.
    """
    if pattern.endswith("/"):
        pattern += "*"
    if "/" not in pattern:
        path = path.rpartition("/")[2]
    return fnmatch.fnmatchcase(path, pattern.removeprefix("./").removeprefix("/"))


def matching(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The paths that fit any of the patterns; all of them where there is none."""
    if not patterns:
        return list(paths)
    return [path for path in paths if any(matches(path, pattern) for pattern in patterns)]


def _commit(revision: str) -> str:
    return _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()


def _empty() -> str:
    """The tree without files, as this repository names it."""
    return _git("hash-object", "-t", "tree", "--stdin").strip()


def _git(*words: str) -> str:
    # In the language that is passed on to logs; a diff changes nothing, and locks nothing.
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoInput(_unknown(f"git cannot be run ({error})")) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NoInput(_unknown(said[0] if said else f"git ended with {done.returncode}"))
    return done.stdout.decode(errors="surrogateescape")


def _unknown(why: str) -> str:
    return (
        f"whether anything changed cannot be told: {why.removeprefix('fatal: ')}. No worker was"
        " asked to restart; without --if-changed all are"
    )
