"""Hooks: tasks that are run when something happens to a job."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from failbetter.durations import micros
from failbetter.lifecycle.events import Event, EventKind, Hook
from failbetter.payload import Arguments
from failbetter.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.app import App

Tasks: TypeAlias = "str | Task[..., Any] | Sequence[str | Task[..., Any]] | None"

# What a hook's jobs are made by runs none of the user's code.
_COMPUTED = ("unique", "exclusive", "subject", "version")
_PLAIN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _EventArgument(Arguments):
    """Of a hook: its parameter is an Event, whatever its annotation says or does not."""

    @cached_property
    def _types(self) -> dict[str, Any]:
        return dict.fromkeys(self.signature.parameters, Event)


def listen(app: App, kind: EventKind, function: Any, task: Tasks, options: dict[str, Any]) -> Any:
    """Register a function as a hook of such events, or give what does. See App.on_failed."""
    only = None if task is None else _names(task)
    if function is not None:
        return _add(app, kind, function, only, options)
    return lambda found: _add(app, kind, found, only, options)


def _add(
    app: App,
    kind: EventKind,
    function: Callable[..., Any],
    only: tuple[str, ...] | None,
    given: dict[str, Any],
) -> Task[..., Any]:
    if isinstance(function, Task) or not callable(function):
        raise TypeError(
            f"@app.on_{kind} decorates a plain function; write its options by name, and give each"
            " event a function of its own"
        )
    computed = [name for name in _COMPUTED if given.get(name) is not None]
    if computed:
        raise TypeError(
            f"a hook has no {' and no '.join(computed)}: its jobs are made, one for each event,"
            " where none of your code runs"
        )
    parameter = _parameter(function)
    made: Task[..., Any] = app._register(function, dict(given), silent=True)
    made.arguments = _EventArgument(function, made.name, app._max_payload)
    options = made.options
    expires_after = options.expires_after
    hook = Hook(
        event=kind,
        task=made.name,
        queue=options.queue,
        priority=options.priority,
        policy=options.policy.to_json(),
        expires_after=None if expires_after is None else micros(expires_after),
        tags=made.tags_json,
        parameter=parameter,
        only=only,
    )
    # A module that is loaded twice registers it again.
    kept = [one for one in app.hooks if (one.event, one.task) != (kind, made.name)]
    app.hooks = [*kept, hook]
    return made


def _parameter(function: Callable[..., Any]) -> str:
    """The name of the parameter that the event is given to."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1 or parameters[0].kind not in _PLAIN:
        name = getattr(function, "__name__", "the function")
        raise TypeError(f"a hook takes one argument, the event: {name}(event)")
    return parameters[0].name


def _names(task: Any) -> tuple[str, ...]:
    alone = isinstance(task, (str, Task)) or not isinstance(task, Sequence)
    found = [task] if alone else list(task)
    names = [one.name if isinstance(one, Task) else one for one in found]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"task= names the task or tasks whose events are meant, not {task!r}")
    return tuple(names)
