"""Murphy: whatever can be killed will be killed, at the worst moment.

The worst moment is when the store has an upload already and the worker does not know it yet. Murphy
finds it without guessing: the store holds its answers back, says which processes wait for one, and
those are killed. Nothing here knows how failbetter works.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from failbetter.demo.client import Office
from failbetter.demo.processes import WorkerProcess

HOLD_SECONDS = 2.0


class Deed(enum.Enum):
    """What Murphy does; the value is how the screen and the JSON name it."""

    KILL_CHILD = "kill child"
    KILL_WORKER = "kill worker"


@dataclass(frozen=True)
class Strike:
    """A deed that was done: `victims` are the files whose upload it interrupted."""

    deed: Deed
    pid: int
    after: int
    victims: tuple[str, ...]


@dataclass
class Murphy:
    """Does each of `deeds` once so many objects are stored; call `tick` often."""

    worker: WorkerProcess
    office: Office
    deeds: list[tuple[int, Deed]]
    clock: Callable[[], float] = time.monotonic
    strikes: list[Strike] = field(default_factory=list)
    _holding_since: float | None = None

    def tick(self, status: dict[str, Any]) -> Strike | None:
        """Look at the store's `status`, and strike when it is time; what was done, if anything."""
        if not self.deeds or self.worker.ended() is not None:
            return None
        after, deed = self.deeds[0]
        if self._holding_since is None:
            if status["stored"] >= after and not status["out"]:
                self.office.hold()
                self._holding_since = self.clock()
            return None
        ours = self.worker.children()
        held = {held["pid"]: str(held["name"]) for held in status["held"] if held["pid"] in ours}
        impatient = self.clock() - self._holding_since > HOLD_SECONDS
        wanted = 1 if deed is Deed.KILL_CHILD else self.worker.processes
        if len(held) < wanted and not impatient:
            return None
        self._holding_since = None
        strike = self._strike(deed, held, int(status["stored"])) if held else None
        self.office.release()
        if strike is not None:  # otherwise nobody was at work just now: another time
            del self.deeds[0]
            self.strikes.append(strike)
        return strike

    def _strike(self, deed: Deed, held: dict[int, str], after: int) -> Strike | None:
        if deed is Deed.KILL_WORKER:
            return Strike(deed, self.worker.kill(), after, tuple(held.values()))
        pid, name = next(iter(held.items()))
        return Strike(deed, pid, after, (name,)) if self.worker.kill_child(pid) else None
