"""The drill's door: an app in, a report out, and nothing left behind."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from failbetter.app import App
from failbetter.drill.course import Course, Stuck
from failbetter.drill.place import Place, clear_dead
from failbetter.drill.tasks import drill_app
from failbetter.drill.verify import Check


@dataclass(frozen=True)
class Drilled:
    """What a drill has shown. `kept`: its jobs and its folder, given here, are still there."""

    queue: str
    seconds: float
    checks: tuple[Check, ...]
    kept: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok for check in self.checks)


class Signalled(BaseException):
    """A signal asks the drill to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def run_drill(
    theirs: App,
    *,
    jobs: int,
    timeout: float,
    keep: bool,
    tell: Callable[[Check], None],
) -> Drilled:
    """Interrupt jobs for real on the ledger of that app, and see that each comes to its right end.

    Nothing of the app but its ledger's settings is used. `jobs`: from `course.FEWEST`. `timeout`:
    of all of it but the clearing up (s). `keep`: leave jobs and folder, for the next drill to take
    away. `tell` is given each check as it is made.

    Raises LedgerError or ConfigurationError when there is no ledger to use, and Signalled, in each
    case after clearing up. Needs the main thread, for signals.
    """
    began = time.monotonic()
    app = _app_on(theirs)
    try:
        with _signals():
            _take_away_what_was_left(app, tell)
            place = Place(app)
            course = Course(app, place.drill.queue, place.folder, began + timeout, tell)
            try:
                _go_through(course, jobs)
            finally:
                with _undisturbed():
                    course.end()
                    if not keep:
                        _clear(place, course)
                    place.close()
        seconds = time.monotonic() - began
        kept = str(place.folder) if keep else None
        return Drilled(place.drill.queue, seconds, tuple(course.checks), kept)
    finally:
        app.close()


def _app_on(theirs: App) -> App:
    """An app of the drill's own on the same ledger."""
    return drill_app(
        App(
            theirs.url,
            lease=theirs.lease,
            durability="full" if theirs.durable else "relaxed",
            fleet_folder=theirs.database.fleet.folder,
            schema=theirs.schema,
        )
    )


def _take_away_what_was_left(app: App, tell: Callable[[Check], None]) -> None:
    for drill in clear_dead(app):
        tell(Check("what an earlier drill left is taken away", f"queue {drill.queue}"))


def _go_through(course: Course, jobs: int) -> None:
    try:
        course.run(jobs)
    except Stuck as stuck:
        course.add(
            Check(
                "the drill came to its end",
                "it did not",
                (str(stuck),),
                "workers do not do here what they must, or the machine is too slow for --timeout;"
                " `failbetter drill --keep` keeps their logs",
            )
        )


def _clear(place: Place, course: Course) -> None:
    left = place.clear()
    queue = place.drill.queue
    course.add(
        Check(
            "nothing is left behind",
            "workers ended, jobs removed" if not left else f"{left} jobs on {queue}",
            () if not left else (f"{left} jobs on {queue} could not be removed in time",),
            "nobody runs them; the next `failbetter drill` removes them",
        )
    )


_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end a program into `Signalled`, so that everything is cleared up."""

    def receive(number: int, _frame: object) -> None:
        for each in _OURS:  # a second one must not break off the clearing up
            signal.signal(each, signal.SIG_IGN)
        raise Signalled(number)

    before = {number: signal.signal(number, receive) for number in _OURS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal must not break off the clearing up, which would be all that it asks for."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _OURS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
