"""Makes real git repositories to mirror: `python make_repositories.py`.

What is there is left alone, so that it may be run again. `--change` adds a commit and a branch to
each, and removes a branch: work for the next mirror run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks import SOURCES

OWNERS = ("ada", "grace")
AUTHOR = b"Ada <ada@example.org>"
EPOCH = 1_700_000_000


def names(count: int) -> Iterator[Path]:
    """So many repositories, shared out among the owners."""
    for number in range(count):
        owner = OWNERS[number % len(OWNERS)]
        yield SOURCES / owner / f"paper-{number // len(OWNERS) + 1:02}.git"


def git(repository: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Run git in the repository; what it printed."""
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout.decode()


def commit(branch: str, message: str, content: bytes, *, onto: str = "", at: int = EPOCH) -> bytes:
    """A commit that sets one file, as `git fast-import` takes it."""
    said = message.encode()
    parts = [
        b"commit refs/heads/%s\n" % branch.encode(),
        b"committer %s %d +0000\n" % (AUTHOR, at),
        b"data %d\n%s\n" % (len(said), said),
        b"from %s\n" % onto.encode() if onto else b"",
        b"M 100644 inline %s.txt\n" % said.replace(b" ", b"-"),
        b"data %d\n%s\n" % (len(content), content),
    ]
    return b"".join(parts)


def make(repository: Path, kilobytes: int) -> None:
    """A repository with a few commits, branches and tags. Under its name only when it is whole."""
    rng = random.Random(repository.name)
    stream = b"".join(
        commit("main", f"draft {n}", rng.randbytes(kilobytes * 256), at=EPOCH + n) for n in range(4)
    )
    for branch in ("notes", "old"):
        stream += commit(branch, branch, rng.randbytes(500), onto="refs/heads/main")
    stream += b"reset refs/tags/v1\nfrom refs/heads/main\n\n"
    partial = repository.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    git(partial, "init", "--quiet", "--bare", "--initial-branch=main")
    git(partial, "fast-import", "--quiet", stdin=stream)
    partial.rename(repository)


def change(repository: Path) -> None:
    """What happens to a repository in a day: a commit, a new branch, a branch that goes."""
    count = int(git(repository, "rev-list", "--count", "main"))
    message = f"draft {count}"
    more = commit("main", message, message.encode(), onto="refs/heads/main^0", at=EPOCH + count)
    more += b"reset refs/heads/idea-%d\nfrom refs/heads/main\n\n" % count
    git(repository, "fast-import", "--quiet", stdin=more)
    git(repository, "update-ref", "-d", "refs/heads/old")


def main() -> None:
    """Make what is missing, or change what is there."""
    parser = argparse.ArgumentParser(description="Makes real git repositories to mirror.")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--kilobytes", type=int, default=200, help="of each, about")
    parser.add_argument("--change", action="store_true", help="change each of those there are")
    given = parser.parse_args()
    found = sorted(SOURCES.glob("*/*.git"))
    missing = [] if given.change else [one for one in names(given.count) if one not in found]
    for repository in missing:
        make(repository, given.kilobytes)
    for repository in found if given.change else ():
        change(repository)
    did = f"changed {len(found)}" if given.change else f"made {len(missing)}"
    sys.stdout.write(f"{did} repositories in {SOURCES}\n")


if __name__ == "__main__":
    main()
