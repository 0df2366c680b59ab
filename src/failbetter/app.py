"""The App: where the ledger is, which tasks exist, and the verbs a user calls."""

from __future__ import annotations

import inspect
import os
import re
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from failbetter import alerts as alerting
from failbetter import health, holds, hooks, ids, ledger, recovery, restarts, retention
from failbetter.breaker import Breaker
from failbetter.durations import Duration, seconds
from failbetter.errors import ConfigurationError, JobNotFound, UnknownTask
from failbetter.health import Health
from failbetter.holds import Hold
from failbetter.job import By, Job
from failbetter.lifecycle.alerting import Watched
from failbetter.lifecycle.backoff import Backoff
from failbetter.lifecycle.events import DISCARDED, FAILED, GROUP_OPENED, Event, Hook
from failbetter.lifecycle.policy import OnLost, OnPartial, Replay
from failbetter.lifecycle.states import State
from failbetter.mirror.check import Checker, MirrorCheck
from failbetter.mirror.options import Mirror, checked_mirror
from failbetter.options import options_of, silenced
from failbetter.rate_limit import RateLimit
from failbetter.records import Records
from failbetter.recovery.report import RecoveryProgress, RecoveryReport, RecoveryStatus
from failbetter.restarts import WorkerRestart
from failbetter.retention import Keep
from failbetter.task import OnMissing, Task, check_queue
from failbetter.triage import operations, preview
from failbetter.triage.edit import edit_and_retry
from failbetter.triage.prune import PruneReport
from failbetter.triage.queries import Jobs
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from failbetter.doubt import Happened
    from failbetter.engine import Engine
    from failbetter.ledger.adopted import Follower
    from failbetter.ledger.database import Database
    from failbetter.ledger.holds import Kind
    from failbetter.triage.operations import Operation
    from failbetter.triage.preview import Preview

P = ParamSpec("P")
R = TypeVar("R")

MAX_PAYLOAD = 1_000_000
# URLs that can be right without being looked at by SQLAlchemy, which a worker's child does without.
_PLAIN_URL = re.compile(
    r"sqlite:///[\w./ -]*[\w-]"
    r"|postgresql(\+psycopg)?://([\w.-]+(:[^@/\s]*)?@)?[\w.-]*(:\d{1,5})?/[\w-]+(\?[\w=&:.,/-]*)?"
)
_NAME = re.compile(r"[\w.:-]{1,150}")


