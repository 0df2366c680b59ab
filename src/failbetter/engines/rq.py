"""RQ as an engine: the ids of jobs go through Redis to RQ's ordinary workers.

An RQ job is made for each sending. Its function is `failbetter.rq.work.run`, by name, and its only
argument is the job's id: nothing of a user's is in it, and nothing that comes back is unpickled.
Its own id is that of the job and of its fence, so that a ticket which is sent twice is one RQ job.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

from failbetter import ids
from failbetter.engine import Capabilities
from failbetter.errors import ConfigurationError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis
    from rq import Queue

    from failbetter.engine import Keeper, Ticket

WORK = "failbetter.rq.work.run"
"""The function that RQ's workers call."""

MARGIN = 600
"""Seconds for which RQ leaves a job alone after its timeout: to end it is failbetter's part, and
what waits for the ledger to write its end is not to be killed."""

# The short names of RQ 3, which RQ 2 does not know.
_SERIALIZERS = {
    "json": "rq.serializers.JSONSerializer",
    "pickle": "rq.serializers.DefaultSerializer",
}
_SCHEMES = ("redis://", "rediss://", "unix://")
# Seconds for Redis to accept a connection, and to answer; the URL may say otherwise.
_PATIENCE = 5.0
_CHUNK = 1_000
_PAGE = 2_000
# An RQ job that failed is of no use but to look at: the ledger has what is to be known. Seconds.
_FAILURE_TTL = 3_600
# A worker renews its key when no less than 60 s are left of it, whatever its interval is.
_OVERDUE = 45_000
_NO_KEY = -2
# Seconds after which a worker whose key is gone would have written it anew, did it live: also when
# Redis had forgotten everything.
_ABSENT = 90.0


