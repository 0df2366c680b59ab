"""`python -m failbetter.drill.struck`: a recovery that is killed while it is at work."""

from __future__ import annotations

import os
import signal

from failbetter.drill.loaded import app
from failbetter.recovery.report import RecoveryProgress


def _die(so_far: RecoveryProgress) -> None:
    if so_far.waits_for is None:  # it has the lock, and is about to hand back
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    app.recover(force=True, progress=_die)
