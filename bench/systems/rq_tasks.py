"""RQ's producer. Its workers import `bench.bodies` by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from bench import bodies

_redis = Redis.from_url(os.environ["BENCH_REDIS"])
_TRACE = "Traceback (most recent call last):\nConnectionError: no route to the host"
_queue = Queue("default", connection=_redis)


class _Producer:
    def __init__(self) -> None:
        self._finished = FinishedJobRegistry(queue=_queue)
        self._failed = FailedJobRegistry(queue=_queue)

    def one(self, body: str) -> Callable[[int], object]:
        return partial(_queue.enqueue, bodies.ALL[body])

    def bulk(self, body: str) -> Callable[[range], object]:
        function = bodies.ALL[body]

        def call(numbers: range) -> object:
            return _queue.enqueue_many([Queue.prepare_data(function, (n,)) for n in numbers])

        return call

    def ended(self, total: int) -> bool:
        return int(_redis.zcard(self._finished.key)) + int(_redis.zcard(self._failed.key)) >= total

    def fail_all(self) -> None:
        ids = _queue.get_job_ids()
        for first in range(0, len(ids), 1_000):
            some = Job.fetch_many(ids[first : first + 1_000], connection=_redis)
            with _redis.pipeline() as pipeline:
                for job in filter(None, some):
                    job.set_status(JobStatus.FAILED, pipeline=pipeline)
                    self._failed.add(job, ttl=31_536_000, exc_string=_TRACE, pipeline=pipeline)
                pipeline.execute()
        _redis.delete(_queue.key)

    def retry_all(self) -> int:
        # As `rq requeue --all` does it.
        ids = self._failed.get_job_ids()
        for job_id in ids:
            self._failed.requeue(job_id)
        return len(ids)


producer = _Producer()
