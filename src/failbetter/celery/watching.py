"""Follows Celery's own tasks: its workers tell the ledger, and what is retried is published again.

Celery keeps no list of what has failed or runs. So only a worker's main process can tell, which is
given each end; it does so in a thread, and keeps what the ledger cannot take at once.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from celery import signals
from celery.exceptions import Ignore, Reject
from celery.utils.imports import symbol_by_name
from kombu.exceptions import OperationalError

from failbetter import ids
from failbetter.errors import ConfigurationError, EngineUnavailable, LedgerError
from failbetter.ledger import adopted, turns
from failbetter.lifecycle.adopting import Sight, ended_in_celery
from failbetter.lifecycle.states import Cause, Reason, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.app import App
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_logger = logging.getLogger("failbetter.celery")

ENGINE = "celery"
_HEADER = "failbetter_adopted"
_OURS = "failbetter."
_TURN, _TURN_FOR = "adopting celery", 20.0
_MOST_KEPT = 10_000
_LAST_WORDS = 5.0
# Seconds for which one write waits for the ledger; no child is forked meanwhile.
_PATIENCE = 2.0
# A child that is forked while a thread is inside of a database's library may hang in it.
_no_fork = threading.Lock()
os.register_at_fork(
    before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release
)
_BATCH = 500
# Of a message's headers, what is of one attempt only.
_OF_ONE_ATTEMPT = {"retries": 0, "eta": None}


class Message(msgspec.Struct):
    """A message as it came: its body as bytes that nobody reads."""

    body: str
    headers: dict[str, Any]
    content_type: str
    content_encoding: str
    exchange: str
    routing_key: str
    reply_to: str | None


class Watched:
    """Follows the tasks of a Celery app in queues (None: all)."""

    engine = ENGINE

    def __init__(self, app: App, celery_app: Any, queues: Sequence[str] | None) -> None:
        self._app = app
        self.celery_app = celery_app
        self._queues = None if queues is None else frozenset(queues)
        self._number = ids.take()
        self._told: queue.Queue[Sight] = queue.Queue(_MOST_KEPT)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    # -- in a worker

    def means(self, name: str, queue_name: str) -> bool:
        """Whether a task of that name and queue is followed."""
        return not name.startswith(_OURS) and (self._queues is None or queue_name in self._queues)

    def tell(self, sight: Sight) -> None:
        """Have it written soon: the worker's loop does not wait for the ledger."""
        try:
            self._told.put_nowait(sight)
        except queue.Full:
            _logger.error("the ledger was not told of task %s: too much waits for it", sight.name)
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._write, name="adopting", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Wait until all is written, for a few seconds."""
        limit = time.monotonic() + _LAST_WORDS
        while self._told.unfinished_tasks and time.monotonic() < limit:
            time.sleep(0.02)

    def _write(self) -> None:
        while True:
            sight = self._told.get()
            pause = 0.1
            while True:
                try:
                    with _no_fork:
                        self._write_one(sight)
                    break
                except LedgerError as error:
                    _logger.warning("the ledger cannot be told; trying again: %s", error)
                    time.sleep(pause)
                    pause = min(2 * pause, 10.0)
                except Exception:
                    _logger.exception("the ledger could not be told of task %s", sight.name)
                    break
            self._told.task_done()

    def _write_one(self, sight: Sight) -> None:
        self._app.database.transact(
            lambda tx: adopted.follow(tx, ENGINE, [sight]), timeout=_PATIENCE
        )

    # -- in `failbetter maintain`

    def follow(self, database: Database) -> None:
        """Publish again what a person has retried. Raises LedgerError, EngineUnavailable."""
        if not database.transact(
            lambda tx: turns.take(tx, _TURN, self._number, _TURN_FOR), durable=False
        ):
            return
        after: int | None = 0
        while after is not None:
            with database.look() as tx:
                waiting, after = adopted.to_send(tx, ENGINE, after, _BATCH)
            for one in waiting:
                self._put_back(database, one)
        database.transact(
            lambda tx: adopted.note(tx, adopted.Followed(ENGINE, tx.now())), durable=False
        )

    def _put_back(self, database: Database, one: adopted.Waiting) -> None:
        with database.look() as tx:
            if not adopted.still_to_send(tx, one.job_id):
                return
        if one.message is None:
            _logger.error("task %s cannot be put back: its message was not kept", one.name)
            return
        kept = msgspec.json.decode(one.message, type=Message)
        try:
            with self.celery_app.producer_pool.acquire(block=True, timeout=_LAST_WORDS) as producer:
                producer.publish(
                    base64.b64decode(kept.body),
                    exchange=kept.exchange,
                    routing_key=kept.routing_key,
                    headers={**kept.headers, **_OF_ONE_ATTEMPT, _HEADER: 1},
                    content_type=kept.content_type,
                    content_encoding=kept.content_encoding,
                    correlation_id=one.name,
                    reply_to=kept.reply_to,
                    delivery_mode=2,
                    retry=False,
                )
        except (OperationalError, OSError) as error:
            raise EngineUnavailable(
                f"Celery's broker is out of reach, so that nothing is put back: {error}"
            ) from error
        database.transact(lambda tx: self._sent(tx, one.job_id))

    def _sent(self, tx: Tx, number: int) -> None:
        adopted.sent(tx, number)

    def close(self) -> None:
        """Nothing stays open but Celery's own pool."""


_watched: list[Watched] = []


