"""Celery as an engine: the ids of jobs go through its broker to Celery's ordinary workers.

Each sending is a message for one task, `failbetter.run`, whose only argument is the job's id.
Celery acknowledges it as soon as it is taken up: what is lost after that, the ledger knows of. No
result is kept with Celery.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ids
from failbetter.engine import Capabilities
from failbetter.engines.lost import Lost
from failbetter.errors import ConfigurationError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from failbetter.engine import Keeper, Ticket

TASK = "failbetter.run"
"""The task that Celery's workers run. `failbetter.celery.work` has it."""
WHO = "failbetter_who"
"""The remote control command by which a worker's main process says which one it is."""

_logger = logging.getLogger("failbetter.engines")

_WORK = "failbetter.celery.work"
MARGIN = 120.0
"""Seconds for which Celery leaves a body alone after its timeout: ending it is failbetter's part,
and what it writes then may have to wait for the ledger."""
_NO_LIMIT = 10 * 365 * 86_400.0

# Seconds for the broker to accept a connection, and to answer or take a message on it.
_PATIENCE = 3.0
_LOWEST, _HIGHEST = 0, 9
# Workers are asked who they are at most so often, and have so long to answer (s).
_ASK_EVERY = 3.0
_ANSWER = 1.0
# What was found by asking holds no longer than this without asking (s).
_UNASKED = 60.0
# A worker that outlives its bodies answers at once. One whose bodies run in the process that
# answers may be kept busy by them for a while.
_SILENT, _SILENT_WITH_ITS_BODIES = 15.0, 300.0


class _Silence(msgspec.Struct):
    """A worker that does not answer: when it was first asked in vain, and when last (s)."""

    since: float
    until: float