class App:
    """An application's jobs.

    `url`: the ledger's database, as SQLAlchemy writes it; else `$FAILBETTER_URL`, else
    `$DATABASE_URL`. `lease`: how long a worker is believed alive without news (a duration, 30 s;
    else `$FAILBETTER_LEASE`). `durability`: "full", or "relaxed" where a power cut may take the
    last moments. `code_version`: what attempts record; else `$FAILBETTER_CODE_VERSION`, else a
    fingerprint of the loaded code. `max_payload`: bytes of arguments as JSON. `allow_edit`: whether
    `Job.edit_and_retry` is there for whoever operates it. `fleet_folder`:
    where workers of one host see one another's locks (beside a SQLite file;
    for a server in a folder of the user's own under the host's temporary folder; else
    `$FAILBETTER_FLEET_FOLDER`). `schema`: of the tables, where the database has schemas; else
    `$FAILBETTER_SCHEMA`, else where its connections make tables. `keep_succeeded` (7 days),
    `keep_discarded` (30 days), `keep_failed` (90 days): for how long workers keep jobs after their
    end before they delete them (a duration of a minute at least; None: for ever); else
    `$FAILBETTER_KEEP_SUCCEEDED` and so on, where "forever" is None. `engine`: what carries jobs to
    workers that are not failbetter's own (`failbetter.RQ`, `failbetter.Celery`); None: its own.

    Nothing is opened before it is needed. Raises ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        engine: Engine | None = None,
        lease: Duration | None = None,
        durability: Literal["full", "relaxed"] = "full",
        code_version: str | None = None,
        max_payload: int = MAX_PAYLOAD,
        allow_edit: bool = False,
        fleet_folder: str | os.PathLike[str] | None = None,
        schema: str | None = None,
        keep_succeeded: Duration | EllipsisType | None = ...,
        keep_discarded: Duration | EllipsisType | None = ...,
        keep_failed: Duration | EllipsisType | None = ...,
    ) -> None:
        url = url or os.environ.get("FAILBETTER_URL") or os.environ.get("DATABASE_URL")
        if not url:
            raise ConfigurationError(
                "where is the ledger? Give App a URL such as sqlite:///jobs.db,"
                " or set FAILBETTER_URL"
            )
        if durability not in ("full", "relaxed"):
            raise ConfigurationError(f'durability is "full" or "relaxed", not {durability!r}')
        self.engine = engine
        """What carries the ids of jobs to the workers, if those are not failbetter's own."""
        self.lease = _lease(lease if lease is not None else os.environ.get("FAILBETTER_LEASE", 30))
        self.keep = Keep(
            succeeded=_kept("keep_succeeded", keep_succeeded, Keep().succeeded),
            discarded=_kept("keep_discarded", keep_discarded, Keep().discarded),
            failed=_kept("keep_failed", keep_failed, Keep().failed),
        )
        """How long jobs are kept after their end, in seconds."""
        self.code_version = code_version or os.environ.get("FAILBETTER_CODE_VERSION") or None
        self.tasks: dict[str, Task[..., Any]] = {}
        self.mirrors: list[Mirror] = []
        """What `mirror` was given."""
        self.hooks: list[Hook] = []
        """Which tasks are run when something happens."""
        self.alerts: dict[str, alerting.Alert] = {}
        """What `alert` was given, by name."""
        self.followers: list[Follower] = []
        """What follows engines' own jobs: see `failbetter.rq.watch`."""
        self.records_of_jobs = Records()
        """How records are found that jobs refer to."""
        fleet_folder = fleet_folder or os.environ.get("FAILBETTER_FLEET_FOLDER") or None
        self.fleet_folder = None if fleet_folder is None else Path(fleet_folder).absolute()
        self.schema = schema or os.environ.get("FAILBETTER_SCHEMA") or None
        self.url = url
        self.durable = durability == "full"
        if not _PLAIN_URL.fullmatch(url) or (self.schema and url.startswith("sqlite")):
            # Anything but a plain file is looked at now, so that what cannot work is said at once.
            _ = self.database
        self._max_payload = max_payload
        self.allow_edit = allow_edit
        """Whether a failed job may be retried with other arguments."""

    def __repr__(self) -> str:
        return f"<App {self.database.name}>"

    @cached_property
    def database(self) -> Database:
        """The ledger's database. Made, not opened, when it is first asked for."""
        return ledger.database.Database(
            self.url,
            durable=self.durable,
            fleet_folder=self.fleet_folder,
            schema=self.schema,
        )

    # -- tasks

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 5,
        backoff: Backoff | Duration | Sequence[Duration] | Callable[[int], Duration] = ...,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
        fail_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        discard_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        timeout: Duration | None = 3600,
        expires_after: Duration | None = None,
        release_within: Duration = "24h",
        max_crashes: int = 3,
        max_losses: int = 10,
        on_lost: OnLost = "retry",
        unique: Callable[..., object] | None = None,
        exclusive: Callable[..., object] | None = None,
        subject: Callable[..., object] | None = None,
        tags: Sequence[str] = (),
        replay: Replay = "safe",
        redact: Sequence[str] = (),
        on_partial: OnPartial = "fail",
        verify: Callable[..., bool | Happened | None] | None = None,
        recover_within: Duration | None = None,
        stalled_after: Duration | None = None,
        breaker: Breaker | None = None,
        rate_limit: RateLimit | None = None,
        version: Callable[..., int | datetime | None] | None = None,
        on_missing: OnMissing = "fail",
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Register a function as a task; with its policy in brackets, or bare.

        `name`: else the function's. `queue`, `priority` (higher first). `max_attempts`: what
        raised or timed out, the first run included. `backoff`: see `fixed`, `linear`,
        `exponential`; a duration, a list of them, or a callable from the attempt's number (from
        1). `retry_on`, `fail_on`, `discard_on`: exception types; the most specific wins, and an
        exception that none names ends the job. `timeout`: of a running body; None for none.
        `expires_after`: how long a job may wait in all. `release_within`: how long it may be put
        off by `Release`. `max_crashes`, `max_losses`: deaths of its process, of its worker.
        `on_lost`: "fail" never runs a body twice whose outcome is unknown. `unique`,
        `exclusive`: callables from the arguments to a key: at most one live, at most one running
        job of that key. `subject`: what the job is about. `version`, with it: a callable from the
        arguments to a whole number or an aware datetime; a job older than the last success of its
        subject is not run, and ends `discarded(superseded)`. `replay`: what a later manual retry
        may do. `redact`: parameters whose values are shown nowhere. `on_partial`: "succeed" lets
        a job in which some items failed (see `RunningJob.each`) end `succeeded(partial)` instead
        of `failed(partial)`. `verify`: called with a `Doubt` and the job's arguments before the
        job runs again: whether that effect has happened (`True`, `Happened(result)` or `False`;
        None: nobody knows). `recover_within`: work that was interrupted longer ago than this ends
        `failed(lost)`. `stalled_after`: how long a running body may go without progress. `breaker`:
        a `Breaker`, which holds its jobs while what they need is down. `rate_limit`: a
        `RateLimit`: so many of its bodies begin in a time, and no more. `on_missing`: whether a
        job ends `failed` or ("discard") `discarded(missing_record)` when a record that it was given
        is gone by the time it runs.

        Raises TypeError or ValueError for an option that cannot be, ConfigurationError for a
        name that is taken.
        """
        if function is not None:
            return self._register(function, {})
        return lambda found: self._register(found, options)

    @overload
    def on_failed(self, function: Callable[[Event], R], /) -> Task[[Event], R]: ...
    @overload
    def on_failed(
        self,
        function: None = None,
        /,
        *,
        task: hooks.Tasks = None,
        **options: Any,
    ) -> Callable[[Callable[[Event], R]], Task[[Event], R]]: ...

    def on_failed(
        self, function: Any = None, /, *, task: hooks.Tasks = None, **options: Any
    ) -> Any:
        """Register a function as a task that is run for each job that ends `failed`.

        The function takes one argument, the `Event`. Its job is made in the transaction that
        writes the failure, whoever does: there is one for each event, and it runs in any worker,
        with the options of `task` (attempts, timeout, queue and so on), and never changes the job
        that it is told of. Its own failure is no event. `task`: the task or tasks whose jobs are
        meant, or their names; None: all.

        Raises TypeError for a function that does not take one argument and for options that
        your code would have to compute (`unique`, `exclusive`, `subject`, `version`); else as
        `task`.
        """
        return hooks.listen(self, FAILED, function, task, options)

    @overload
    def on_discarded(self, function: Callable[[Event], R], /) -> Task[[Event], R]: ...
    @overload
    def on_discarded(
        self,
        function: None = None,
        /,
        *,
        task: hooks.Tasks = None,
        **options: Any,
    ) -> Callable[[Callable[[Event], R]], Task[[Event], R]]: ...

    def on_discarded(
        self, function: Any = None, /, *, task: hooks.Tasks = None, **options: Any
    ) -> Any:
        """As `on_failed`, for each job that ends `discarded`: by itself, or by a person."""
        return hooks.listen(self, DISCARDED, function, task, options)

    @overload
    def on_group_opened(self, function: Callable[[Event], R], /) -> Task[[Event], R]: ...
    @overload
    def on_group_opened(
        self,
        function: None = None,
        /,
        *,
        task: hooks.Tasks = None,
        **options: Any,
    ) -> Callable[[Callable[[Event], R]], Task[[Event], R]]: ...

    def on_group_opened(
        self, function: Any = None, /, *, task: hooks.Tasks = None, **options: Any
    ) -> Any:
        """As `on_failed`, for the first failure of a cause, and the first after it was resolved.

        Once for each cause, however many jobs fail of it at once. An ignored group is not told of,
        nor is a cause of which jobs had failed before there was such a hook.
        """
        return hooks.listen(self, GROUP_OPENED, function, task, options)

    def alert(
        self,
        name: str,
        *,
        when: alerting.Rule,
        to: alerting.To,
        quiet: Duration = "1h",
        queue: str = "default",
    ) -> None:
        """Have somebody told when a rule is so, and when it is no longer so.

        `when`: a rule of `failbetter.alerts`. `to`: addresses as apprise writes them (the extra
        `alerts`), or a callable that is given a `failbetter.alerts.Notice`. `quiet`: once told, it
        is not told again for so long (a duration). `queue`: of the jobs that tell it, which run in
        your workers, are tried again, and never hold an address. Workers of the app watch, and
        `failbetter maintain -A`: one of all, every 10 s.

        Raises TypeError or ValueError for what cannot be, ConfigurationError when the extra is
        not there.
        """
        check_queue(queue, alerting.TELL)
        task = self.tasks.get(alerting.TELL)
        if task is None:
            options = {"name": alerting.TELL, "max_attempts": 8, "timeout": 120}
            task = self._register(alerting.teller(self.alerts), options, silent=True)
        policy = task.options.policy.to_json()
        watched = alerting.watched(name, when, quiet=quiet, policy=policy, told_on=queue)
        self.alerts[name] = alerting.Alert(watched, to)

    @property
    def watched(self) -> list[Watched]:
        """What alerts go by, without whom they are told to."""
        return [alert.watched for alert in self.alerts.values()]

    def _register(
        self, function: Callable[P, R], given: dict[str, Any], *, silent: bool = False
    ) -> Task[P, R]:
        if not callable(function):
            raise TypeError("@app.task decorates a function; write its options by name")
        name = given.pop("name", None) or getattr(function, "__name__", "")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no task name; give one with name=")
        known = self.tasks.get(name)
        if known is not None and not _same_function(known.function, function):
            raise ConfigurationError(
                f"there is a task {name!r} already, in {known.function.__module__};"
                " give one of the two another name with name="
            )
        options = options_of(name, **given)
        if silent:
            options = silenced(options)
        task = Task(self, function, name, options, self._max_payload)
        self._check_parameters(task)
        task.mirror = self._mirror_of(task, self.mirrors)
        self.tasks[name] = task
        return task

    def _check_parameters(self, task: Task[..., Any]) -> None:
        if inspect.isgeneratorfunction(task.function) or inspect.isasyncgenfunction(task.function):
            raise TypeError(f"task {task.name} is a generator, which nobody would run to its end")
        missing = set(task.options.policy.redact) - set(task.arguments.signature.parameters)
        if missing:
            raise ValueError(f"task {task.name}: redact names no parameter of it: {missing}")

    def records(self, session_factory: Callable[[], Any]) -> None:
        """Say how records of SQLAlchemy that jobs were given are looked up again.

        `session_factory`: opens a plain session when called, such as a `sessionmaker`. Of each
        such job it is called once, where its body runs (for an async body in a thread); the
        session is open while the body runs and then closed, which undoes what was not committed.
        Django's records need nothing of this. Raises TypeError for what cannot be called.
        """
        if not callable(session_factory):
            raise TypeError(
                "app.records takes what opens a session when called, such as sessionmaker(engine),"
                f" not {session_factory!r}"
            )
        self.records_of_jobs.factory = session_factory

    def mirror(
        self,
        table: str,
        *,
        key: str,
        from_arg: str,
        status: str | None = None,
        error: str | None = None,
        ended_at: str | None = None,
        values: Mapping[str, str | int | bool | None] | None = None,
        tasks: Sequence[str | Task[..., Any]] | None = None,
        url: str | None = None,
    ) -> None:
        """Keep a row of your own in step with its job: of several jobs of a row, with the newest.

        `table`: its name, or "schema.table". `key`: the column by which the row is found, and
        `from_arg` the parameter whose value that is; if it is None, the job has no row. At least
        one of the columns `status` (the job's state), `error` (for your users to read, else NULL;
        at most 200 characters: a sentence by the job's reason, or what the body said with `Fail`
        or `Discard`; never an exception's type or message) and `ended_at` (UTC, NULL while the
        job is live). `values`: what the status is for a state ("failed") or a state with its
        reason ("failed(timeout)"), else the state's name. `tasks`: those meant, or their names;
        else all tasks of the app with that parameter, also those registered later.

        In the ledger's own database the row is written in the transaction that moves the job. If
        it is locked or cannot be written, the job goes on, and the row follows within 5 s of the
        time at which it can be. `url`: of another database, where every row follows within 5 s
        while both databases are up and a worker of the app runs. `health` says what lags behind,
        and `check_mirrors` compares and repairs.

        Raises TypeError or ValueError for what cannot be, ConfigurationError for a task that has
        a mirror already or has no such parameter.
        """
        names = None
        if tasks is not None:
            if isinstance(tasks, (str, Task)):
                raise TypeError(f"tasks is a list of tasks or their names, not {tasks!r}")
            names = [_task_name(task) for task in tasks]
        made = checked_mirror(
            table,
            key=key,
            from_arg=from_arg,
            status=status,
            error=error,
            ended_at=ended_at,
            values=values,
            tasks=names,
            url=None if url == self.url else url,
        )
        if made in self.mirrors:
            return  # by a module that is loaded twice
        mirrors = [*self.mirrors, made]
        found = {name: self._mirror_of(task, mirrors) for name, task in self.tasks.items()}
        self.mirrors = mirrors
        for name, one in found.items():
            self.tasks[name].mirror = one

    @staticmethod
    def _mirror_of(task: Task[..., Any], mirrors: Sequence[Mirror]) -> Mirror | None:
        found = [one for one in mirrors if one.applies_to(task.name, task.arguments.signature)]
        if len(found) > 1:
            raise ConfigurationError(
                f"task {task.name} has two mirrors, of {found[0].table} and of {found[1].table}:"
                " a job is mirrored in one row; narrow them with tasks="
            )
        return found[0] if found else None

    def find_task(self, name: str) -> Task[..., Any]:
        """The task of that name. Raises UnknownTask, naming near ones."""
        found = self.tasks.get(name)
        if found is None:
            known = ", ".join(sorted(self.tasks)) or "none at all"
            raise UnknownTask(f"no task {name!r} is registered; there are: {known}")
        return found

    # -- jobs

    def _job_made(self, number: int, created: bool) -> Job:
        return Job(self.database, number, created=created, editor=self._edit)

    def job(self, id: str) -> Job:
        """The job of that id. Raises JobNotFound; ValueError when the text is no id."""
        number = ids.from_text(id)
        row = ledger.reads.job(self.database, number)
        if row is None:
            raise JobNotFound(f"no job {id} is in {self.database.name}")
        return Job(self.database, number, row=row, editor=self._edit)

    @property
    def jobs(self) -> Jobs:
        """All jobs, newest first: a query to narrow with `where`."""
        return self._jobs(ledger.filters.Filters())

    @property
    def failed(self) -> Jobs:
        """The failed jobs, newest first: a query to narrow with `where`."""
        return self._jobs(ledger.filters.Filters(states=(State.FAILED.value,)))

    def _jobs(self, filters: ledger.filters.Filters) -> Jobs:
        return Jobs(
            self.database,
            filters,
            decoders=self._decoders,
            missing=self.records_of_jobs.missing,
            editor=self._edit,
        )

    def _edit(self, job: Job, args: Mapping[str, Any], by: By) -> Job:
        return Job(self.database, edit_and_retry(self, job, args, by), editor=self._edit)

    @property
    def _decoders(self) -> dict[str, Callable[[str], object]]:
        """Of each task, what restores its arguments."""
        return {name: task.arguments.decode for name, task in self.tasks.items()}

    def preview(self, token: str) -> Preview:
        """Open a preview again.

        Raises OperationNotFound when there is none of that token (they are kept for a day),
        Refused when it was acted on already, ValueError when the text is no token.
        """
        return preview.find(self.database, token)

    @property
    def operations(self) -> list[Operation]:
        """The bulk acts, the newest first."""
        return list(operations.listed(self.database))

    def operation(self, id: str) -> Operation:
        """The operation of that id. Raises OperationNotFound; ValueError when the text is no id."""
        return operations.find(self.database, id)

    # -- holds

    def pause(
        self,
        queue: str | None = None,
        *,
        task: str | None = None,
        group: str | None = None,
        breaker: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Hold:
        """Keep the jobs of a queue, of a task, of a group (a fingerprint) or of a breaker waiting.

        Exactly one is named. Within a second no worker begins any more of them; what runs goes on,
        and nothing is spent. What is paused already stays so, with its reason. `reason` is shown
        to whoever asks what a job waits for, `actor` says who did it.

        Raises ValueError for what cannot be paused.
        """
        kind, name = _held(queue, task, group, breaker)
        return holds.pause(self.database, kind, name, reason=reason, actor=actor)

    apause = twin(pause)

    def resume(
        self,
        queue: str | None = None,
        *,
        task: str | None = None,
        group: str | None = None,
        breaker: str | None = None,
        rate: float | None = None,
    ) -> None:
        """Let go of what was paused, all at once or, unless it is a queue, `rate` jobs a second.

        A breaker that has opened by itself is closed so, too.
        What is let go of at a pace needs a worker or `failbetter maintain` to do so. Raises
        Refused when nothing is paused there, ValueError for a name or rate that cannot be.
        """
        kind, name = _held(queue, task, group, breaker)
        if rate is not None and kind == "queue":
            raise ValueError("only what is not a queue is let go of at a rate")
        holds.resume(self.database, kind, name, rate=rate)

    aresume = twin(resume)

    def holds(self) -> list[Hold]:
        """What is kept waiting on purpose, the oldest first."""
        return holds.every(self.database)

    aholds = twin(holds)

    # -- care

    def health(self) -> Health:
        """Findings about the ledger and its workers. Never raises for a ledger out of reach."""
        return health.check(self.database)

    ahealth = twin(health)

    def restart_workers(self, *, timeout: Duration | None = None) -> list[WorkerRestart]:
        """Ask every worker to finish what it runs and to go on with the code that is on disk.

        Returns at once, or waits up to `timeout` for what comes of it. What a worker cannot finish
        within its shutdown timeout is handed back uncharged; one that cannot load the new code
        goes on with what it has. Raises LedgerError when the ledger cannot be written.
        """
        return restarts.restart(self.database, None if timeout is None else seconds(timeout))

    arestart_workers = twin(restart_workers)

    def recover(
        self,
        *,
        force: bool = False,
        timeout: Duration = 30,
        skip_window: Duration = 0,
        dry_run: bool = False,
        max_retries: int = 3,
        retry_delay: Duration = 5,
        progress: Callable[[RecoveryProgress], object] | None = None,
    ) -> RecoveryReport:
        """Find what was interrupted and hand it back, at once; for before an application serves.

        Makes sure first that the ledger can be read and written; while it cannot, tries again
        `max_retries` times, `retry_delay` apart. One recovery runs at a time, over all processes
        and hosts; another waits for it. `timeout` bounds all of it: it stops between two batches.
        `skip_window`: does nothing when one ended so short a time ago, unless `force`. `dry_run`:
        changes nothing, and reports what it would do. `progress` is called between batches, and
        while it waits; what it raises ends the recovery there, and nothing is half done.

        Raises LedgerUnavailable, LedgerFull or SchemaMismatch when the ledger cannot do its part.
        """
        ask = recovery.startup.Ask(
            force=force,
            timeout=seconds(timeout),
            skip_window=seconds(skip_window),
            dry_run=dry_run,
            max_retries=max_retries,
            retry_delay=seconds(retry_delay),
            progress=progress,
        )
        return recovery.startup.Recovery(self.database, ask).run()

    arecover = twin(recover)

    def needs_recovery(self) -> bool:
        """Whether a job is held by a worker that seems to be gone, or has waited too long.

        Raises LedgerError when it cannot be known.
        """
        return recovery.startup.needs_recovery(self.database)

    aneeds_recovery = twin(needs_recovery)

    def recovery_status(self) -> RecoveryStatus:
        """Whether a recovery is at work, how the last one went, what sweeps have done.

        Raises LedgerError.
        """
        return recovery.status.look(self.database)

    arecovery_status = twin(recovery_status)

    def prune(
        self,
        /,
        older_than: Duration | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        export: str | os.PathLike[str] | None = None,
        **filters: Any,
    ) -> PruneReport:
        """Delete jobs that have ended, with all that is kept of them, now.

        Without anything: what is past its time by the app's `keep_…`, as workers do it. Else those
        that match `filters` (as of `Jobs.where`) and ended longer than `older_than` ago; the rest
        is as of `Jobs.prune`. Raises ValueError when every ended job would be meant and `all` does
        not say so, TypeError for a filter that there is not, LedgerError.
        """
        if older_than is None and not filters and not all:
            if export is not None:
                raise ValueError("export: say what to delete, such as older_than='90d'")
            return self._prune_kept(dry_run=dry_run)
        return self.jobs.where(**filters).prune(
            older_than=older_than, all=all, dry_run=dry_run, export=export
        )

    aprune = twin(prune)

    def _prune_kept(self, *, dry_run: bool) -> PruneReport:
        """What is past its time by the app's settings."""
        pruned: dict[str, int] = {}
        if dry_run:
            for state, kept in self.keep.seconds_by_state().items():
                found = self.jobs.where(state=state).prune(older_than=kept, dry_run=True)
                pruned |= found.pruned
            return PruneReport(pruned, {}, dry_run=True)
        pruner = retention.Pruner(self.database, self.keep, None)
        while gone := pruner.step():
            for state, number in gone.items():
                pruned[state] = pruned.get(state, 0) + number
        return PruneReport(pruned, {})

    def check_mirrors(self, *, dry_run: bool = False, limit: int | None = None) -> MirrorCheck:
        """Compare each mirrored row with its newest job and, unless `dry_run`, repair it.

        `limit`: at most so many rows, of the newest jobs. A row that is not there is only told
        of. Reads every row by itself; repairs wait up to 15 s in all. Raises LedgerError.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"a limit is a number of rows from 0, not {limit}")
        checker = Checker(self.database, self.mirror_urls)
        return checker.check(dry_run=dry_run, limit=limit)

    acheck_mirrors = twin(check_mirrors)

    @property
    def mirror_urls(self) -> dict[str, str]:
        """The other databases with mirrored rows, by what jobs' rows call them."""
        return {one.database: one.url for one in self.mirrors if one.database and one.url}

    def migrate(self) -> tuple[str | None, str]:
        """Create or upgrade the schema; the revisions before (None: there was none) and after."""
        return ledger.migrate.upgrade(self.database)

    def close(self) -> None:
        """Close the ledger's connections. They open again when they are needed."""
        if "database" in self.__dict__:
            self.database.close()


