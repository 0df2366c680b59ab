"""What bodies of the drill did, in files beside the ledger, so that it can be held against them.

Each line is one write at the end of a file: it is there whole, whoever is killed next.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = "FAILBETTER_DRILL_FOLDER"
"""In the environment of the drill's workers: where the book is."""

_GO, _EFFECTS, _STEPS = "go", "effects", "steps"


@dataclass(frozen=True)
class Entry:
    """A body said that it begins an item (`what` "begin"), or that it is done with it ("done")."""

    job: str
    attempt: int
    what: str
    item: int
    pid: int


class Book:
    """The files of one drill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_environment(cls) -> Book:
        """The one that this worker was started with."""
        return cls(Path(os.environ[FOLDER]))

    # -- what bodies do

    def begin(self, job: str, attempt: int, item: int) -> None:
        """An item is about to be worked on."""
        self._append(_STEPS, f"{job} {attempt} begin {item} {os.getpid()}")

    def done(self, job: str, attempt: int, item: int) -> None:
        """An item is done, as far as its body knows."""
        self._append(_STEPS, f"{job} {attempt} done {item} {os.getpid()}")

    def effect(self, key: str) -> None:
        """The effect of that key happens."""
        self._append(_EFFECTS, key)

    def hold(self) -> None:
        """Stay here until the drill says go, or whoever runs this is killed."""
        while not (self._folder / _GO).exists():
            time.sleep(0.02)

    def _append(self, name: str, line: str) -> None:
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)

    # -- what the drill does

    def go(self) -> None:
        """From now on nobody is held."""
        (self._folder / _GO).touch()

    def effects(self) -> list[str]:
        """The keys of the effects that happened, in their order."""
        return self._lines(_EFFECTS)

    def entries(self) -> list[Entry]:
        """What bodies said, in its order."""
        found = []
        for line in self._lines(_STEPS):
            job, attempt, what, item, pid = line.split()
            found.append(Entry(job, int(attempt), what, int(item), int(pid)))
        return found

    def _lines(self, name: str) -> list[str]:
        try:
            text = (self._folder / name).read_text()
        except FileNotFoundError:
            return []
        # A full disk leaves half a line at most, at the end.
        return text[: text.rfind("\n") + 1].splitlines()
