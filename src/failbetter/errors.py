"""Everything failbetter raises, and the four things a body may say.

    FailbetterError
    ├── ConfigurationError        a setting that cannot work
    ├── UnknownTask               no task of that name in this app
    ├── JobNotFound               no job of that id in this ledger
    ├── OperationNotFound         no preview or operation of that id in this ledger
    ├── JobFailed                 `Job.result()` of a job that did not succeed
    ├── PayloadTooLarge           the arguments exceed the ledger's limit
    ├── Refused                   an act on a job that its present state does not allow
    ├── NotInJob                  `current_job()` outside a body
    ├── AttemptLost               this attempt is no longer the job's current one
    ├── EffectUncertain           an earlier attempt left an effect in doubt
    ├── EngineUnavailable         the engine (Redis, a broker) is out of reach
    └── LedgerError
        ├── LedgerUnavailable     the database is out of reach, or stayed locked
        ├── LedgerFull            the database's disk is full
        └── SchemaMismatch        the database's schema is not the one this version needs

    Said (BaseException)          Release, Retry, Fail, Discard: said, not suffered

`TimedOut`, `Stalled`, `Interrupted` and `Cancelled` are raised *inside* a body by its worker. Like
the four said things they derive from BaseException: `except Exception` does not swallow them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


class FailbetterError(Exception):
    """Base of every error failbetter raises to its caller."""


class ConfigurationError(FailbetterError):
    """A setting that cannot work: a bad URL, a bad option, a module that cannot be imported."""


class UnknownTask(FailbetterError, LookupError):
    """No task of that name is registered in this app."""


class JobNotFound(FailbetterError, LookupError):
    """No job with that id is in this ledger."""


class OperationNotFound(FailbetterError, LookupError):
    """No preview or operation with that id is in this ledger."""


class JobFailed(FailbetterError):
    """The job whose result was asked for ended without one.

    Attributes: `job_id`, `state` and `reason` as on the job.
    """

    def __init__(self, job_id: str, state: str, reason: str | None, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state
        self.reason = reason


class PayloadTooLarge(FailbetterError, ValueError):
    """The job's arguments, as JSON, exceed the limit (`App(max_payload=…)`, bytes)."""


class Refused(FailbetterError):
    """The job's present state does not allow this act; nothing was changed."""


class NotInJob(FailbetterError, LookupError):
    """`current_job()` was called where no job's body runs."""


class AttemptLost(FailbetterError):
    """This attempt is no longer the job's current one: its writes change nothing any more."""


class EffectUncertain(FailbetterError):
    """An effect was intended by an earlier attempt; whether it happened is not known."""


class EngineUnavailable(FailbetterError):
    """The engine that carries jobs to their workers is out of reach. The ledger has them."""


class LedgerError(FailbetterError):
    """The ledger could not do what was asked; nothing was half done."""


class LedgerUnavailable(LedgerError):
    """The ledger's database is out of reach, or stayed locked for too long.

    Attributes: `passing`: whether another try at once may do, because the connection broke or the
    database undid the transaction for another's sake; `in_doubt`: whether the connection broke
    while the transaction was being committed, so that what it wrote may be there.
    """

    def __init__(self, message: str, *, passing: bool = False, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.in_doubt = in_doubt


class LedgerFull(LedgerError):
    """The ledger's disk is full: nothing was written."""


class SchemaMismatch(LedgerError):
    """The database's schema is not the one this version of failbetter works with."""


class Said(BaseException):
    """Base of what a body says about its own job; never an error of the body."""


class Release(Said):
    """The job must wait; this is not a failure and spends no attempt.

    `after`: seconds, a timedelta or a duration string until it may run again; or an exception
    whose `Retry-After` is read. Without it the `Retry-After` of the exception that this one is
    raised from is used, else 60 s. Bounded by the task's `release_within` and `expires_after`.
    """

    def __init__(self, after: float | str | timedelta | BaseException | None = None) -> None:
        super().__init__(after)
        self.after = after


class Retry(Said):
    """The attempt failed and is charged; run again `after` that long instead of the backoff.

    `after`: seconds, a timedelta or a duration string; None means the task's own backoff.
    """

    def __init__(self, after: float | str | timedelta | None = None) -> None:
        super().__init__(after)
        self.after = after


class Fail(Said):
    """The job ends `failed(by_task)` now, whatever is left of its budgets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class Discard(Said):
    """The job ends `discarded(by_task)` now: there is nothing left to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class TimedOut(BaseException):
    """Raised inside a body that ran past its task's `timeout`."""


class Stalled(TimedOut):
    """Raised inside a body that made no progress for its task's `stalled_after`."""


class Interrupted(BaseException):
    """Raised inside a body whose worker stops and can wait no longer."""


class Cancelled(BaseException):
    """Raised inside a body whose job was cancelled."""