class RQ:
    """`App(url, engine=failbetter.RQ("redis://localhost"))`: jobs run in ordinary RQ workers.

    `redis`: Redis' URL, or a `redis.Redis` of your own. `serializer`: what the workers are started
    with (`rq worker --serializer`), such as "json"; None: RQ's own. Queues keep their names. Needs
    the extra `failbetter[rq]`: ConfigurationError is raised without it, at first use.
    """

    name = "rq"
    capabilities = Capabilities(
        queues=True,
        priorities=False,
        delays=False,
        knows_what_it_holds=True,
        timeouts="always",
        cause_of_crashes=True,
        charges_crashes=True,
        cancels_running=True,
        limits={
            "priorities": "a job with a priority above 0 goes to the front of its queue, ahead of"
            " those that went there before it; other priorities make no difference",
            "delays": "`failbetter maintain` sends a job when it is due: without it nothing that"
            " waits for a time, a retry included, is run",
            "timeouts": "in a SimpleWorker a body that cannot be interrupted takes its worker"
            " with it",
            "cause_of_crashes": "with `rq worker -w failbetter.rq.Worker`: a plain `rq worker`"
            " keeps the signal to itself",
            "charges_crashes": "not in a SimpleWorker, where nobody outlives the crash",
        },
    )

    def __init__(self, redis: str | Redis, *, serializer: str | None = None) -> None:
        if isinstance(redis, str) and not redis.startswith(_SCHEMES):
            # The text may hold a password, so it is not repeated.
            raise ConfigurationError("RQ's URL is none of Redis; write redis://host:port/number")
        self._redis = redis
        self._serializer = _SERIALIZERS.get(serializer or "", serializer)
        self._lock = threading.Lock()
        self._client: Redis | None = None
        # Until when nothing is sent (monotonic s), as the last sending waited in vain.
        self._not_before = 0.0
        self._queues: dict[str, Queue] = {}
        # Where in a queue was found what was last asked for.
        self._found_at: dict[str, int] = {}
        # Since when a worker's key has not been there (monotonic s).
        self._absent: dict[str, float] = {}

    # -- the verbs

    def send(self, tickets: Sequence[Ticket]) -> None:
        """Put ids on their way: a round trip for each thousand."""
        ordered = _in_order(tickets)
        with self._reached() as client:
            from redis.exceptions import TimeoutError as NoAnswer

            if time.monotonic() < self._not_before:
                raise NoAnswer("it gave no answer a moment ago")
            try:
                for first in range(0, len(ordered), _CHUNK):
                    self._send_some(client, ordered[first : first + _CHUNK])
            except NoAnswer:
                # Else everyone who enqueues would wait for it in turn.
                self._not_before = time.monotonic() + _PATIENCE
                raise

    def _send_some(self, client: Redis, tickets: Sequence[Ticket]) -> None:
        pipeline = client.pipeline(transaction=False)
        # What an earlier sending has left: were that about to expire, so would be this.
        pipeline.delete(*(_job_key(rq_id(ticket)) for ticket in tickets))
        for (name, is_urgent), some in _by_place(tickets).items():
            queue = self._queue(client, name)
            pipeline.sadd(queue.redis_queues_keys, queue.key)
            for ticket, job in zip(some, _as_rq_has_them(queue, some), strict=True):
                pipeline.hset(_job_key(rq_id(ticket)), mapping=job)
            push = pipeline.lpush if is_urgent else pipeline.rpush
            push(queue.key, *map(rq_id, some))
        pipeline.execute()

    def missing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Those that are in no queue, and that no living worker has taken up.

        What RQ notes of a job is not believed alone: a worker that dies between taking an id and
        noting so leaves "queued" behind, and one that dies later "started".
        """
        lost: list[Ticket] = []
        queued: dict[str, dict[bytes, Ticket]] = {}
        started: list[tuple[Ticket, str]] = []
        with self._reached() as client:
            pipeline = client.pipeline(transaction=False)
            for ticket in tickets:
                pipeline.hmget(_job_key(rq_id(ticket)), "status", "worker_name")
            for ticket, (status, worker) in zip(tickets, pipeline.execute(), strict=True):
                if status == b"queued":
                    queued.setdefault(ticket.queue, {})[rq_id(ticket).encode()] = ticket
                elif status == b"started" and worker:
                    started.append((ticket, worker.decode()))
                else:
                    lost.append(ticket)
            for name, sought in queued.items():
                lost += self._not_in(client, name, sought)
            for _, worker in started:
                pipeline.pttl(_worker_key(worker))
            for (ticket, _), left in zip(started, pipeline.execute(), strict=True):
                if left == _NO_KEY or 0 <= left < _OVERDUE:
                    lost.append(ticket)
        return lost

    def _not_in(self, client: Redis, name: str, sought: dict[bytes, Ticket]) -> list[Ticket]:
        """Which of them the queue does not hold.

        Who asks goes through what waits in its order, so that what is asked for next follows.
        """
        key = self._queue(client, name).key
        begin = self._found_at.get(name, 0)
        self._found_at[name] = _strike_out(client, key, begin, sought)
        if sought and begin:
            # The queue has moved on since, or another one asks for others.
            self._found_at[name] = _strike_out(client, key, 0, sought)
        return list(sought.values())

    def is_gone(self, keeper: Keeper) -> str | None:
        """By what RQ has on record of its worker, and of the job that a work horse was for.

        Only Redis' own clock counts. That something is not there is no news by itself, as Redis may
        have forgotten all: of a worker it is once a living one would have written it again.
        """
        key, job = _worker_key(keeper.name), None if keeper.job is None else _job_key(keeper.job)
        with self._reached() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.pttl(key)
            pipeline.hmget(key, "death", "state")
            if job is not None:
                pipeline.hget(job, "status")
            left, (death, state), *rest = pipeline.execute()
        if left == _NO_KEY:
            return self._if_long_absent(keeper.name)
        self._absent.pop(keeper.name, None)
        if death is not None:
            return f"its RQ worker {keeper.name} has ended"
        if 0 <= left < _OVERDUE:
            return f"its RQ worker {keeper.name} sends no heartbeat any more"
        if rest and (state == b"idle" or (rest[0] is not None and rest[0] != b"started")):
            return f"its RQ worker {keeper.name} has no work horse for it any more"
        return None

    def _if_long_absent(self, worker: str) -> str | None:
        now = time.monotonic()
        if now - self._absent.setdefault(worker, now) < _ABSENT:
            return None
        return f"its RQ worker {worker} is not registered with Redis any more"

    def close(self) -> None:
        """Close the connections that were opened here; not those of a client that was given."""
        with self._lock:
            client, self._client = self._client, None
            self._queues.clear()
        if client is not None and client is not self._redis:
            client.close()

    # -- its connection

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Redis]:
        """The client; what goes wrong with it is told without the URL's password."""
        client = self._opened()
        from redis.exceptions import RedisError

        try:
            yield client
        except (RedisError, OSError) as error:
            raise EngineUnavailable(
                f"Redis at {_shown(client)} did not take part: {error}. No job is lost: the ledger"
                " has them, and `failbetter maintain` sends them once Redis answers"
            ) from error

    def _opened(self) -> Redis:
        with self._lock:
            if self._client is None:
                self._client = _open(self._redis)
            return self._client

    def _queue(self, client: Redis, name: str) -> Queue:
        from rq import Queue

        queue = self._queues.get(name)
        if queue is None:
            queue = Queue(name, connection=client, serializer=self._serializer)
            self._queues[name] = queue
        return queue


