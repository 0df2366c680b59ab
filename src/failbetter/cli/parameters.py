"""Options that several commands share, as dataclasses; and how a function becomes a command.

A command is a function that returns its exit code. A parameter of it whose type is one of these
dataclasses stands for all of its fields as options. An option that a group before the command
knows as well may be given there: `failbetter --json failed list` is `failbetter failed list
--json`.
"""

from __future__ import annotations

import dataclasses
import getpass
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from failbetter.cli import problems
from failbetter.cli.settings import seconds, whole

Command = Callable[..., int]


def a_number(least: int, most: int) -> Callable[[str], int]:
    """What reads an option's whole number within bounds, with an error that says them."""
    read = whole(least, most)

    def parse(text: str) -> int:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def a_duration(text: str) -> float:
    """Reads an option's duration, in seconds."""
    try:
        return seconds(text)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error)) from None


# How long a person's list is unless told otherwise.
LISTED = 50


@dataclasses.dataclass(frozen=True)
class Where:
    """The ledger that is meant, and how to speak of it."""

    app: Annotated[
        str | None,
        typer.Option(
            "--app",
            "-A",
            metavar="MODULE:APP",
            help="The app whose jobs are meant [env: FAILBETTER_APP].",
        ),
    ] = None
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="The ledger's database, where no task is needed; for an app that names no"
            " database itself, the one to use [env: FAILBETTER_URL, DATABASE_URL].",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Form:
    """How results are written."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False


@dataclasses.dataclass(frozen=True)
class Some:
    """How much of a list is shown or meant."""

    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            help="At most N, the newest.",
            parser=a_number(1, 1_000_000_000),
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Care:
    """How carefully to act on many jobs."""

    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many jobs are meant.")
    ] = False
    all: Annotated[bool, typer.Option("--all", help="Every failed job is meant.")] = False


@dataclasses.dataclass(frozen=True)
class Why:
    """Who does something, and why."""

    note: Annotated[
        str | None, typer.Option("--note", metavar="TEXT", help="Why, to be read later.")
    ] = None
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who says so; else the user.")
    ] = None

    @property
    def by(self) -> str:
        """Who it is."""
        return self.actor or getpass.getuser()


Many = list[str] | None


def _not(name: str, metavar: str) -> Any:
    return typer.Option(f"--not-{name}", metavar=metavar, help=f"Leave out what --{name} means.")


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which jobs are meant: those that match all that is given.

    An option that is repeated means any of its values, but for --arg, which means all.
    """

    task: Annotated[
        Many, typer.Option("--task", metavar="PATTERN", help="The task's name; * for any.")
    ] = None
    error: Annotated[
        Many,
        typer.Option(
            "--error",
            metavar="PATTERN",
            help="The error's type or what that derives from: with a dot in full, without one its"
            " last part. With * types by their own names.",
        ),
    ] = None
    message: Annotated[
        Many,
        typer.Option(
            "--message", metavar="PATTERN", help="The error's message, such as '*timed out*'."
        ),
    ] = None
    queue: Annotated[Many, typer.Option("--queue", metavar="NAME", help="The queue.")] = None
    reason: Annotated[
        Many,
        typer.Option("--reason", metavar="WORD", help="Why the job ended so, such as crashed."),
    ] = None
    fingerprint: Annotated[
        Many,
        typer.Option(
            "--fingerprint",
            metavar="KEY",
            help="The group, as `failed` prints it, or enough of its beginning.",
        ),
    ] = None
    arg: Annotated[
        Many,
        typer.Option(
            "--arg",
            metavar="NAME=PATTERN",
            help="An argument, such as path='*.png'; further in: options.size=3.",
        ),
    ] = None
    tag: Annotated[Many, typer.Option("--tag", metavar="TAG", help="A tag of the task.")] = None
    attempts: Annotated[
        str | None,
        typer.Option("--attempts", metavar="N", help="How many attempts there were: 3, '>=3'."),
    ] = None
    worker: Annotated[
        Many,
        typer.Option("--worker", metavar="PATTERN", help="The worker of the last attempt."),
    ] = None
    code: Annotated[
        Many,
        typer.Option("--code", metavar="PATTERN", help="The last attempt's version of the code."),
    ] = None
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="WHEN",
            help="Ended at or after: 2h, 7d (ago), today, yesterday, or 2026-01-31T09:00 (a live"
            " job: accepted).",
        ),
    ] = None
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Ended before, as for --since.")
    ] = None
    not_task: Annotated[Many, _not("task", "PATTERN")] = None
    not_error: Annotated[Many, _not("error", "PATTERN")] = None
    not_message: Annotated[Many, _not("message", "PATTERN")] = None
    not_queue: Annotated[Many, _not("queue", "NAME")] = None
    not_reason: Annotated[Many, _not("reason", "WORD")] = None
    not_fingerprint: Annotated[Many, _not("fingerprint", "KEY")] = None
    not_arg: Annotated[Many, _not("arg", "NAME=PATTERN")] = None
    not_tag: Annotated[Many, _not("tag", "TAG")] = None
    not_attempts: Annotated[str | None, _not("attempts", "N")] = None
    not_worker: Annotated[Many, _not("worker", "PATTERN")] = None
    not_code: Annotated[Many, _not("code", "PATTERN")] = None

    def given(self) -> dict[str, Any]:
        """The filters that were given, by name: `task`, `not_task`."""
        every = dataclasses.asdict(self)
        return {name: value for name, value in every.items() if value not in (None, [])}


Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Jobs by id.", show_default=False)
]
SomeIds = Annotated[list[str], typer.Argument(metavar="ID", help="Jobs by id.")]
OneId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Full = Annotated[
    bool, typer.Option("--full", help="Whole tracebacks, stacks, messages and results.")
]


