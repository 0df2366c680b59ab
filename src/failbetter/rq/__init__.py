"""What runs in RQ's workers, and what watches them. Needs the extra `failbetter[rq]`.

`rq worker -w failbetter.rq.Worker` loads the app once and tells how jobs' processes died; the
workers that RQ brings run the jobs, too. Names load when they are first used: a work horse of RQ's
own does without most of this.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from failbetter.rq.worker import SimpleWorker, Worker

__all__ = ["SimpleWorker", "Worker"]

_HOMES = {
    "SimpleWorker": "failbetter.rq.worker",
    "Worker": "failbetter.rq.worker",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
