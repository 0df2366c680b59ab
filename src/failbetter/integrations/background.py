"""What a site has running beside its requests: the recovery at startup, a worker of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from failbetter.durations import Duration
from failbetter.integrations.embedded import EmbeddedWorker, import_path
from failbetter.integrations.startup import SKIP_WINDOW, TIMEOUT, startup

if TYPE_CHECKING:
    from failbetter import App


class Background:
    """What `start_background` has started."""

    def __init__(self, worker: EmbeddedWorker | None) -> None:
        self.worker = worker
        """The worker of this process, if there is one."""
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Stop the worker as SIGTERM does, and wait for that. Once is enough."""
        with self._lock:
            worker, self.worker = self.worker, None
        if worker is not None:
            worker.stop()


def start(
    app: App,
    *,
    recover: bool = True,
    worker: bool | str = False,
    processes: int = 1,
    timeout: Duration = TIMEOUT,
    skip_window: Duration = SKIP_WINDOW,
    shutdown_timeout: Duration = 25,
) -> Background:
    """Begin the recovery, once a process, and a worker if one is wanted."""
    path = import_path(app) if worker is True else worker
    if recover:
        startup(app, timeout, skip_window).begin()
    if not path:
        return Background(None)
    return Background(EmbeddedWorker(path, processes=processes, shutdown_timeout=shutdown_timeout))
