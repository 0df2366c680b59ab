"""What is on disk, beside what children have loaded: looked at now and then, in a thread.

With watchfiles (the extra `reload`) a change is heard of at once, otherwise files are asked for
their times and sizes once a second. Either way only their contents say whether anything changed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from failbetter.worker.code import File, Stamps, fingerprint_of, stamps

_logger = logging.getLogger("failbetter.worker")

# Seconds between two looks where a change is acted on, and where it is only told of.
_OFTEN = 1.0
_SELDOM = 5.0
# With watchfiles: for what it does not hear of, such as what another host of a network disk writes.
_SAFETY = 5.0
# Editors and deploys write one file after the other: nothing is concluded before all is quiet.
_QUIET = 0.3
_PASSED_OVER = frozenset({"__pycache__", "node_modules"})


class Seen(NamedTuple):
    """What was seen on disk, as fingerprints; None before the first look."""

    loaded: str | None
    """Of the files that were loaded last."""
    named: str | None
    """Of all that is in the paths which the user named; None where none are named."""


class Changes:
    """Looks at the files that were loaded, and at the paths that the user named."""

    def __init__(self, named: Sequence[str] | None) -> None:
        """`named`: paths to watch; empty: the loaded files; None: a change is only told of."""
        self._named = tuple(named or ())
        self._acts = named is not None
        self._files: tuple[File, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked: tuple[tuple[File, ...], Stamps] | None = None
        self.seen = Seen(None, None)
        """What the last look saw."""

    def know(self, files: Sequence[File]) -> None:
        """Children have loaded these; from now on they are looked at."""
        now = tuple((name, path) for name, path in files)
        if now != self._files:
            self._files = now
            self.seen = Seen(None, self.seen.named)
        if self._thread is None:
            # A daemon: a disk that hangs keeps no worker from ending.
            self._thread = threading.Thread(target=self._work, name="changes", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _work(self) -> None:
        try:
            self._look()
            for _ in self._hints():
                self._look()
        except Exception:
            # A defect of ours, or of what watches; the worker's jobs are of more importance.
            _logger.exception("files are not watched any more; restart the worker to have them be")

    def _look(self) -> None:
        """See what is there, once nothing has changed for a moment."""
        loaded = self._files
        named, now = self._stamped(loaded)
        if self._looked == (loaded, now):
            return
        before: Stamps | None = None
        while now != before and self.seen.loaded is not None:
            if self._stop.wait(_QUIET):
                return
            before = now
            named, now = self._stamped(loaded)
        self._looked = loaded, now
        if loaded is self._files:
            self.seen = Seen(fingerprint_of(loaded), fingerprint_of(named) if self._named else None)

    def _stamped(self, loaded: Sequence[File]) -> tuple[list[File], Stamps]:
        """The files that the user named, and the stamps of these and of what was loaded."""
        named = [(path, path) for path in files_in(self._named)]
        return named, stamps(path for _, path in [*named, *loaded])

    # -- when to look

    def _hints(self) -> Iterator[None]:
        """Comes round when something may have changed."""
        if self._acts:
            try:
                import watchfiles
            except ImportError:
                pass
            else:
                yield from self._told_by(watchfiles.watch)
                return
        while not self._stop.wait(_OFTEN if self._acts else _SELDOM):
            yield

    def _told_by(self, watch: Callable[..., Iterator[object]]) -> Iterator[None]:
        # It logs each change, and the ledger's own file may be among them.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        while not self._stop.is_set():
            folders = self._folders()
            if not folders:
                if not self._stop.wait(_OFTEN):
                    yield
                continue
            told = watch(
                *folders,
                recursive=False,
                watch_filter=self._is_of_interest,
                stop_event=self._stop,
                debounce=round(_QUIET * 1000),
                rust_timeout=round(_SAFETY * 1000),
                yield_on_timeout=True,
                raise_interrupt=False,
            )
            for _ in told:
                yield
                if self._folders() != folders:
                    break

    def _folders(self) -> list[str]:
        """The folders to watch, each by itself: what lies deeper is not of interest."""
        paths = files_in(self._named) if self._named else [path for _, path in self._files]
        found = {os.path.dirname(os.path.abspath(path)) for path in paths}
        found |= set(folders_in(self._named))
        return sorted(path for path in found if os.path.isdir(path))

    def _is_of_interest(self, _: object, path: str) -> bool:
        return bool(self._named) or any(path == loaded for _, loaded in self._files)


def files_in(paths: Sequence[str]) -> list[str]:
    """The files that the paths are or contain, sorted; not hidden, compiled or left by editors."""
    found = [path for path in paths if os.path.isfile(path)]
    for folder in folders_in(paths):
        with os.scandir(folder) as entries:
            found += [entry.path for entry in entries if _is_source(entry)]
    return sorted(set(found))


def folders_in(paths: Sequence[str]) -> list[str]:
    """The folders among the paths, and all in them that are not hidden, or an environment's."""
    found = []
    for path in paths:
        for folder, names, _ in os.walk(path):
            found.append(folder)
            names[:] = [
                name
                for name in names
                if not name.startswith(".")
                and name not in _PASSED_OVER
                and not Path(folder, name, "pyvenv.cfg").exists()
            ]
    return found


def _is_source(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith((".", "#")) or entry.name.endswith((".pyc", "~", ".tmp")):
        return False
    return entry.is_file()
