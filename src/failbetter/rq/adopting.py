"""Follows RQ's own jobs by its registries: what nobody could tell of is found here.

Each look is quick: what failed lately, what runs, what the ledger believes to be live. Now and
then it is a full one, which compares all that RQ has as failed with what was there before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.registry import FailedJobRegistry, StartedJobRegistry

from failbetter import ids
from failbetter.errors import EngineUnavailable
from failbetter.fleet import let_go_of
from failbetter.ledger import adopted, turns
from failbetter.lifecycle.adopting import Sight, lost
from failbetter.lifecycle.states import Cause, State
from failbetter.rq import returning, sights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from redis import Redis

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_logger = logging.getLogger("failbetter.rq")

_TURN = "adopting rq"
# Seconds for which one of several `failbetter maintain` follows, unless it goes on.
_TURN_FOR = 20.0
_FULL = 30.0
"""Seconds between two full looks."""
_BATCH = 500
_LATEST = 1_000
# Seconds for which a job may stay between RQ's queue and its execution: that takes milliseconds.
_BETWEEN = 30.0
# RQ's own heartbeats, where nothing tells how often they come (s).
_INTERVAL = 30.0
_MARGIN = 60.0
LOST, STUCK = _ENDINGS = ("lost", "stuck")
KEEPER = "failbetter"
"""The field of a worker's hash that names its lock, and the folder where that is."""


class Keeper(msgspec.Struct, frozen=True):
    """By what a watching worker's process is seen to be gone: its lock file, and whose folder."""

    lock: str
    fleet: str


class _Execution(msgspec.Struct):
    """An execution that RQ believes to be under way."""

    name: str
    entry: str
    expires: float
    beat: float | None
    worker: str
    host: str
    pid: str
    keeper: Keeper | None


