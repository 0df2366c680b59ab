"""One recovery at a time: over all hosts by a turn in the ledger, on one host by a file as well.

A turn runs out by the ledger's clock some seconds after its holder's death. The file is free at
once, and signed, so that whoever died on this host keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from failbetter import ids
from failbetter.errors import LedgerError, LedgerUnavailable
from failbetter.fleet import describe_process
from failbetter.ledger import turns
from failbetter.recovery.status import RECOVER, who, write_who

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.fleet import Baton
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_LEASE = 10.0
"""Seconds for which nobody else recovers; kept anew with each batch."""
_LOOK = 0.05
_ON_THIS_HOST = "another process on this host"


class Overtaken(LedgerUnavailable):
    """This recovery was not heard of for so long that another one has the turn now."""


class Lock:
    """The right to recover."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._number = ids.take()
        place = describe_process()
        self.name = f"{place['host']}:{place['pid']}"
        self._baton: Baton | None = None

    def take(self, pause: Callable[[float, str], bool]) -> str | None:
        """Wait for it; None when it is ours, else who has it.

        `pause`: waits for so long (s), and says why; False when there is no more time.
        """
        self._baton = self._database.fleet.baton(RECOVER)
        before = self._baton.take(self._number)
        while True:
            if before is not None:
                holder = self._take_turn(before)
                if holder is None:
                    self._baton.sign_alone(self._number)
                    return None
            if not pause(_LOOK, "another recovery is at work; waiting for its end"):
                return self._holder()
            if before is None:
                before = self._baton.take(self._number)

    def _take_turn(self, before: set[int]) -> int | None:
        """None when the turn is ours, else who has it. `before`: those who are dead."""
        with self._database.write(durable=False) as tx:
            mine = turns.take(tx, RECOVER, self._number, _LEASE)
            found = turns.holder(tx, RECOVER)
            if not mine and found is not None and found[0] in before:
                mine = turns.inherit(tx, RECOVER, self._number, found[0], _LEASE)
            if mine:
                write_who(tx, self._number, self.name)
                return None
        return None if found is None else found[0]

    def _holder(self) -> str:
        with self._database.look() as tx:
            found = turns.holder(tx, RECOVER)
            return _ON_THIS_HOST if found is None else who(tx, found[0])

    def keep(self, tx: Tx) -> None:
        """Keep it, in a transaction that does something else as well. Raises Overtaken."""
        if not turns.take(tx, RECOVER, self._number, _LEASE):
            raise Overtaken(
                "this recovery did not move for so long that another one took over", passing=True
            )

    def release(self) -> None:
        """Let go of it. A ledger out of reach does not keep anybody from that."""
        with contextlib.suppress(LedgerError), self._database.write(durable=False) as tx:
            turns.leave(tx, RECOVER, self._number)
        self.close()

    def close(self) -> None:
        """Let go of the file alone, for one that never had the turn."""
        if self._baton is not None:
            self._baton.close()
            self._baton = None