class Celery:
    """`App(url, engine=failbetter.Celery(celery_app))`: jobs run in ordinary Celery workers.

    `celery_app`: your `celery.Celery`, or where it is ("module:attribute"; then its workers need
    `include=["failbetter.celery.work"]`). Queues keep their names. Needs the extra
    `failbetter[celery]`: ConfigurationError is raised without it, at first use.
    """

    name = "celery"
    capabilities = Capabilities(
        queues=True,
        priorities=False,
        delays=False,
        knows_what_it_holds=False,
        timeouts="always",
        cause_of_crashes=True,
        charges_crashes=True,
        cancels_running=True,
        limits={
            "priorities": "they are handed to the broker, counted from `task_default_priority`:"
            " RabbitMQ heeds them in queues declared with `x-max-priority`, Redis those below its"
            " highest, and neither in what a worker has fetched ahead",
            "delays": "`failbetter maintain` sends a job when it is due: without it nothing that"
            " waits for a time, a retry included, is run",
            "knows_what_it_holds": "a lost id is inferred from the length of its queue and from"
            " what has passed it: it is sent again within a minute while fewer than 10,000 jobs"
            " wait, and now and then one is sent again that was not lost",
            "timeouts": "in the solo pool, and in a threads pool of one, a body that cannot be"
            " interrupted takes its worker with it; in a larger threads pool it runs on",
            "cause_of_crashes": "with the prefork pool: in the others nobody outlives the crash",
            "charges_crashes": "with the prefork pool: in the others the crash of a body is the"
            " loss of its worker",
            "cancels_running": "in a threads pool not while it is in a call that blocks",
        },
    )

    def __init__(self, celery_app: Any) -> None:
        self._given = celery_app
        self._lock = threading.Lock()
        self._idle: list[_Sender] = []
        self._pid = os.getpid()
        self._lost = Lost()
        self._looking = threading.Lock()
        self._answers: dict[str, list[dict[str, Any]]] = {}
        self._asked_at = float("-inf")
        self._silent: dict[str, _Silence] = {}
        if not isinstance(celery_app, str):
            if not hasattr(celery_app, "send_task"):
                kind = type(celery_app).__name__
                raise ConfigurationError(
                    f"failbetter.Celery takes your celery.Celery or its import path, not {kind}"
                )
            self._have_workers_load(celery_app)

    @staticmethod
    def _have_workers_load(celery_app: Any) -> None:
        """Its workers load what runs jobs, when they load all that has tasks."""
        from celery.signals import import_modules

        def load(**_: object) -> None:
            importlib.import_module(_WORK)

        import_modules.connect(load, sender=celery_app, weak=False, dispatch_uid=_WORK)

    # -- the verbs

    def send(self, tickets: Sequence[Ticket]) -> None:
        """Put ids on their way, all over one connection."""
        with self._reached() as sender:
            try:
                for ticket in tickets:
                    sender.send(ticket)
            except sender.errors:
                # The broker may have been started anew since the connection was last used. What
                # is sent twice does no harm.
                sender.reopen()
                for ticket in tickets:
                    sender.send(ticket)

    def missing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Those that are in no queue any more, as far as its length tells."""
        with self._looking, self._reached() as sender:
            return self._lost.look(tickets, sender.depth, time.monotonic())

    def is_gone(self, keeper: Keeper) -> str | None:
        """By what its worker says of itself over Celery's remote control, or that it says nothing.

        What only just fell silent is not believed to be gone.
        """
        with self._looking:
            now = time.monotonic()
            self._ask(now)
            if keeper.name in self._answers:
                self._silent.pop(keeper.name, None)
                return self._if_another(keeper)
            silence = self._silent.setdefault(keeper.name, _Silence(self._asked_at, now))
            silence.until = self._asked_at
            patience = _SILENT if keeper.tells else _SILENT_WITH_ITS_BODIES
            if silence.until - silence.since < patience:
                return None
        return f"its Celery worker {keeper.name} answers no more"

    def _if_another(self, keeper: Keeper) -> str | None:
        """Several workers may have one name, if by mistake."""
        for one in self._answers[keeper.name]:
            if (one.get("pid"), one.get("born"), one.get("space")) == (
                keeper.pid, keeper.born, keeper.space
            ):  # fmt: skip
                return None
            if "pid" not in one:
                return None  # it does not know the question
        return f"its Celery worker {keeper.name} was started anew"

    def _ask(self, now: float) -> None:
        """Ask all workers who they are, unless that was done just now."""
        if now - self._asked_at < _ASK_EVERY:
            return
        if now - self._asked_at > _UNASKED:
            self._silent.clear()  # nobody was asked, so that nobody was silent
        try:
            with self._reached() as sender:
                replies = sender.who()
        except EngineUnavailable:
            self._silent.clear()
            raise
        self._answers = {}
        for reply in replies:
            for name, said in reply.items():
                known = said if isinstance(said, dict) else {}
                self._answers.setdefault(name, []).append(known)
        self._asked_at = now

    def close(self) -> None:
        """Close the connections that were opened here, none of Celery's own."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for sender in idle:
                sender.close()

    # -- its connections

    @contextlib.contextmanager
    def _reached(self) -> Iterator[_Sender]:
        """A connection that nobody else uses meanwhile; what goes wrong is told without secrets."""
        sender = self._taken()
        try:
            sender.be_open()
            yield sender
        except sender.errors as error:
            sender.close()
            raise EngineUnavailable(
                f"Celery's broker {sender.address} did not take part: {_plain(error, sender)}."
                " No job is lost: the ledger has them, and `failbetter maintain` sends them once"
                " the broker answers"
            ) from None
        except BaseException:
            sender.close()
            raise
        with self._lock:
            self._idle.append(sender)

    def _taken(self) -> _Sender:
        with self._lock:
            if self._pid != os.getpid():
                # The parent's, which are not to be touched: not even to close them.
                _abandoned.extend(self._idle)
                self._idle, self._pid = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        return _Sender(self._celery_app())

    def _celery_app(self) -> Any:
        if isinstance(self._given, str):
            self._given = _load(self._given)
            self._have_workers_load(self._given)
        return self._given


_abandoned: list[_Sender] = []


