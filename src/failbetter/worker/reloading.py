"""New code for a worker that goes on: its children are replaced by ones that have loaded it.

First a spare child loads the new code. If it cannot, the children that run go on as they are, and
that is said. Otherwise one after the other they take no more jobs, finish what they run within
`--shutdown-timeout`, and are replaced: the spare child takes the place of the first that is gone.
At most one more child than `--processes` is there at any time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from failbetter.ledger import restarts
from failbetter.worker.changes import Changes, Seen
from failbetter.worker.code import UNSURE
from failbetter.worker.evidence import describe_exit, exit_text
from failbetter.worker.nursery import GRACE
from failbetter.worker.wire import Hello, Unready

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.database import Database
    from failbetter.worker.nursery import Nursery
    from failbetter.worker.process import Child
    from failbetter.worker.settings import Settings

_logger = logging.getLogger("failbetter.worker")

# Seconds within which a child must have loaded the app.
_LONGEST_LOAD = 120.0
# How often it is loaded again because files have changed meanwhile.
_TRIES = 5
# Seconds until the next child is asked to finish while one still runs a long body.
_NEXT = 0.25
# A supervisor must keep watch over its children, so it never waits long for its turn to write.
_TURN = 0.5
# Of an error so much is kept for whoever asks.
_MAX_ERROR = 500


class Round(msgspec.Struct):
    """One replacement of the children. Times in monotonic seconds."""

    unconditional: bool
    """Whether also children that have loaded the very same files are replaced."""
    old: list[Child]
    newer: str | None = None
    """What was on disk when a job failed on older code."""
    tries: int = 0
    """How often the code was loaded while its files changed."""
    next_close: float = 0.0
    closed: bool = False
    """Whether any child was asked to finish."""


class Reloading:
    """Replaces the children of one supervisor; knows what they have loaded, and what is on disk."""

    def __init__(
        self,
        settings: Settings,
        nursery: Nursery,
        watch: Callable[[Child], None],
        unwatch: Callable[[Child], None],
        keep: Callable[[list[Claimed]], None],
    ) -> None:
        """`watch`, `unwatch`: hear of a child or no more; `keep`: let claimed jobs wait."""
        self._settings = settings
        self._nursery = nursery
        self._watch = watch
        self._unwatch = unwatch
        self._keep = keep
        self._changes = Changes(settings.restart_on_change)
        self._round: Round | None = None
        self._spare: Child | None = None
        self._spare_since = 0.0
        self._loaded: Hello | None = None
        """What the spare child has loaded, once it has."""
        self._known: Hello | None = None
        self._closed: dict[int, float] = {}
        """Process id of a child that takes no more jobs, to when it is waited for no longer."""
        self._tried: Seen | None = None
        self._failed_on: str | None = None
        """What is not tried again before it changes."""
        self._asked: int | None = None
        """When somebody asked for the round that is under way or was the last."""
        self._answer: int | None = None
        """Whom to tell that it is over."""
        self._alike: str | None = None
        """The code of those beside this worker that are to replace their children, too."""
        self._error: str | None = None
        self._noted: tuple[str | None, str | None] = (None, None)

    @property
    def is_under_way(self) -> bool:
        """Whether children are being replaced."""
        return self._round is not None or bool(self._closed)

    def know(self, hello: Hello) -> None:
        """A child in its place has loaded this."""
        self._known = hello
        self._nursery.seen = hello.loaded.removesuffix(UNSURE)
        self._changes.know(hello.files)

    # -- why

    def failed_on_older(self, code: str | None, newer: str) -> None:
        """A job has failed in a child whose code is not on disk any more: `newer` is."""
        if self._round is None and newer != self._failed_on:
            self._alike = code
            self._begin("a job failed on older code than is on disk", newer=newer)

    def heed(self, database: Database, worker: int) -> None:
        """See whether somebody asked for a restart; tell what came of it. Raises LedgerError."""
        noted = (self._newer(), self._error)
        if self._answer is not None or self._alike is not None or self._noted != noted:
            with database.write(durable=False, timeout=_TURN) as tx:
                restarts.note(tx, worker, *noted)
                if self._answer is not None:
                    restarts.done(tx, worker, self._answer)
                if self._alike is not None:
                    restarts.ask_alike(tx, worker, database.fleet.id, self._alike)
            self._noted, self._answer, self._alike = noted, None, None
        with database.look() as tx:
            asked = restarts.asked(tx, worker)
        if asked is not None and asked != self._asked:
            self._asked = asked
            self._begin("a restart was asked for", unconditional=True)

    def begin_anew(self) -> None:
        """The worker has registered anew: nothing is noted in its row yet."""
        self._noted, self._asked, self._answer = (None, None), None, None

    def _look_at_changes(self) -> None:
        seen = self._changes.seen
        named = self._settings.restart_on_change
        if named is None or seen.loaded is None or seen == self._tried:
            return
        before, self._tried = self._tried, seen
        if named and before is not None and before.named != seen.named:
            # What they hold need not be code, so that children may have loaded the very same.
            self._begin("files have changed", unconditional=True)
        elif self._round is not None and self._known is not None:
            if not named and self._known.loaded != seen.loaded:
                self._begin("the code has changed again")
        elif self._any_unsure():
            self._begin("files changed while they were loaded")
        elif not named and self._newer() is not None:
            self._begin("the code has changed")

    def _any_unsure(self) -> bool:
        return any(_is_unsure(child.loaded) for child in self._nursery.children)

    def _newer(self) -> str | None:
        """The fingerprint of what is on disk, if a child has loaded something else."""
        on_disk = self._changes.seen.loaded
        loaded = {child.loaded for child in self._nursery.children if child.loaded is not None}
        return on_disk if on_disk is not None and loaded - {on_disk} else None

    def _begin(self, why: str, *, unconditional: bool = False, newer: str | None = None) -> None:
        """Begin to replace all children, if need be from the start again."""
        self.drop_spare()
        self._round = Round(unconditional, list(self._nursery.children), newer)
        if newer is not None:
            # More jobs would only fail of their code.
            for child in self._round.old:
                child.resting = True
                self._keep(child.take_back())
        _logger.info("%s; replacing the children one after the other", why)

    # -- what goes on

    def tick(self, now: float) -> tuple[Child, Hello] | None:
        """Go on; a child that takes a place now, and what it has loaded. `now` in monotonic s."""
        if self._known is None:
            return None
        self._see_to_closed(now)
        self._look_at_changes()
        if self._round is None:
            return None
        self._round.old = [child for child in self._round.old if child in self._nursery.children]
        if not self._round.old:
            self._finish()
        elif self._spare is None:
            self._start_spare(now)
        elif self._loaded is None:
            self._hear_spare(self._spare, now)
        elif self._nursery.seat(self._spare):
            seated = self._spare, self._loaded
            self._spare = self._loaded = None
            return seated
        else:
            self._close_next(self._round, now)
        return None

    def _start_spare(self, now: float) -> None:
        try:
            self._spare = self._nursery.spare()
        except OSError as error:
            self._fail(f"a child cannot be started ({error})", "")
            return
        self._spare_since = now
        self._watch(self._spare)

    def _hear_spare(self, spare: Child, now: float) -> None:
        for message in spare.hear():
            if isinstance(message, Unready):
                lines = message.error.rstrip().splitlines()
                self._fail(lines[-1] if lines else "", message.error.rstrip())
                return
            if isinstance(message, Hello):
                self._meet(spare, message)
                return
        if spare.is_dead():
            self._fail(exit_text(describe_exit(spare.process.returncode)), "")
        elif now - self._spare_since > _LONGEST_LOAD:
            self._fail(f"it was not loaded within {_LONGEST_LOAD:g} s", "")

    def _meet(self, spare: Child, hello: Hello) -> None:
        assert self._known is not None
        assert self._round is not None
        if _ledger_of(hello) != _ledger_of(self._known):
            self._fail("its app has another ledger or lease: stop this worker and start it", "")
            return
        if _is_unsure(hello.loaded) and self._round.tries < _TRIES:
            # The next one will know what it loads.
            self._round.tries += 1
            self._nursery.seen = hello.loaded.removesuffix(UNSURE)
            self.drop_spare()
            return
        if not self._round.unconditional:
            same = None if _is_unsure(hello.loaded) else hello.loaded
            self._round.old = [child for child in self._round.old if child.loaded != same]
        if self._round.old:
            spare.said_hello = True
            self._loaded = hello

    def _close_next(self, current: Round, now: float) -> None:
        """Have one more child finish. Those that run long bodies do so side by side."""
        working = [child for child in current.old if child.pid not in self._closed]
        if not working or now < current.next_close:
            return
        child = min(working, key=lambda child: len(child.handed))
        current.next_close = now + _NEXT
        current.closed = True
        self._closed[child.pid] = now + self._settings.shutdown_timeout
        self._keep(child.take_back())
        child.close_handouts()

    def _see_to_closed(self, now: float) -> None:
        if not self._closed:
            return
        there = {child.pid: child for child in self._nursery.children}
        for pid, limit in list(self._closed.items()):
            child = there.get(pid)
            if child is None:
                del self._closed[pid]
                continue
            if now < limit:
                continue
            if now >= limit + GRACE:
                child.kill("stop")
                continue
            child.look_at_board()
            for number in child.begun.keys() - child.interrupted.keys():
                child.interrupt(child.handed[number], "stop")

    def _finish(self) -> None:
        assert self._round is not None
        assert self._known is not None
        if self._round.closed:
            _logger.info("all children run code %s now", self._known.code)
        else:
            _logger.info("the code is the same; the children go on")
        self._error = self._failed_on = None
        self._end()

    def _fail(self, error: str, trace: str) -> None:
        assert self._known is not None
        _logger.error(
            "the new code cannot be loaded: %s. The children that run go on with code %s; no job"
            " was touched. It is tried again at the next change, or when a restart is asked for%s",
            error,
            self._known.code,
            f"\n{trace}" if trace else "",
        )
        self._error = error[:_MAX_ERROR]
        if self._round is not None:
            self._failed_on = self._round.newer or self._changes.seen.loaded
        self._end()

    def _end(self) -> None:
        self._answer = self._asked
        self.halt()

    # -- the end

    def drop_spare(self) -> None:
        """Do without the child that has no place yet."""
        spare, self._spare, self._loaded = self._spare, None, None
        if spare is not None:
            self._unwatch(spare)
            spare.kill("stop")
            spare.bury()

    def halt(self) -> None:
        """The worker stops, or begins anew with fresh children: replace none any more."""
        self._round = None
        self.drop_spare()
        for child in self._nursery.children:
            child.resting = False

    def stop(self) -> None:
        """Look at the disk no more."""
        self.halt()
        self._changes.stop()


def _is_unsure(loaded: str | None) -> bool:
    return loaded is not None and loaded.endswith(UNSURE)


def _ledger_of(hello: Hello) -> tuple[object, ...]:
    return hello.url, hello.schema, hello.fleet_folder, hello.lease, hello.durable
