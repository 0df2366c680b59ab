"""Puts jobs back into RQ that a person has retried, as they were: their payload stays bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry

from failbetter.rq import sights

if TYPE_CHECKING:
    from redis import Redis


class Opaque:
    """A serializer for RQ that reads nothing: what a user's program has pickled stays as it is."""

    @staticmethod
    def loads(data: bytes) -> Any:
        """The bytes."""
        return data

    @staticmethod
    def dumps(value: Any) -> bytes:
        """The bytes; of what there was none of, none."""
        return value if isinstance(value, bytes) else b""


def put_back(
    connection: Redis, name: str, kept: sights.Message | None, *, lost: bool = False
) -> bool:
    """Have RQ run the job again; False: RQ does not have it any more, and nor has the ledger.

    What waits or runs there already is left alone. `lost`: it is known that nothing goes on with
    it, whatever RQ believes. Raises redis.exceptions.RedisError.
    """
    job = _fetch(connection, name)
    if job is None:
        if kept is None:
            return False
        # Redis was emptied, or RQ has let go of it: as it was, under its old id.
        connection.hset(Job.key_for(name), mapping=kept.fields())  # type: ignore[arg-type]
        connection.persist(Job.key_for(name))
        job = _fetch(connection, name)
        if job is None:
            return False
    elif job.get_status(refresh=False) in ("failed", "stopped"):
        try:
            job.requeue()
            return True
        except InvalidJobOperation:
            pass  # its registry has let go of it before its hash
    elif not lost and job.get_status(refresh=False) not in ("canceled", "finished"):
        return True
    _enqueue(connection, job)
    return True


def _fetch(connection: Redis, name: str) -> Job | None:
    try:
        return Job.fetch(name, connection=connection, serializer=Opaque)
    except NoSuchJobError:
        return None


def _enqueue(connection: Redis, job: Job) -> None:
    queue = Queue(job.origin, connection=connection, serializer=Opaque)
    started = StartedJobRegistry(job.origin, connection=connection)
    failed = FailedJobRegistry(job.origin, connection=connection)
    # Otherwise RQ would come across the old execution, and call the job abandoned once more.
    there: Any = connection.zrange(started.key, 0, -1)
    entries = [
        entry for entry in there if entry.decode().rpartition(":")[0] == job.id
    ]  # fmt: skip
    with connection.pipeline() as pipeline:
        if entries:
            pipeline.zrem(started.key, *entries)
        pipeline.zrem(failed.key, job.id)
        pipeline.lrem(IntermediateQueue(queue.key, connection=connection).key, 0, job.id)
        pipeline.execute()
    job.started_at = job.ended_at = None
    job._exc_info = ""
    queue.enqueue_job(job)
