"""The user's code that a process has loaded: its fingerprint, and whether it is on disk still."""

from __future__ import annotations

import contextlib
import hashlib
import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

File = tuple[str, str]
"""A name (a module's, or the path itself) and a path."""
UNSURE = "?"
"""Ends the fingerprint of files that have changed while they were loaded."""

# Seconds by which the clock that files are stamped with may be late.
_COARSE = 0.02
Stamps = list[tuple[int, int, int] | None]


class LoadedCode:
    """Files that this process has loaded, known by the fingerprint that they have now.

    `since`: when it began to load them (s since the epoch); those that have changed meanwhile may
    have been loaded before that. But not if `seen`, the fingerprint at some time before, is theirs.
    """

    def __init__(
        self, files: Sequence[File], since: float = float("inf"), seen: str | None = None
    ) -> None:
        self.files = list(files)
        self._seen = stamps(path for _, path in self.files)
        self.fingerprint = fingerprint_of(self.files)
        self.is_sure = self.fingerprint == seen or not self._changed_since(since)
        self._newer = None if self.is_sure else self.fingerprint

    @property
    def name(self) -> str:
        """The fingerprint as others are told of it: it says so when that is not known for sure."""
        return self.fingerprint if self.is_sure else self.fingerprint + UNSURE

    def newer(self) -> str | None:
        """The fingerprint of what is on disk now, if it is another; None: it is the same.

        Reads nothing but the files' times and sizes as long as these are the same.
        """
        seen = stamps(path for _, path in self.files)
        if seen != self._seen:
            found = fingerprint_of(self.files)
            same = self.is_sure and found == self.fingerprint
            self._seen, self._newer = seen, None if same else found
        return self._newer

    def _changed_since(self, since: float) -> bool:
        now = time.time()
        for _, path in self.files:
            with contextlib.suppress(OSError):
                # Also a file that was put in the place of another.
                if since - _COARSE <= os.stat(path).st_ctime <= now:
                    return True
        return False


def own_files(own: set[str]) -> list[File]:
    """The source of every loaded module that is neither installed nor Python's own.

    Top-level packages named in `own` count even if they are installed: an application may be.
    """
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    foreign += [*site.getsitepackages(), str(Path(__file__).parents[1])]
    prefixes = tuple(str(Path(path).resolve()) + "/" for path in foreign if path)
    files = []
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        is_own = name.partition(".")[0] in own or not str(path).startswith(prefixes)
        if is_own and path.is_file():
            # Not resolved: a link may lead elsewhere after a deploy.
            files.append((name, os.path.abspath(file)))
    return files


def fingerprint_of(files: Iterable[File]) -> str:
    """A hash over names and contents. Files that are not there, or cannot be read, are left out."""
    digest = hashlib.sha256()
    for name, path in files:
        try:
            content = Path(path).read_bytes()
        except OSError:
            continue
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:12]


def stamps(paths: Iterable[str]) -> Stamps:
    """What tells cheaply whether files may have changed; None for one that is not there."""
    found: Stamps = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return found
