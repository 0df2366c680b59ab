"""Huey's tasks and producer; imported by its consumer, too."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from huey import SqliteHuey  # type: ignore[import-not-found,unused-ignore]

from bench import bodies

_path = os.environ["BENCH_HUEY_FILE"]
_fsync = {"on": True, "default": None}[os.environ["BENCH_HUEY_FSYNC"]]

huey = SqliteHuey("bench", filename=_path, fsync=_fsync)
_tasks = {name: huey.task()(body) for name, body in bodies.ALL.items()}


class _Producer:
    def __init__(self) -> None:
        self._eye = sqlite3.connect(_path, isolation_level=None, timeout=30)

    def one(self, body: str) -> Callable[[int], object]:
        call: Callable[[int], object] = _tasks[body]
        return call

    def ended(self, total: int) -> bool:
        if self._eye.execute("select 1 from task limit 1").fetchone():
            return False
        # Results are kept until they are read, one row for each job that returned.
        row = self._eye.execute("select count(*) from kv").fetchone()
        return bool(row[0] >= total)


producer = _Producer()
