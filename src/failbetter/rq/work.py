"""What RQ's workers execute: the app is found, and the job of the given id runs as a guest.

The process is a work horse that ends with its job, or a worker that runs one after another. Either
way RQ is told of success as soon as the ledger has the attempt's end, whatever that is: retries are
failbetter's. RQ sees a failure only where there was no attempt: the app cannot be loaded, or the
ledger stayed out of reach. Then the job waits, and its id is sent again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError
from rq import Worker, get_current_job

from failbetter import fleet, ids
from failbetter.engine import Keeper
from failbetter.engines.rq import RQ
from failbetter.errors import ConfigurationError
from failbetter.worker.appload import load_app, loaded_code
from failbetter.worker.guest import Guest

if TYPE_CHECKING:
    from rq.job import Job

    from failbetter.app import App
    from failbetter.worker.code import LoadedCode

APP = "FAILBETTER_APP"
"""The environment variable that says where the app is."""

# A worker that never forks writes its key once for each job. For one that may run for ever, so
# long (s): that the key is gone must not say that the worker is.
_NO_END = 30 * 86_400

_loaded: Loaded | None = None
_guest: Guest | None = None
_worker_tells = False


class Loaded(NamedTuple):
    """An app, and the code that it was loaded with."""

    app: App
    code: LoadedCode


def run(text: str) -> None:
    """Run the job of that id, if it may begin now. Called by RQ's workers.

    Raises ConfigurationError without `$FAILBETTER_APP`, whatever the app's import raises, and
    LedgerError; then nothing has begun, and the id is sent again.
    """
    job = get_current_job()
    if job is None:
        raise ConfigurationError(f"{__name__}.run is called by RQ's workers, and by nobody else")
    loaded = load()
    if threading.current_thread() is threading.main_thread():
        # RQ's own alarm: it could strike while an end is written. The guest ends what must end.
        signal.alarm(0)
    if os.environ.get("RQ_JOB_ID") == job.id:
        _in_horse(loaded, job).run(ids.from_text(text))
    else:
        _in_worker(loaded, job).run(ids.from_text(text))


def load() -> Loaded:
    """The app of this process, loaded once; a work horse has that of its worker."""
    global _loaded
    if _loaded is None:
        spec = os.environ.get(APP)
        if not spec:
            raise ConfigurationError(
                f"${APP} is not set where this RQ worker runs; set it to module:app"
            )
        since = time.time()
        app = load_app(spec)
        _loaded = Loaded(app, loaded_code(app, since))
    return _loaded


def worker_tells() -> None:
    """From now on the horses that this process forks say that it tells of their deaths."""
    global _worker_tells
    _worker_tells = True


def stay_on_sigterm() -> None:
    """Leave it to the worker what a SIGTERM to the whole control group means: it waits for us.

    Handled rather than ignored, because programs that a body starts would inherit that.
    """
    signal.signal(signal.SIGTERM, lambda _signal, _frame: None)


def _in_horse(loaded: Loaded, job: Job) -> Guest:
    """This process is for this job alone, and RQ's worker outlives it."""
    stay_on_sigterm()
    worker = os.getppid()
    keeper = Keeper(
        job.worker_name or "",
        worker,
        fleet.born(worker),
        fleet.pid_space(),
        tells=_worker_tells,
        job=job.id,
    )
    return Guest(loaded.app, RQ.name, keeper, for_one=True, loaded=loaded.code)


def _in_worker(loaded: Loaded, job: Job) -> Guest:
    """This process is RQ's worker itself."""
    global _guest
    name = job.worker_name or ""
    if job.timeout is None or job.timeout < 0:
        with contextlib.suppress(RedisError):
            job.connection.expire(f"{Worker.redis_worker_namespace_prefix}{name}", _NO_END)
    if _guest is None or _guest.pid != os.getpid():
        _guest = Guest(loaded.app, RQ.name, Keeper(name), loaded=loaded.code)
    return _guest
