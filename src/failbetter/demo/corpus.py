"""Which real files the demo backs up: a bounded choice, the same for the same seed."""

from __future__ import annotations

import os
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

MOST_FILES = 240
MOST_BYTES = 6_000_000
LARGEST_FILE = 400_000
MOST_SEEN = 20_000  # a home directory must not take minutes to look through

# Caches and installed packages are no part of the standard library; its tests hold files that
# are broken on purpose, which would confuse whoever looks into the store afterwards.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})


class NothingToBackUp(Exception):
    """The folder is missing, unreadable or holds no file that the demo can take."""


@dataclass(frozen=True)
class Corpus:
    """The files of one demo: `files` maps each name below `folder` to its size in bytes.

    `seen` counts what there was to choose from; `title` is the folder for people.
    """

    folder: Path
    title: str
    files: dict[str, int]
    seen: int

    @property
    def size(self) -> int:
        """Size in bytes of all chosen files together."""
        return sum(self.files.values())

    def read(self, name: str) -> bytes:
        """The file's bytes as they are now; raises `OSError` when it is gone."""
        return (self.folder / name).read_bytes()


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def choose(folder: Path | None, seed: int) -> Corpus:
    """Choose at most `MOST_FILES` files below `folder` (default: the standard library).

    Hidden files, symbolic links, files larger than `LARGEST_FILE` bytes, unreadable ones and
    names that are not UTF-8 are left out. Raises `NothingToBackUp`.
    """
    root = standard_library() if folder is None else folder.expanduser().resolve()
    if not root.is_dir():
        raise NothingToBackUp(f"no such folder: {folder}")
    suffix = ".py" if folder is None else ""
    sizes = dict(_walk(root, suffix, SKIPPED_FOLDERS if folder is None else frozenset()))
    if not sizes:
        raise NothingToBackUp(f"no readable file of at most {LARGEST_FILE:,} bytes in {root}")
    names = sorted(sizes)
    random.Random(f"corpus {seed}").shuffle(names)
    chosen: list[str] = []
    room = MOST_BYTES
    for name in names:
        if len(chosen) == MOST_FILES:
            break
        if sizes[name] <= room:
            chosen.append(name)
            room -= sizes[name]
    title = "the Python standard library" if folder is None else str(folder)
    return Corpus(root, title, {name: sizes[name] for name in sorted(chosen)}, len(sizes))


def _walk(root: Path, suffix: str, skipped: frozenset[str]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if s not in skipped and not s.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not name.endswith(suffix) or path.is_symlink():
                continue
            if not path.is_file() or not os.access(path, os.R_OK):
                continue
            key = path.relative_to(root).as_posix()
            size = path.stat().st_size
            if size <= LARGEST_FILE and _is_text(key):
                found.append((key, size))
        if len(found) >= MOST_SEEN:
            break
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
