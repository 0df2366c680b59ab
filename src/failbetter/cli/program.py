"""The command `failbetter`: its commands put together, and its one way out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
import typer.main

import failbetter
from failbetter.cli import (
    care,
    drill,
    enqueue,
    failed,
    holds,
    jobs,
    maintain,
    mirror,
    opening,
    operations,
    output,
    problems,
    recover,
    restart,
    starting,
)
from failbetter.cli.parameters import Form, Where, before, command, new_group

program = new_group("Background jobs that fail better.")


def _print_version(wanted: bool) -> None:
    if wanted:
        output.line(f"failbetter {failbetter.__version__}")
        raise typer.Exit


@before(program)
def _without_a_command(
    context: typer.Context,
    where: Where,
    form: Form,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> int:
    """Background jobs that fail better.

    Options here may be given after the command as well.
    """
    output.write(context.get_help() + "\n")
    return problems.USAGE


command(program, "worker")(starting.worker)
program.add_typer(jobs.group, name="jobs")
program.add_typer(failed.group, name="failed")
program.add_typer(operations.group, name="operations")
command(program, "enqueue")(enqueue.enqueue)
command(program, "pause")(holds.pause)
command(program, "resume")(holds.resume)
command(program, "holds")(holds.holds)
program.add_typer(mirror.group, name="mirror")
command(program, "recover")(recover.recover)
command(program, "maintain")(maintain.maintain)
command(program, "restart")(restart.restart)
command(program, "migrate")(care.migrate)
command(program, "health")(care.health)
command(program, "drill")(drill.drill)
command(program, "demo")(starting.demo)


@runtime_checkable
class _TypersError(Protocol):
    """A usage error as typer raises it; its class is not among typer's public names."""

    exit_code: int

    def format_message(self) -> str: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. `arguments`: else those of the process."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal of another encoding cannot show must not end the command.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return problems.settle(error)
    finally:
        opening.close()
    return code


def _run(arguments: list[str]) -> int:
    entry: Any = typer.main.get_command(program)
    try:
        code = entry.main(arguments, prog_name="failbetter", standalone_mode=False)
    except Exception as error:
        if not isinstance(error, _TypersError):
            raise
        problems.complain(_usage(error))
        return problems.USAGE
    return code if isinstance(code, int) else problems.OK


def _usage(error: _TypersError) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    option = getattr(error, "option_name", None)
    hint = ""
    if isinstance(option, str) and option.lstrip("-")[:1].isdigit():
        hint = "; write -- before arguments that begin with a dash"
    path = getattr(getattr(error, "ctx", None), "command_path", "failbetter")
    return f"{message}{hint} (see {path} --help)"
