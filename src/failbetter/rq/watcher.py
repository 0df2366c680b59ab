"""Workers of RQ that tell the ledger at once: `rq worker -w failbetter.rq.WatchingWorker`.

They are RQ's own in all else. A success costs nothing: whose it is that had failed before,
`failbetter maintain` finds. What cannot be told now, it finds, too.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec
from rq.utils import utcformat
from rq.worker import BaseWorker, SimpleWorker, SpawnWorker, Worker

from failbetter import ids
from failbetter.errors import ConfigurationError, FailbetterError
from failbetter.fleet import WorkerLock
from failbetter.ledger import adopted
from failbetter.rq import sights
from failbetter.rq.adopting import KEEPER, Keeper
from failbetter.rq.watching import adopter_of
from failbetter.worker.appload import load_app
from failbetter.worker.evidence import OutOfMemory, describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rq import Queue
    from rq.job import Job

    from failbetter.app import App
    from failbetter.lifecycle.adopting import Sight

    Base = BaseWorker
else:
    Base = object

_logger = logging.getLogger("failbetter.rq")

# Seconds for which a worker waits for the ledger: RQ's own work waits behind it.
_PATIENCE = 5.0


@functools.cache
def _app() -> App:
    """The app that `$FAILBETTER_APP` names, with what it watches.

    Raises ConfigurationError.
    """
    spec = os.environ.get("FAILBETTER_APP")
    if not spec:
        raise ConfigurationError(
            "which ledger is to be told? Set FAILBETTER_APP to module:app, whose module calls"
            " failbetter.rq.watch(app, …)"
        )
    app = load_app(spec)
    if adopter_of(app) is None:
        raise ConfigurationError(f"{spec} watches nothing: call failbetter.rq.watch(app, …) there")
    return app


class Watching(Base):
    """What a worker of RQ's does besides: mixed into one of its classes."""

    _lock: WorkerLock | None = None
    _lock_path: Path | None = None
    _deaths: OutOfMemory | None = None
    _death: dict[str, Any] | None = None

    # -- its own life

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """As RQ's; ends at once if nothing could be told."""
        try:
            _app().database.ensure_schema()
        except ConfigurationError as error:
            raise SystemExit(f"failbetter: {error}") from None
        except FailbetterError as error:
            _logger.warning("the ledger cannot be told now; the worker goes on: %s", error)
        except Exception as error:  # whatever the user's modules do while they load
            spec = os.environ.get("FAILBETTER_APP")
            kind = type(error).__name__
            raise SystemExit(f"failbetter: {spec} cannot be loaded: {kind}: {error}") from None
        self._deaths = OutOfMemory()
        super().bootstrap(*args, **kwargs)
        self._be_seen()

    def _be_seen(self) -> None:
        """Hold a lock for as long as this process, or one that it forks, lives, and say which."""
        try:
            fleet = _app().database.fleet
            self._lock_path = fleet.folder / f"rq-{ids.take()}.lock"
            self._lock = WorkerLock(self._lock_path)
            keeper = Keeper(self._lock_path.name, fleet.id)
            self.connection.hset(self.key, KEEPER, msgspec.json.encode(keeper).decode())
        except (FailbetterError, OSError) as error:
            # Then its death is known by its silence.
            _logger.warning("this worker's death will not be seen at once: %s", error)

    def teardown(self) -> None:
        """As RQ's."""
        super().teardown()  # type: ignore[no-untyped-call]
        if self._lock is not None and self._lock_path is not None and not self.is_horse:
            self._lock_path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    # -- how attempts end

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """As RQ's; then the ledger is told."""
        super().handle_job_failure(job, queue, *args, **kwargs)
        text = kwargs.get("exc_string") or (args[1] if len(args) > 1 else "")
        self._tell_failure(job, text)

    def handle_job_retry(self, job: Job, *args: Any, **kwargs: Any) -> None:
        """As RQ's, of a job that returned an `rq.Retry`."""
        super().handle_job_retry(job, *args, **kwargs)
        self._tell_failure(job, "")

    def handle_job_success(self, job: Job, *args: Any, **kwargs: Any) -> None:
        """As RQ's. Only what leaves no trace there is told of here."""
        vanishes = job.get_result_ttl(self.default_result_ttl) == 0
        found = self._look(job) if vanishes else None
        super().handle_job_success(job, *args, **kwargs)
        if found is not None:
            found.fields["status"] = b"finished"
            self._tell(lambda: sights.sight(found), job)

    def handle_work_horse_killed(self, job: Job, retpid: Any, ret_val: Any, rusage: Any) -> None:
        """As RQ's. What is known of the death is kept for `handle_job_failure`, which follows."""
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        self._death = self._evidence(retpid, ret_val, rusage)

    def _evidence(self, pid: int | None, status: int | None, rusage: Any) -> dict[str, Any]:
        if pid is None or status is None:
            return {}
        found = {"pid": pid, **describe_exit(os.waitstatus_to_exitcode(status))}
        if found.get("signal") == 9 and self._deaths is not None:
            found |= self._deaths.evidence_of(pid)
        if rusage is not None:
            found["max_resident_bytes"] = rusage.ru_maxrss * 1024
        return found

    # -- what is told

    def _tell_failure(self, job: Job, text: str) -> None:
        evidence, self._death = self._death or {}, None
        run = utcformat(job.started_at) if job.started_at else None

        def made() -> Sight | None:
            raw = self._look(job)
            return None if raw is None else sights.failure(raw, text, run, evidence, self.name)

        self._tell(made, job)

    def _look(self, job: Job) -> sights.Raw | None:
        (raw,) = sights.read(self.connection, [job.id])
        return raw

    def _tell(self, make: Callable[[], Sight | None], job: Job) -> None:
        """Write what is seen. Whatever goes wrong changes nothing for the job."""
        try:
            app = _app()
            adopter = adopter_of(app)
            if adopter is None or not adopter.means(job.origin):
                return
            seen = make()
            if seen is None or seen.said.startswith(sights.OURS):
                return
            app.database.transact(
                lambda tx: adopted.follow(tx, sights.ENGINE, [seen]), timeout=_PATIENCE
            )
        except Exception as error:
            _logger.warning(
                "the ledger could not be told of job %s; `failbetter maintain` will: %s: %s",
                job.id,
                type(error).__name__,
                error,
            )


class WatchingWorker(Watching, Worker):
    """RQ's `Worker` that tells the ledger of failures, retries and crashes at once."""


class WatchingSimpleWorker(Watching, SimpleWorker):
    """RQ's `SimpleWorker` that tells the ledger of failures and retries at once."""


class WatchingSpawnWorker(Watching, SpawnWorker):
    """RQ's `SpawnWorker` that tells the ledger of failures, retries and crashes at once."""