def new_group(description: str) -> typer.Typer:
    """A group of commands, with plain help and errors that are left to us."""
    return typer.Typer(
        help=description,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def command(group: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Make a function a command of the group."""

    def decorate(function: Command) -> Command:
        group.command(name)(_flat(function))
        return function

    return decorate


def before(group: typer.Typer) -> Callable[[Command], Command]:
    """Make a function what the group does when no command of it is named.

    With one, only the options of the function matter: the command inherits them.
    """

    def decorate(function: Command) -> Command:
        group.callback(invoke_without_command=True)(_flat(function, is_group=True))
        return function

    return decorate


def _flat(function: Command, *, is_group: bool = False) -> Command:
    """The function with its dataclasses taken apart, and its errors told in one line."""
    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return")
    signature = inspect.signature(function)
    parameters = [_parameter("context", typer.Context)]
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            inner = typing.get_type_hints(hint, include_extras=True)
            for field in dataclasses.fields(hint):
                parameters.append(_parameter(field.name, inner[field.name], field.default))
        elif hint is not typer.Context:
            parameters.append(_parameter(name, hint, signature.parameters[name].default))

    def run(context: typer.Context, **given: Any) -> int:
        if is_group and context.invoked_subcommand is not None:
            return problems.OK
        values = {name: _inherited(context, name, value) for name, value in given.items()}
        arguments: dict[str, Any] = {}
        for name, hint in hints.items():
            if dataclasses.is_dataclass(hint):
                fields = {field.name for field in dataclasses.fields(hint)}
                arguments[name] = hint(**{key: values[key] for key in values if key in fields})  # type: ignore[operator]
            else:
                arguments[name] = context if hint is typer.Context else values[name]
        try:
            return function(**arguments)
        except Exception as error:
            return problems.settle(error)

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(name: str, hint: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _inherited(context: typer.Context, name: str, value: Any) -> Any:
    """The option's value here; if it was not given here, the one given to a group before."""
    at: Any = context
    while at is not None:
        if name in at.params and _was_given(at, name):
            return at.params[name] if at is not context else value
        at = at.parent
    return value


def _was_given(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