def watch(app: App, celery_app: Any, queues: Sequence[str] | None = None) -> None:
    """Have the ledger of `app` follow the tasks of a Celery app: what fails there is a row here.

    To be called in the module that Celery's workers load, and that `failbetter maintain -A` does.
    `queues`: those meant, by name; None: all. A failed attempt, a retry, a lost child process and
    a time limit are told by the worker's main process; a retry from the ledger publishes the same
    message again. What is lost with a worker's main process itself nobody can tell.

    Raises TypeError for what is no list, ConfigurationError where tasks have a request class of
    their own, or another app follows them already.
    """
    if isinstance(queues, str):
        raise TypeError(f"queues is a list of names, not {queues!r}")
    if any(one.celery_app is celery_app for one in _watched):
        raise ConfigurationError("this Celery app is watched already")
    base = symbol_by_name(celery_app.Task.Request)
    if issubclass(base, Watching):
        raise ConfigurationError("this Celery app is watched already")
    watched = Watched(app, celery_app, queues)
    celery_app.Task.Request = type("WatchedRequest", (Watching, base), {"watched": watched})
    _watched.append(watched)
    app.followers.append(watched)


class Watching:
    """What a request of Celery's does besides, in the worker's main process."""

    watched: Watched
    _ended = False
    _requeued = False

    def reject(self, requeue: bool = False) -> None:
        """As Celery's."""
        self._requeued = requeue
        super().reject(requeue=requeue)  # type: ignore[misc]

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; then the ledger is told."""
        try:
            return super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        finally:
            error = exc_info.exception
            self._tell(getattr(error, "exc", error) if _is_wrapped(error) else error, exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """As Celery's. What is ended by its process's death may not come to `on_failure`."""
        try:
            return super().on_timeout(soft, timeout)  # type: ignore[misc]
        finally:
            if not soft:
                self._tell(TimeoutError(f"hard time limit of {timeout} s"), None)

    def __init_subclass__(cls) -> None:
        # Celery makes a class of it for each task, with an `on_success` of its own.
        if "on_success" in cls.__dict__:
            cls.on_success = _then_told(cls.__dict__["on_success"])  # type: ignore[attr-defined]

    def _tell(self, error: BaseException, exc_info: Any) -> None:
        if self._ended or isinstance(error, Ignore):
            return
        if isinstance(error, Reject) and error.requeue:
            return
        self._ended = True
        try:
            sight = _sight(self, error, exc_info)
        except Exception:
            _logger.exception("a failure could not be told of")
            return
        if sight is not None:
            self.watched.tell(sight)


def _then_told(on_success: Any) -> Any:
    """Celery's handler; then the ledger is told of what may have a row there."""

    @functools.wraps(on_success)
    def then_told(self: Any, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        found = on_success(self, failed__retval__runtime, **kwargs)
        info = self.delivery_info or {}
        sent = self.request_dict
        if not failed__retval__runtime[0] and (
            sent.get("retries") or info.get("redelivered") or _HEADER in sent
        ):
            where = str(info.get("routing_key") or "")
            if self.watched.means(self.task_name, where):
                given = {"cause": Cause.RETURNED, "worker": str(self.hostname)}
                self.watched.tell(
                    _made(self.id, self.task_name, where, State.SUCCEEDED, None, **given)
                )
        return found

    return then_told


def _is_wrapped(error: BaseException) -> bool:
    return type(error).__name__ == "ExceptionWithTraceback"


def _sight(request: Any, error: BaseException, exc_info: Any) -> Sight | None:
    info = request.delivery_info or {}
    name = str(request.task_name)
    where = str(info.get("routing_key") or "")
    if not request.watched.means(name, where):
        return None
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    text = str(getattr(exc_info, "traceback", None) or f"{kind}: {error}")
    if exc_info is None:
        kind = "billiard.TimeLimitExceeded"
    end = ended_in_celery(name, kind, text if "Traceback" in text else str(error))
    state, reason = State.FAILED, end.reason
    if kind.endswith(".Retry") or request._requeued:
        state = State.PENDING
    elif end.cause is Cause.CANCELLED:
        state = State.DISCARDED
    return _made(
        request.id,
        name,
        where,
        state,
        None if state is State.PENDING else Reason(reason),
        cause=end.cause,
        trouble=end.trouble,
        evidence={**end.evidence, "pid": request.worker_pid},
        worker=str(request.hostname),
        said=f"{name}(*{request.argsrepr}, **{request.kwargsrepr})",
        message=_message(request, info),
    )


def _made(
    name: str, task: str, where: str, state: State, reason: Reason | None, **given: Any
) -> Sight:
    now = time.time_ns() // 1000
    return Sight(
        name=name,
        task=task,
        queue=where,
        mark=f"{state} {now}",
        state=state,
        reason=reason,
        run=str(now),
        created_at=None,
        run_at=now,
        ended_at=None if state is State.PENDING else now,
        **given,
    )


def _message(request: Any, info: dict[str, Any]) -> str | None:
    body = request.body
    if isinstance(body, str):
        body = body.encode()
    if not isinstance(body, (bytes, memoryview)):
        return None
    kept = Message(
        base64.b64encode(bytes(body)).decode(),
        {name: value for name, value in request.request_dict.items() if _is_plain(name, value)},
        request.content_type,
        request.content_encoding,
        str(info.get("exchange") or ""),
        str(info.get("routing_key") or ""),
        request.reply_to,
    )
    return msgspec.json.encode(kept).decode()


def _is_plain(name: str, value: object) -> bool:
    if name in ("delivery_info", "properties", "hostname", "reply_to", "correlation_id"):
        return False  # what the worker has added
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        msgspec.json.encode(value)
        return True
    return False


def _flush(**_: object) -> None:
    for one in _watched:
        one.flush()


signals.worker_shutdown.connect(_flush)
