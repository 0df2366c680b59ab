"""RQ's producer. Its workers import `bench.bodies` by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from redis import Redis
from rq import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from bench import bodies

_redis = Redis.from_url(os.environ["BENCH_REDIS"])
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

    def retry_all(self) -> int:
        ids = self._failed.get_job_ids()
        for job_id in ids:
            self._failed.requeue(job_id)
        return len(ids)


producer = _Producer()