def _held(
    queue: str | None, task: str | None, group: str | None, breaker: str | None
) -> tuple[Kind, str]:
    """The kind and name of what is to be held. Raises ValueError unless exactly one is given."""
    named: list[tuple[Kind, str | None]] = [
        ("queue", queue),
        ("task", task),
        ("group", group),
        ("breaker", breaker),
    ]
    given = [(kind, name) for kind, name in named if name is not None]
    if len(given) != 1:
        raise ValueError(
            "name what is meant: a queue, a task, a group or a breaker, and only one of them"
        )
    return given[0]


def _task_name(task: object) -> str:
    if isinstance(task, Task):
        return task.name
    if isinstance(task, str):
        return task
    raise TypeError(f"tasks are named by a text or given as they are, not {task!r}")


def _same_function(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """A module that is loaded twice (reload, `__main__`) registers the same function again."""
    return (one.__qualname__, inspect.getsourcefile(one)) == (
        other.__qualname__,
        inspect.getsourcefile(other),
    )


def _lease(value: Duration) -> float:
    try:
        lease = seconds(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"lease: {error}") from None
    if not 2 <= lease <= 86_400:
        raise ConfigurationError(f"a lease is 2 s to 1 day, not {value!r}")
    return lease


def _kept(name: str, value: Duration | EllipsisType | None, default: float | None) -> float | None:
    if isinstance(value, EllipsisType):
        given = os.environ.get(f"FAILBETTER_{name.upper()}")
        if not given:
            return default
        value = given
    try:
        return retention.keep_for(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {error}") from None
