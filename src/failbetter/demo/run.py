"""The demo's door: settings in, exit code out, and nothing left behind."""

from __future__ import annotations

import contextlib
import json as jsonlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from failbetter.demo.corpus import NothingToBackUp, choose
from failbetter.demo.course import Course, Stuck
from failbetter.demo.faults import plan
from failbetter.demo.processes import DidNotStart
from failbetter.demo.screen import Lively, Plain, Silence

EX_NOINPUT, EX_CANTCREAT = 66, 73


def run_demo(
    folder: Path | None,
    *,
    seed: int,
    json: bool,
    keep: Path | None,
    before_proof: Callable[[Path], None] | None = None,
) -> int:
    """Back up real files under real faults, and prove that nothing went wrong.

    `folder`: what to back up; None is the standard library. `seed` decides files and faults.
    `json`: print one JSON document instead of the screen. `keep`: a new or empty folder where
    the ledger, the store and the logs stay. `before_proof` is called with that folder just before
    the proof (tests tamper with the store there).

    Returns the exit code: 0 proven, 1 not proven, 66 nothing to back up, 73 `keep` cannot be
    used, 128 + n by signal n. Needs the main thread, for signals.
    """
    try:
        corpus = choose(folder, seed)
    except NothingToBackUp as error:
        return _complain(str(error), EX_NOINPUT)
    try:
        place = _place(keep)
    except OSError as error:
        return _complain(f"cannot keep the demo in {keep}: {error}", EX_CANTCREAT)
    screen = _screen(json)
    course = Course(corpus, plan(list(corpus.files), seed), place, screen, seed)
    try:
        with _signals(), course:
            course.run(before_proof)
    except (Stuck, DidNotStart) as error:
        if json:
            _print_json({"ok": False, "error": str(error), "log": course.log_tail()})
        return _complain("\n".join([str(error), *course.log_tail()]), 1)
    except Signalled as signalled:
        return _complain(f"stopped by {signalled.signal.name}", 128 + signalled.signal)
    else:
        if json:
            _print_json(course.document())
        elif keep is not None:
            screen.note(
                f"look around: FAILBETTER_URL=sqlite:///{place}/ledger.db failbetter failed"
            )
        return 0 if course.proven else 1
    finally:
        screen.close()
        if keep is None:
            shutil.rmtree(place, ignore_errors=True)


def _print_json(document: dict[str, object]) -> None:
    sys.stdout.write(jsonlib.dumps(document, indent=2) + "\n")


class Signalled(BaseException):
    """A signal asks the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end a program into `Signalled`, so that everything is cleaned up."""

    def on_signal(number: int, _frame: object) -> None:
        # Only once: a second ctrl-C must not break off the cleaning up.
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise Signalled(number)

    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="failbetter-demo-"))
    place = keep.expanduser().resolve()
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise FileExistsError("the folder is not empty")
    return place


def _screen(json: bool) -> Silence:
    if json:
        return Silence()
    console = Console()
    return Lively(console) if console.is_terminal else Plain(console)


def _complain(text: str, code: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(f"failbetter demo: {text}")
    return code
