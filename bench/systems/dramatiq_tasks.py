"""Dramatiq's actors and producer; imported by its workers, too."""

from __future__ import annotations

import os
from collections.abc import Callable

import dramatiq  # type: ignore[import-not-found,unused-ignore]
from dramatiq.brokers.redis import (  # type: ignore[import-not-found,unused-ignore]
    RedisBroker,
)

from bench import bodies

broker = RedisBroker(url=os.environ["BENCH_REDIS"])
dramatiq.set_broker(broker)
_actors = {name: dramatiq.actor(body) for name, body in bodies.ALL.items()}


class _Producer:
    def one(self, body: str) -> Callable[[int], object]:
        call: Callable[[int], object] = _actors[body].send
        return call

    def ended(self, total: int) -> bool:
        # A message stays in this hash until it is acknowledged; results are not kept by default.
        return bool(broker.client.hlen("dramatiq:default.msgs") == 0)


producer = _Producer()
