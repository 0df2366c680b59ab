"""What runs in RQ's workers, and what watches them. Needs the extra `failbetter[rq]`.

`rq worker -w failbetter.rq.Worker` loads the app once and tells how jobs' processes died; the
workers that RQ brings run the jobs, too. `watch` has a ledger follow RQ's own jobs; with
`rq worker -w failbetter.rq.WatchingWorker` it is told of them at once. Names load when they are
first used: a work horse of RQ's own does without most of this.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from failbetter.rq.watcher import WatchingSimpleWorker, WatchingSpawnWorker, WatchingWorker
    from failbetter.rq.watching import watch
    from failbetter.rq.worker import SimpleWorker, Worker

__all__ = [
    "SimpleWorker",
    "WatchingSimpleWorker",
    "WatchingSpawnWorker",
    "WatchingWorker",
    "Worker",
    "watch",
]

_HOMES = {
    "SimpleWorker": "failbetter.rq.worker",
    "WatchingSimpleWorker": "failbetter.rq.watcher",
    "WatchingSpawnWorker": "failbetter.rq.watcher",
    "WatchingWorker": "failbetter.rq.watcher",
    "Worker": "failbetter.rq.worker",
    "watch": "failbetter.rq.watching",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