class _Sender:
    """A connection to the broker. Used by one thread at a time."""

    def __init__(self, celery_app: Any) -> None:
        from kombu.exceptions import KombuError

        self._app = celery_app
        self._connection = celery_app.connection_for_write(connect_timeout=_PATIENCE)
        transport = self._connection.transport
        self._is_redis = transport.driver_type == "redis"
        self._bound(transport)
        self.errors: tuple[type[BaseException], ...] = (
            *self._connection.connection_errors,
            *self._connection.channel_errors,
            KombuError,
            OSError,
        )
        self.address = self._connection.as_uri(include_password=False)
        self._base: int | None = celery_app.conf.task_default_priority
        self._producer: Any = None

    def _bound(self, transport: Any) -> None:
        """Have no call wait for ever for a broker that stands still."""
        options = {} if transport is None else dict(self._connection.transport_options or {})
        if self._is_redis:
            options = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE, **options}
        elif transport.driver_type == "amqp":
            options = {"read_timeout": _PATIENCE, "write_timeout": _PATIENCE, **options}
        self._connection.transport_options = options

    # -- its life

    def be_open(self) -> None:
        """Connect, or see that it is connected still."""
        if self._producer is not None and not self._is_broken():
            return
        self.reopen()

    def reopen(self) -> None:
        """Connect anew: one try, and one with each further broker that is named."""
        self.close()
        self._connection.ensure_connection(
            max_retries=max(1, len(self._connection.alt or ())),
            interval_start=0,
            interval_step=0,
            timeout=_PATIENCE,
        )
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)

    def _is_broken(self) -> bool:
        """Whether its other end has closed it: what is written then is lost without an error."""
        if not self._connection.connected:
            return True
        sock = getattr(self._connection.connection, "sock", None)
        if sock is None:
            return False  # redis-py looks itself
        # Nobody writes to a connection on which nothing is asked for, unless to say good-bye.
        return bool(select.select([sock], [], [], 0)[0])

    def close(self) -> None:
        """Close it; it can be opened again."""
        self._producer = None
        try:
            self._connection.collect(socket_timeout=_PATIENCE)
        except Exception:  # of the libraries below: what is broken already is only let go of
            _logger.debug("a broken connection to the broker was closed", exc_info=True)

    # -- what goes over it

    def send(self, ticket: Ticket) -> None:
        """Send one id."""
        number = ids.to_text(ticket.id)
        limit = _NO_LIMIT if ticket.timeout is None else ticket.timeout + MARGIN
        self._app.send_task(
            TASK,
            (number,),
            task_id=f"{number}-{ticket.fence}",
            shadow=ticket.task,  # what it is called where people look at Celery
            queue=ticket.queue,
            priority=self._priority(ticket.priority),
            # Both, or the limits of the application's own tasks would hold.
            time_limit=limit,
            soft_time_limit=limit,
            serializer="json",
            ignore_result=True,
            add_to_parent=False,
            retry=False,
            producer=self._producer,
        )

    def _priority(self, priority: int) -> int:
        """On the broker's scale, of which Redis' begins at the other end."""
        base = self._base or 0
        found = base - priority if self._is_redis else base + priority
        return min(max(found, _LOWEST), _HIGHEST)

    def depth(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with self._connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except self._connection.channel_errors as error:
                if str(getattr(error, "reply_code", None)) != "404":
                    raise
                return 0  # there is none: nobody has sent to it since the broker lost all

    def who(self) -> list[dict[str, Any]]:
        """What all workers say of themselves, by their names."""
        replies = self._app.control.broadcast(
            WHO, connection=self._connection, reply=True, timeout=_ANSWER
        )
        return list(replies or [])


def _load(spec: str) -> Any:
    """The Celery application that `module:attribute` names."""
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{spec!r} names no Celery application; write module:attribute")
    try:
        import celery
    except ImportError as error:
        raise _missing(error) from error
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{spec!r} cannot be loaded: {error}") from error
    if not isinstance(found, celery.Celery):
        raise ConfigurationError(f"{spec} is a {type(found).__name__}, not a celery.Celery")
    return found


def _missing(error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"engine=failbetter.Celery(…) needs Celery: pip install 'failbetter[celery]' ({error})"
    )


def _plain(error: BaseException, sender: _Sender) -> str:
    """An error's text; one that repeats the broker's password loses it."""
    text = str(error) or type(error).__name__
    password = sender._connection.password
    return text.replace(password, "***") if password else text
