"""A pytest plugin for RQ's own tests: they are given the watching workers in place of RQ's."""

from __future__ import annotations

import rq
import rq.worker

from failbetter.rq import WatchingSimpleWorker, WatchingSpawnWorker, WatchingWorker

for name, kind in (
    ("Worker", WatchingWorker),
    ("SimpleWorker", WatchingSimpleWorker),
    ("SpawnWorker", WatchingSpawnWorker),
):
    setattr(rq, name, kind)
    setattr(rq.worker, name, kind)
