"""Has `failbetter maintain` follow engines' own jobs: in a thread, as an engine may not answer."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from failbetter.errors import EngineUnavailable, LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from failbetter.ledger.adopted import Follower
    from failbetter.ledger.database import Database

_logger = logging.getLogger("failbetter.worker")

# Seconds between two looks.
_LOOK = 1.0
# Seconds that the end of a look is waited for at the end.
_LAST_WORDS = 1.0


class Following:
    """`make`: makes a database to use beside the maintainer's own, and to close."""

    def __init__(self, make: Callable[[], Database], followers: Sequence[Follower]) -> None:
        self._make = make
        self._followers = followers
        self._database: Database | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self._failed: set[str] = set()

    def tick(self, now: float) -> None:
        """Begin to look if it is time."""
        if not self._followers or now < self._next or self._stop.is_set():
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._next = now + _LOOK
        # A daemon: a connection that hangs keeps nobody from ending.
        self._thread = threading.Thread(target=self.work, name="following", daemon=True)
        self._thread.start()

    def work(self) -> bool:
        """Look once; whether all could be looked at."""
        if self._database is None:
            self._database = self._make()
        well = [self._look(one, self._database) for one in self._followers]
        return all(well)

    def _look(self, follower: Follower, database: Database) -> bool:
        name = follower.engine
        try:
            follower.follow(database)
        except (EngineUnavailable, LedgerError) as error:
            if name not in self._failed:
                _logger.warning("%s. Trying again every second", error)
            self._failed.add(name)
            return False
        except Exception:
            # A defect of ours; what else is maintained is of more importance.
            _logger.exception("the jobs of %s could not be followed", name)
            return False
        if name in self._failed:
            _logger.warning("the jobs of %s are followed again", name)
            self._failed.discard(name)
        return True

    def stop(self) -> None:
        """Begin no other look; waits for the end of one for a second at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_WORDS)
            if self._thread.is_alive():
                return  # it goes with the process
        for follower in self._followers:
            follower.close()
        if self._database is not None:
            self._database.close()
