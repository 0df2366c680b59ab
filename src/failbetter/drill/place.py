"""Where a drill is at home: its folder, locked while it lives, and its note in the ledger.

Both outlive a drill that is killed, so that the next one finds what it left, and takes it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from failbetter import ids
from failbetter.app import App
from failbetter.fleet import let_go_of
from failbetter.ledger import clearing, registry
from failbetter.ledger.clearing import Drill

PATIENCE = 10.0
"""How long taking away may take (s): workers of a drill that was killed end meanwhile."""

# What another host's drill has left for so long (s) is taken for dead.
_OLD = 3600.0
_BATCH = 100
_LOCK = "lock"


class Place:
    """The place of one drill: made with the object, held until `close`."""

    def __init__(self, app: App) -> None:
        self._app = app
        fleet = app.database.fleet
        self.drill = Drill(ids.take(), fleet.id)
        self.folder = _folder(fleet.folder, self.drill)
        self.folder.mkdir(mode=0o700)
        self._handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            app.database.transact(lambda tx: clearing.announce(tx, self.drill))
        except BaseException:
            self.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def close(self) -> None:
        """Let go of it: what is left is for the next drill."""
        os.close(self._handle)

    def clear(self) -> int:
        """Take all of it away; how many jobs could not be."""
        return clear(self._app, self.drill)


def _folder(fleet: Path, drill: Drill) -> Path:
    return fleet.absolute() / f"drill-{ids.to_text(drill.number)}"


def clear_dead(app: App) -> list[Drill]:
    """Take away what drills have left that are dead by now; those that could be taken away."""
    with app.database.look() as tx:
        found = clearing.announced(tx)
    return [drill for drill in found if _is_dead(app, drill) and clear(app, drill) == 0]


def _is_dead(app: App, drill: Drill) -> bool:
    fleet = app.database.fleet
    if drill.fleet != fleet.id:
        began = ids.made_at(drill.number)
        return time.time() - began > _OLD
    lock = _folder(fleet.folder, drill) / _LOCK
    if not lock.exists():
        return True  # its folder is made before it is announced
    with let_go_of(lock) as handle:
        return handle is not None


def clear(app: App, drill: Drill) -> int:
    """Take away a drill's jobs, with all that is kept of them, its note and its folder.

    What its dead workers held is handed back first, by a recovery as any worker does one; what a
    living one holds stays. Returns how many jobs are left after `PATIENCE`.
    """
    database = app.database
    deadline = time.monotonic() + PATIENCE
    while True:
        if _held(app, drill):
            app.recover(force=True, timeout=max(deadline - time.monotonic(), 1), max_retries=0)
        while database.transact(lambda tx: clearing.cancel_waiting(tx, drill, _BATCH)):
            pass
        while database.transact(lambda tx: clearing.clear(tx, drill, _BATCH)):
            pass
        with database.look() as tx:
            left = clearing.left(tx, drill)
        if not left and not _held(app, drill):
            break
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    shutil.rmtree(_folder(database.fleet.folder, drill), ignore_errors=True)
    database.transact(lambda tx: clearing.forget(tx, drill))
    return 0


def _held(app: App, drill: Drill) -> bool:
    """Whether the ledger knows a worker of the drill."""
    with app.database.look() as tx:
        return any(drill.queue in one.queues for one in registry.all_workers(tx))