class Adopter:
    """Follows the jobs of `queues` (None: of all there are) on one Redis."""

    engine = sights.ENGINE

    def __init__(self, redis: Redis, queues: Iterable[str] | None) -> None:
        self.redis = redis
        # RQ's connections answer in bytes, which the library's types leave open.
        self._ask: Any = redis
        self._queues = None if queues is None else list(dict.fromkeys(queues))
        self._number = ids.take()
        self._lock = threading.Lock()
        self._failed: dict[str, dict[bytes, float]] = {}
        self._next_full = 0.0
        self._beats: dict[str, tuple[float | None, float]] = {}
        self._between: dict[tuple[str, str], float] = {}
        # What nothing goes on with, whatever RQ believes: with the mark that it had then.
        self._lost: dict[str, str] = {}
        self._heard: set[str] = set()

    def add(self, queues: Iterable[str] | None) -> None:
        """Follow these, too."""
        known = self._queues
        self._queues = None if known is None or queues is None else [*{*known, *queues}]

    def is_on(self, redis: Redis) -> bool:
        """Whether it follows what is on that Redis."""
        place = ("host", "port", "path", "db")
        ours, others = (one.connection_pool.connection_kwargs for one in (self.redis, redis))
        return [ours.get(name) for name in place] == [others.get(name) for name in place]

    def means(self, queue: str) -> bool:
        """Whether jobs of that queue are followed."""
        return self._queues is None or queue in self._queues

    def close(self) -> None:
        """Close its connections. They open again when they are needed."""
        self.redis.close()

    # -- one look

    def follow(self, database: Database) -> None:
        """Look once, and write what has changed; nothing while another process does so.

        Raises LedgerError, EngineUnavailable.
        """
        with self._lock:
            mine = database.transact(
                lambda tx: turns.take(tx, _TURN, self._number, _TURN_FOR), durable=False
            )
            if not mine:
                return
            try:
                self._look(database)
            except (RedisError, OSError) as error:
                self._next_full = 0.0
                why = f"{type(error).__name__}: {error}"
                self._note(database, why)
                raise EngineUnavailable(
                    f"RQ's Redis is out of reach, so that its jobs are not followed: {why}"
                ) from error

    def _look(self, database: Database) -> None:
        queues = self._names()
        full = time.monotonic() >= self._next_full
        started = self._started(queues)
        gone = self._gone(database, started)
        gone += self._stuck(queues, {one.name for one in started})
        self._follow(database, gone)
        for batch in self._failed_now(database, queues, full=full):
            self._follow(database, self._seen(batch, database))
        self._come_back(database, {one.name for one in gone})
        self._put_back(database)
        self._live(database)
        if full:
            self._next_full = time.monotonic() + _FULL
            self._note(database, None)
            self._sweep_locks(database)

    def _names(self) -> list[str]:
        if self._queues is not None:
            return self._queues
        found = self._ask.smembers(Queue.redis_queues_keys)
        prefix = Queue.redis_queue_namespace_prefix
        return sorted(one.decode().removeprefix(prefix) for one in found)

    def _follow(self, database: Database, found: Sequence[Sight]) -> None:
        for at in range(0, len(found), _BATCH):
            some = found[at : at + _BATCH]
            database.transact(lambda tx, some=some: adopted.follow(tx, self.engine, some))  # type: ignore[misc]

    def _note(self, database: Database, error: str | None) -> None:
        def write(tx: Tx) -> None:
            before = adopted.noted(tx, self.engine)
            now = tx.now()
            if error is None:
                adopted.note(tx, adopted.Followed(self.engine, now))
            elif before is None or before.error is None:
                at = None if before is None else before.at
                adopted.note(tx, adopted.Followed(self.engine, at, error, now))

        database.transact(write, durable=False)

    def _seen(self, names: Sequence[str], database: Database) -> list[Sight]:
        """What RQ has of these; what it has not is not among them."""
        found = sights.read(self.redis, names) if names else []
        unknown = [name for name, raw in zip(names, found, strict=True) if raw is None]
        if unknown:
            database.transact(lambda tx: adopted.forget(tx, self.engine, unknown))
        return [
            sights.sight(raw)
            for raw in found
            if raw is not None and self._is_meant(raw) and self._lost.get(raw.name) != raw.mark
        ]

    def _come_back(self, database: Database, gone: set[str]) -> None:
        """What was believed to be lost and goes on after all, or of which RQ knows more by now."""
        names = [name for name in self._lost if name not in gone]
        back = []
        for name, raw in zip(names, sights.read(self.redis, names) if names else [], strict=True):
            if raw is None or raw.mark != self._lost[name] or name in self._heard:
                del self._lost[name]
                back.append(name)
        self._follow(database, self._seen(back, database))

    def _is_meant(self, raw: sights.Raw) -> bool:
        return not raw.is_ours and self.means(raw.text("origin"))

    # -- what has failed there

    def _failed_now(
        self, database: Database, queues: Sequence[str], *, full: bool
    ) -> Iterator[list[str]]:
        """Ids of jobs that are in the registry of failures anew, or no longer."""
        for queue in queues:
            key = FailedJobRegistry(queue, connection=self.redis).key
            if queue in self._failed and not full:
                known = self._failed[queue]
                found = dict(self._ask.zrevrange(key, 0, _LATEST - 1, withscores=True))
                changed = [name for name, score in found.items() if known.get(name) != score]
            else:
                known = self._failed.get(queue) or self._known(database, queue)
                found = dict(self._ask.zrange(key, 0, -1, withscores=True))
                changed = [name for name, score in found.items() if known.get(name) != score]
                changed += [name for name in known if name not in found]
                self._failed[queue] = known = {}
            yield from _batches([name.decode() for name in changed])
            # Only now: what a batch could not be written of is looked at again.
            known.update(found)

    def _known(self, database: Database, queue: str) -> dict[bytes, float]:
        """What the ledger has as failed of a queue."""
        found: dict[bytes, float] = {}
        after = 0
        while True:
            with database.look() as tx:
                rows = adopted.failed(tx, self.engine, after, 10 * _BATCH)
            for one in rows:
                mark, _, how = one.mark.rpartition(" ")
                if one.queue == queue and how in _ENDINGS:
                    self._lost[one.name] = mark
                elif one.queue == queue:
                    found[one.name.encode()] = 0.0
            if len(rows) < 10 * _BATCH:
                return found
            after = rows[-1].job_id

    # -- what is believed to run there

    def _started(self, queues: Sequence[str]) -> list[_Execution]:
        found: list[tuple[str, float]] = []
        for queue in queues:
            key = StartedJobRegistry(queue, connection=self.redis).key
            entries = self._ask.zrange(key, 0, -1, withscores=True)
            found += [(entry.decode(), score) for entry, score in entries]
        if not found:
            return []
        with self.redis.pipeline(transaction=False) as pipeline:
            for entry, _ in found:
                pipeline.hmget(_execution(entry).key, "worker_name", "last_heartbeat")
            executions = pipeline.execute()
        workers = sorted({answer[0].decode() for answer in executions if answer[0]})
        with self.redis.pipeline(transaction=False) as pipeline:
            for worker in workers:
                key = Worker.redis_worker_namespace_prefix + worker
                pipeline.hmget(key, "hostname", "pid", KEEPER)
            answers = dict(zip(workers, pipeline.execute(), strict=True))
        made = []
        for (entry, score), (worker, beat) in zip(found, executions, strict=True):
            name = (worker or b"").decode()
            host, pid, keeper = answers.get(name, (None, None, None))
            made.append(
                _Execution(
                    entry.rpartition(":")[0],
                    entry,
                    score,
                    None if beat is None else float(beat),
                    name,
                    (host or b"").decode(),
                    (pid or b"").decode(),
                    _keeper(keeper),
                )
            )
        return made

    def _gone(self, database: Database, started: Sequence[_Execution]) -> list[Sight]:
        """Of what is believed to run, what has lost its worker."""
        now = time.monotonic()
        beats = {}
        self._heard = set()
        believed: dict[str, tuple[str, _Execution, float] | None] = {}
        for one in started:
            beat, since = self._beats.get(one.entry, (None, now))
            if beat != one.beat:
                since = now
                if one.entry in self._beats:
                    self._heard.add(one.name)
            beats[one.entry] = (one.beat, since)
            found = lost(
                silent=now - since,
                interval=max(one.expires - one.beat - _MARGIN, _INTERVAL) if one.beat else 0.0,
                over=one.expires < time.time(),
                process_gone=_is_gone(database, one.keeper),
            )
            # Of several executions of a job, one that goes on is enough.
            if found is None or believed.get(one.name, one) is None:
                believed[one.name] = None
            else:
                believed[one.name] = (found[0], one, now - since)
        self._beats = beats
        names = [name for name, found in believed.items() if found is not None]
        made = []
        for raw in sights.read(self.redis, names) if names else []:
            if raw is None or raw.status != "started" or not self._is_meant(raw):
                continue
            said = believed[raw.name]
            assert said is not None
            why, one, silent = said
            evidence = {"host": one.host, "pid": one.pid, "silent_seconds": round(silent, 1)}
            self._lost[raw.name] = raw.mark
            made.append(sights.lost(raw, why, evidence, one.worker, LOST))
        return made

    def _stuck(self, queues: Sequence[str], started: set[str]) -> list[Sight]:
        """What a worker has taken from its queue and did not live to begin."""
        now = time.monotonic()
        between: dict[tuple[str, str], float] = {}
        names = []
        for queue in queues:
            key = Queue(queue, connection=self.redis).key
            for entry in self._ask.lrange(IntermediateQueue(key, self.redis).key, 0, -1):
                name = entry.decode()
                if name in started:
                    continue
                since = between[queue, name] = self._between.get((queue, name), now)
                if now - since > _BETWEEN:
                    names.append(name)
        self._between = between
        made = []
        for raw in sights.read(self.redis, names) if names else []:
            if raw is not None and raw.status == "queued" and self._is_meant(raw):
                why = "a worker took it from its queue and was gone before it began"
                self._lost[raw.name] = raw.mark
                made.append(sights.lost(raw, why, {}, "", STUCK))
        return made

    # -- what the ledger believes to be live there

    def _live(self, database: Database) -> None:
        after = 0
        while True:
            with database.look() as tx:
                rows = adopted.live(tx, self.engine, after, _BATCH)
            if rows:
                self._look_again(database, rows)
            if len(rows) < _BATCH:
                return
            after = rows[-1].job_id

    def _look_again(self, database: Database, rows: Sequence[adopted.Live]) -> None:
        names = [_id_of(row.name, row.message) for row in rows]
        found = []
        for row, raw in zip(rows, sights.read(self.redis, names), strict=True):
            if raw is None:
                found.append(_vanished(row))
            elif self._lost.get(raw.name) != raw.mark:
                found.append(sights.sight(raw))
        self._follow(database, found)

    # -- what a person has retried

    def _put_back(self, database: Database) -> None:
        after: int | None = 0
        while after is not None:
            with database.look() as tx:
                waiting, after = adopted.to_send(tx, self.engine, after, _BATCH)
            for one in waiting:
                self._put_one_back(database, one)

    def _put_one_back(self, database: Database, one: adopted.Waiting) -> None:
        with database.look() as tx:
            if not adopted.still_to_send(tx, one.job_id):
                return
        kept = sights.message(one.message)
        name = _id_of(one.name, one.message)
        (raw,) = sights.read(self.redis, [name])
        is_lost = raw is not None and self._lost.get(name) == raw.mark
        there = returning.put_back(self.redis, name, kept, lost=is_lost)
        self._lost.pop(name, None)
        (raw,) = sights.read(self.redis, [name])
        if there and raw is not None:
            found = sights.sight(raw)
            _logger.info("[%s] put back into RQ: job %s", found.task, name)
            database.transact(lambda tx: self._sent(tx, one.job_id, found))
            return
        _logger.error("job %s cannot be put back into RQ, which does not have it any more", name)
        gone = msgspec.structs.replace(_vanished(one), run=f"not sent {time.time():.6f}")
        self._follow(database, [gone])

    def _sent(self, tx: Tx, number: int, found: Sight) -> None:
        adopted.sent(tx, number)
        adopted.follow(tx, self.engine, [found])

    def _sweep_locks(self, database: Database) -> None:
        """Take away the lock files of watching workers that died long ago."""
        limit = time.time() - 86_400
        for path in database.fleet.folder.glob("rq-*.lock"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    with let_go_of(path) as handle:
                        if handle is not None:
                            path.unlink()


def _batches(names: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(names), _BATCH):
        yield names[at : at + _BATCH]


def _execution(entry: str) -> Execution:
    job, _, execution = entry.rpartition(":")
    return Execution(execution, job, connection=None)  # type: ignore[arg-type]


def _keeper(text: bytes | None) -> Keeper | None:
    with contextlib.suppress(msgspec.MsgspecError):
        return None if text is None else msgspec.json.decode(text, type=Keeper)
    return None


def _is_gone(database: Database, keeper: Keeper | None) -> bool | None:
    """Whether the worker's process, and what it forked, is gone; None: cannot be seen from here."""
    if keeper is None or keeper.fleet != database.fleet.id:
        return None
    path = database.fleet.folder / keeper.lock
    if not path.exists():
        return None
    with let_go_of(path) as handle:
        return handle is not None


def _id_of(name: str, message: str | None) -> str:
    """RQ's id; what the ledger goes by is shortened if it is a long one."""
    kept = sights.message(message)
    return name if kept is None else kept.id


def _vanished(row: adopted.Live | adopted.Waiting) -> Sight:
    """What RQ does not have any more: it has ended with a result to be kept no time, or is lost."""
    kept = sights.message(row.message)
    raw = sights.Raw(row.name, {} if kept is None else kept.fields())
    raw.name = _id_of(row.name, row.message)
    found = sights.lost(
        raw,
        "RQ does not have the job any more: it was deleted there, or Redis was emptied; whether"
        " it ran is not known",
        {},
        "",
        "gone",
    )
    found = msgspec.structs.replace(
        found, created_at=row.created_at, task=row.task, queue=row.queue, message=None
    )
    if raw.text("result_ttl") != "0":
        return found
    return msgspec.structs.replace(
        found, state=State.SUCCEEDED, reason=None, cause=Cause.RETURNED, trouble=None
    )
