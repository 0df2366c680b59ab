"""A task: a function and its policy, and the ways to ask for it to be run."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

import msgspec

from failbetter import ledger, records
from failbetter.durations import Duration, as_version, micros, moment, seconds
from failbetter.errors import EngineUnavailable, LedgerError, Refused
from failbetter.faultpoints import passing
from failbetter.lifecycle.policy import Policy
from failbetter.limits import DRILL, bounded_key
from failbetter.payload import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from failbetter.app import App
    from failbetter.engine import Engine
    from failbetter.job import Job
    from failbetter.ledger.enqueue import NewJob
    from failbetter.mirror.options import Mirror

_logger = logging.getLogger("failbetter.task")

P = ParamSpec("P")
R = TypeVar("R")

Errors = tuple[type[BaseException], ...]
OnMissing = Literal["fail", "discard"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a task is decorated with, checked; durations in seconds."""

    policy: Policy
    queue: str = "default"
    priority: int = 0
    retry_on: Errors = (Exception,)
    fail_on: Errors = ()
    discard_on: Errors = ()
    delays: Callable[[int], Duration] | None = None
    expires_after: float | None = None
    unique: Callable[..., object] | None = None
    exclusive: Callable[..., object] | None = None
    subject: Callable[..., object] | None = None
    version: Callable[..., object] | None = None
    tags: tuple[str, ...] = ()
    verify: Callable[..., object] | None = None
    on_missing: OnMissing = "fail"
    outage: Errors = ()
    """What its breaker counts."""


