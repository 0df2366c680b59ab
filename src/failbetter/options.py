"""What `@app.task` takes: checked, and put into what a job carries and what its code keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.breaker import Breaker
from failbetter.durations import Duration, seconds
from failbetter.lifecycle.backoff import Backoff, coerce
from failbetter.lifecycle.policy import DEFAULT_BACKOFF, OnLost, OnPartial, Policy, Replay
from failbetter.rate_limit import RateLimit
from failbetter.task import OnMissing, Options, check_priority, check_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def options_of(
    task: str,
    *,
    queue: str = "default",
    priority: int = 0,
    max_attempts: int = 5,
    backoff: Any = DEFAULT_BACKOFF,
    retry_on: Any = (Exception,),
    fail_on: Any = (),
    discard_on: Any = (),
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
    verify: Callable[..., object] | None = None,
    recover_within: Duration | None = None,
    stalled_after: Duration | None = None,
    breaker: Breaker | None = None,
    rate_limit: RateLimit | None = None,
    version: Callable[..., object] | None = None,
    on_missing: OnMissing = "fail",
    **unknown: Any,
) -> Options:
    """A task's options as they were given, checked. Raises TypeError or ValueError."""
    if unknown:
        raise TypeError(f"task {task}: there is no option {', '.join(sorted(unknown))}")
    if version is not None and subject is None:
        raise ValueError(f"task {task}: a version is of something: give subject= as well")
    keys = {"unique": unique, "exclusive": exclusive, "subject": subject, "version": version}
    for name, key in keys.items():
        if key is not None and not callable(key):
            raise TypeError(f"task {task}: {name} is a callable from the arguments to a key")
    if on_lost not in ("retry", "fail"):
        raise ValueError(f'task {task}: on_lost is "retry" or "fail", not {on_lost!r}')
    if replay not in ("safe", "confirm", "never"):
        raise ValueError(f'task {task}: replay is "safe", "confirm" or "never", not {replay!r}')
    if on_partial not in ("fail", "succeed"):
        raise ValueError(f'task {task}: on_partial is "fail" or "succeed", not {on_partial!r}')
    if on_missing not in ("fail", "discard"):
        raise ValueError(f'task {task}: on_missing is "fail" or "discard", not {on_missing!r}')
    if verify is not None and not callable(verify):
        raise TypeError(f"task {task}: verify is a callable from an effect and the arguments")
    if breaker is not None and not isinstance(breaker, Breaker):
        raise TypeError(f"task {task}: breaker is a failbetter.Breaker, not {breaker!r}")
    if rate_limit is not None and not isinstance(rate_limit, RateLimit):
        raise TypeError(f"task {task}: rate_limit is a failbetter.RateLimit, not {rate_limit!r}")
    delays = None if isinstance(backoff, Backoff) or not callable(backoff) else backoff
    policy = Policy(
        max_attempts=_at_least_one(task, "max_attempts", max_attempts),
        backoff=DEFAULT_BACKOFF if delays is not None else coerce(backoff),
        timeout=None if timeout is None else seconds(timeout),
        release_within=seconds(release_within),
        max_crashes=_at_least_one(task, "max_crashes", max_crashes),
        max_losses=_at_least_one(task, "max_losses", max_losses),
        # A task that must never run again by hand must not be run again by chance either.
        on_lost="fail" if replay == "never" else on_lost,
        replay=replay,
        redact=_texts(task, "redact", redact),
        on_partial=on_partial,
        recover_within=None if recover_within is None else seconds(recover_within),
        stalled_after=None if stalled_after is None else seconds(stalled_after),
        verify=verify is not None,
        breaker=None if breaker is None else breaker.policy(task),
        rate_limit=None if rate_limit is None else rate_limit.policy(task),
    )
    return Options(
        policy=policy,
        queue=check_queue(queue, task),
        priority=check_priority(priority),
        retry_on=_errors(task, "retry_on", retry_on),
        fail_on=_errors(task, "fail_on", fail_on),
        discard_on=_errors(task, "discard_on", discard_on),
        delays=delays,
        expires_after=None if expires_after is None else seconds(expires_after),
        unique=unique,
        exclusive=exclusive,
        subject=subject,
        version=version,
        tags=_texts(task, "tags", tags),
        verify=verify,
        on_missing=on_missing,
        outage=() if breaker is None else breaker.types,
    )


def silenced(options: Options) -> Options:
    """The options of a task whose jobs' ends are no events."""
    return msgspec.structs.replace(
        options, policy=msgspec.structs.replace(options.policy, silent=True)
    )


def _at_least_one(task: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ValueError(f"task {task}: {name} is a whole number from 1, not {value!r}")
    return value


def _texts(task: str, name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"task {task}: {name} is a sequence of texts, not {values!r}")
    return tuple(values)


def _errors(task: str, name: str, value: Any) -> tuple[type[BaseException], ...]:
    types = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
        raise TypeError(f"task {task}: {name} is an exception type or a tuple of them")
    return types
