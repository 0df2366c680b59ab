"""Named moments at which a test can have this process killed.

`FAILBETTER_FAULT="name:3"` sends SIGKILL to the process at its third passing of `name`; several
are separated by commas. Without the variable a point costs one look at an empty table. That the
points stand in the code that really runs, and not in a copy, is what makes the tests honest.
"""

from __future__ import annotations

import os
import signal

POINTS = frozenset(
    {
        "after_claim",
        "before_body",
        "in_body",
        "after_body",
        "in_commit",
        "after_commit",
        "in_hand_back",
        "in_tick",
        "before_delivered",
        "before_own_commit",
        "after_own_commit",
        "after_recover_lock",
        "after_removal",
        "in_recovery",
        "before_recorded",
        "in_pruning",
        "before_pruning",
        "in_operation",
        "in_edit",
        "before_send",
        "after_send",
    }
)


def _armed() -> dict[str, int]:
    armed = {}
    for part in os.environ.get("FAILBETTER_FAULT", "").split(","):
        name, _, count = part.partition(":")
        if name in POINTS:
            armed[name] = int(count or 1)
    return armed


_left = _armed()


def passing(name: str) -> None:
    """Die here, when this passing of `name` is the one that was asked for."""
    if _left and name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