def rq_id(ticket: Ticket) -> str:
    """What RQ calls the ticket's job."""
    return f"failbetter-{ids.to_text(ticket.id)}-{ticket.fence}"


def rq_timeout(timeout: float | None) -> int:
    """When RQ ends the job of a task with that timeout, should failbetter not have: whole s."""
    return -1 if timeout is None else math.ceil(timeout) + MARGIN


def _job_key(rq_job: str) -> str:
    from rq.job import Job

    return f"{Job.redis_job_namespace_prefix}{rq_job}"


def _worker_key(name: str) -> str:
    from rq import Worker

    return f"{Worker.redis_worker_namespace_prefix}{name}"


def _by_place(tickets: Sequence[Ticket]) -> dict[tuple[str, bool], list[Ticket]]:
    """By their queue, and whether they go to the front of it."""
    found: dict[tuple[str, bool], list[Ticket]] = {}
    for ticket in tickets:
        found.setdefault((ticket.queue, ticket.priority > 0), []).append(ticket)
    return found


def _in_order(tickets: Sequence[Ticket]) -> list[Ticket]:
    """As they are to be pushed, each once. Of those to the front, the last one pushed is first."""
    each = list({rq_id(ticket): ticket for ticket in tickets}.values())
    front = sorted((one for one in reversed(each) if one.priority > 0), key=lambda t: t.priority)
    return [*(one for one in each if one.priority <= 0), *front]


def _as_rq_has_them(queue: Queue, tickets: Sequence[Ticket]) -> Iterator[dict[Any, Any]]:
    """What RQ keeps of the job for each ticket.

    RQ makes one for each timeout, as its release has them; only what tells one job from another is
    filled in here: that makes many of them in a fifth of the time.
    """
    from rq.job import JobStatus
    from rq.utils import now

    made: dict[float | None, dict[Any, Any]] = {}
    for ticket in tickets:
        if ticket.timeout not in made:
            job = queue.create_job(
                WORK,
                timeout=rq_timeout(ticket.timeout),
                result_ttl=0,
                failure_ttl=_FAILURE_TTL,
                status=JobStatus.QUEUED,
            )
            job.enqueued_at = now()
            made[ticket.timeout] = job.to_dict()
        text = ids.to_text(ticket.id)
        data = queue.serializer.dumps((WORK, None, (text,), {}))
        yield {
            **made[ticket.timeout],
            "data": zlib.compress(data),
            "description": f"{ticket.task} {text}",
        }


def _strike_out(client: Redis, key: str, begin: int, sought: dict[bytes, Ticket]) -> int:
    """Remove what is found in the list, from there on; where the last of all was, 0 if not all
    were."""
    for first in itertools.count(begin, _PAGE):
        page: Any = client.lrange(key, first, first + _PAGE - 1)
        for one in page:
            sought.pop(one, None)
        if not sought:
            return first
        if len(page) < _PAGE:
            return 0
    raise AssertionError("a queue without end")


def _open(redis: str | Redis) -> Redis:
    try:
        import rq  # noqa: F401
        from redis import ConnectionError, Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ConfigurationError(
            f"engine=failbetter.RQ(…) needs RQ: pip install 'failbetter[rq]' ({error})"
        ) from error
    if not isinstance(redis, str):
        return redis
    # A connection that a restart of Redis has broken is opened anew, once; but whoever enqueues
    # does not wait for a Redis that is down, as nothing depends on it.
    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 1, (ConnectionError,))}
    options |= {"socket_connect_timeout": _PATIENCE, "socket_timeout": _PATIENCE}
    try:
        return Redis.from_url(redis, **options)
    except ValueError:
        text = "RQ's URL cannot be read; write redis://host:port/number"
        raise ConfigurationError(text) from None


def _shown(client: Redis) -> str:
    found = client.connection_pool.connection_kwargs
    if "path" in found:
        return str(found["path"])
    return f"{found.get('host', 'localhost')}:{found.get('port', 6379)}"