class Task(Generic[P, R]):
    """A registered function. Calling it runs it here and now, as the plain function."""

    def __init__(
        self, app: App, function: Callable[P, R], name: str, options: Options, max_payload: int
    ) -> None:
        self.app = app
        self.function = function
        self.name = name
        self.options = options
        self.is_async = inspect.iscoroutinefunction(function)
        self.arguments = Arguments(function, name, max_payload)
        self._policy_json = options.policy.to_json()
        self.mirror: Mirror | None = None
        """What `App.mirror` says of the rows that follow its jobs, if it does."""
        self.tags_json = msgspec.json.encode(options.tags).decode() if options.tags else None
        self.__doc__ = function.__doc__
        self.__name__ = name
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def using(
        self,
        *,
        run_after: Duration | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires_after: Duration | None = None,
        connection: Any = None,
    ) -> Call[P, R]:
        """The task with other settings for the jobs made through what is returned.

        `run_after`: seconds, a timedelta or duration text from now, or an aware datetime.
        `connection`: of the caller, to the ledger's own database: the job becomes part of its
        open transaction, is accepted when that is committed and never was when it is rolled back.
        A SQLAlchemy connection or session (an async one with `aenqueue`), Django's connection, or
        a connection of the driver. Until the commit the job's handle cannot be read.
        Raises TypeError or ValueError for a setting that cannot be.
        """
        return Call(self, run_after, queue, priority, expires_after, connection)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Accept a job to run this task; durable when this returns.

        Raises TypeError naming an argument that does not fit (nothing is stored then),
        PayloadTooLarge, and LedgerError when the ledger cannot take it. With `unique`, the live
        job of that key is returned if there is one, its `created` False.
        """
        return self.using().enqueue(*args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """`enqueue` for async callers: the same, in a thread."""
        return await self.using().aenqueue(*args, **kwargs)

    def enqueue_many(self, calls: Iterable[Sequence[Any] | dict[str, Any]]) -> list[Job]:
        """Accept many jobs in one transaction: all of them or, on any error, none.

        `calls`: for each job its positional arguments as a sequence or its keyword arguments as a
        dict. The jobs are returned in that order.
        """
        return self.using().enqueue_many(calls)

    async def aenqueue_many(self, calls: Iterable[Sequence[Any] | dict[str, Any]]) -> list[Job]:
        """`enqueue_many` for async callers: the same, in a thread."""
        return await self.using().aenqueue_many(calls)

    @contextlib.contextmanager
    def loaded(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Arguments as stored ones are restored, with their records while the block lasts.

        Raises Refused when a record is not there, and whatever its library raises.
        """
        try:
            with self.app.records_of_jobs.loaded(args, kwargs) as call:
                yield call
        except records.Missing as error:
            raise Refused(f"{self.name}(): {error}") from None

    def _key(self, which: Callable[..., object] | None, args: Any, kwargs: Any) -> str | None:
        if which is None:
            return None
        value = which(*args, **kwargs)
        return None if value is None else bounded_key(f"{self.name}:{key_text(value)}")

    def _mirrored(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[str, str] | tuple[None, None]:
        if self.mirror is None:
            return None, None
        return self.mirror.of(self.name, self.arguments.signature, args, kwargs)


def key_text(value: object) -> str:
    """A key as text. Raises TypeError for what is no JSON value."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class Call(Generic[P, R]):
    """A task with settings of one occasion: what `Task.using` returns."""

    def __init__(
        self,
        task: Task[P, R],
        run_after: Duration | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires_after: Duration | None = None,
        connection: Any = None,
    ) -> None:
        options = task.options
        if run_after is not None:
            moment(run_after, 0.0)
        self._task = task
        self._run_after = run_after
        self._connection = connection
        self._queue = options.queue if queue is None else check_queue(queue, task.name)
        self._priority = options.priority if priority is None else check_priority(priority)
        self._expires_after = (
            options.expires_after if expires_after is None else seconds(expires_after)
        )

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `Task.enqueue`."""
        return self._insert([self._new_job(args, kwargs, self._now())])[0]

    def enqueue_many(self, calls: Iterable[Sequence[Any] | dict[str, Any]]) -> list[Job]:
        """As `Task.enqueue_many`."""
        return self._insert(self._new_jobs(calls))

    def new_job(self, args: Sequence[Any], kwargs: dict[str, Any]) -> NewJob:
        """The job that `enqueue` would insert. Raises as that does."""
        return self._new_job(args, kwargs, self._now())

    def _new_jobs(self, calls: Iterable[Sequence[Any] | dict[str, Any]]) -> list[NewJob]:
        now = self._now()
        new = []
        for call in calls:
            if isinstance(call, dict):
                new.append(self._new_job((), call, now))
            elif isinstance(call, (str, bytes)):
                raise TypeError(
                    "enqueue_many takes a sequence of arguments for each job;"
                    f" for one text write ({call!r},)"
                )
            else:
                new.append(self._new_job(tuple(call), {}, now))
        return new

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """`enqueue` for async callers: the same, in a thread or on the async connection given."""
        if self._connection is None:
            return await asyncio.to_thread(self.enqueue, *args, **kwargs)
        return (await self._ajoin([self._new_job(args, kwargs, self._now())]))[0]

    async def aenqueue_many(self, calls: Iterable[Sequence[Any] | dict[str, Any]]) -> list[Job]:
        """`enqueue_many` for async callers: as `aenqueue`."""
        if self._connection is None:
            return await asyncio.to_thread(self.enqueue_many, calls)
        return await self._ajoin(self._new_jobs(calls))

    def _now(self) -> float:
        """Seconds since the epoch by the ledger's clock, as far as it is known here."""
        return self._task.app.database.now() / 1_000_000

    def _new_job(self, args: Sequence[Any], kwargs: dict[str, Any], now: float) -> NewJob:
        task = self._task
        options = task.options
        payload = task.arguments.encode(args, kwargs)
        created_at = micros(now)
        run_at = created_at
        if self._run_after is not None:
            run_at = micros(moment(self._run_after, now))
        expires_at = None
        if self._expires_after is not None:
            expires_at = max(created_at, run_at) + micros(self._expires_after)
        mirror, mirror_key = task._mirrored(args, kwargs)
        return ledger.enqueue.NewJob(
            task.name,
            self._queue,
            self._priority,
            run_at,
            created_at,
            expires_at,
            payload,
            task._policy_json,
            task._key(options.unique, args, kwargs),
            task._key(options.exclusive, args, kwargs),
            None
            if options.subject is None
            else bounded_key(key_text(options.subject(*args, **kwargs))),
            None if options.version is None else as_version(options.version(*args, **kwargs)),
            task.tags_json,
            mirror,
            mirror_key,
            created_at if self._sends and run_at <= created_at else None,
        )

    @property
    def _sends(self) -> bool:
        """Whether a job is sent to an engine as soon as it is accepted; in a caller's transaction,
        nobody here knows when that is."""
        return self._task.app.engine is not None and self._connection is None

    def _insert(self, new: list[NewJob]) -> list[Job]:
        app = self._task.app
        if self._connection is None:
            inserted = ledger.enqueue.insert_jobs(app.database, new)
            if app.engine is not None:
                self._send(app.engine, new, inserted)
        else:
            inserted = ledger.joining.insert_jobs(app.database, self._connection, new)
        return [app._job_made(number, created) for number, created in inserted]

    def _send(self, engine: Engine, new: list[NewJob], inserted: list[tuple[int, bool]]) -> None:
        """Send what is accepted. If that cannot be, it is sent later: the ledger has it."""
        tickets = [
            ledger.sending.ticket_of(number, job)
            for (number, is_new), job in zip(inserted, new, strict=True)
            if is_new and job.sent_at is not None
        ]
        passing("before_send")
        try:
            if tickets:
                engine.send(tickets)
        except EngineUnavailable as error:
            _logger.warning(
                "%s. The %d jobs are accepted; `failbetter maintain` sends them when it is back",
                error,
                len(tickets),
            )
            # Without this, they are missed only after a while.
            with contextlib.suppress(LedgerError), self._task.app.database.write() as tx:
                ledger.sending.mark_unsent(tx, [ticket.id for ticket in tickets])

    async def _ajoin(self, new: list[NewJob]) -> list[Job]:
        app = self._task.app
        inserted = await ledger.joining.ainsert_jobs(app.database, self._connection, new)
        return [app._job_made(number, created) for number, created in inserted]


def check_queue(name: object, task: str) -> str:
    """The name of a queue for that task. Raises ValueError for one that cannot be."""
    if not isinstance(name, str) or not 0 < len(name) <= 100 or name != name.strip():
        raise ValueError(f"a queue's name is a text of 1 to 100 characters, not {name!r}")
    if name.startswith(DRILL) and not task.startswith(DRILL):
        raise ValueError(
            f"queues that begin with {DRILL!r} are those of `failbetter drill`, which no other"
            f" worker serves and which it clears; give {name!r} another name"
        )
    return name


def check_priority(value: object) -> int:
    """A priority. Raises ValueError for one that cannot be."""
    if isinstance(value, bool) or not isinstance(value, int) or not -32768 <= value <= 32767:
        raise ValueError(f"a priority is a whole number from -32768 to 32767, not {value!r}")
    return value
