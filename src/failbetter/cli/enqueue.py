"""`failbetter enqueue`: a job from a shell."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import documents, opening, output, problems, selection, texts
from failbetter.cli.parameters import Form, Where, a_number
from failbetter.cli.problems import WrongUsage

_KEYWORD = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)


def enqueue(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")],
    where: Where,
    form: Form,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            help="JSON values; what is no JSON is text. name=VALUE goes to that parameter.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="Instead of the task's queue.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            metavar="N",
            help="Instead of the task's; higher goes first.",
            parser=a_number(-32768, 32767),
        ),
    ] = None,
    run_after: Annotated[
        str | None,
        typer.Option(
            "--run-after", metavar="WHEN", help="Not before: 90s, 2h, or 2026-01-31T09:00."
        ),
    ] = None,
) -> int:
    """Accept a job and print its id.

    ARGS are JSON values; a word that is no JSON is text: cat.png, 5, true, '{"a": 1}'. Text that
    could be JSON, or that has an = in it, is written as JSON: '"5"'. Write -- before arguments
    that begin with a dash.
    """
    app = opening.with_tasks(where)
    found = app.find_task(task)
    after = None if run_after is None else selection.moment("--run-after", run_after)
    args, kwargs = _read(arguments or [])
    # The task's own code (its keys) may print; stdout is ours.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            call = found.using(run_after=after, queue=queue, priority=priority)
            # As a caller in Python would give them; of records, their keys are read.
            with found.loaded(*found.arguments.read(args, kwargs)) as (given, named):
                job = call.enqueue(*given, **named)
        except failbetter.FailbetterError:
            raise
        except (TypeError, ValueError) as error:
            raise misfit(error) from None
        except Exception as error:  # from the task's `unique`, `exclusive` or `subject`
            raise WrongUsage(f"{task}: {type(error).__name__}: {error}") from None
    if form.json:
        output.document({**documents.job(job), "created": job.created})
        return problems.OK
    output.line(job.id)
    if not job.created:
        problems.tell("there is a live job of this unique key already: this is its id")
    return problems.OK


def misfit(error: Exception) -> WrongUsage:
    """What to say of a value that does not fit its parameter."""
    # Text was wanted, and the word was JSON.
    wanted = "expected `str`" in str(error)
    hint = """ (text that could be JSON needs quotes: '"5"')""" if wanted else ""
    return WrongUsage(str(error) + hint)


def _read(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        keyword = _KEYWORD.fullmatch(word)
        if keyword is None:
            if kwargs:
                raise WrongUsage(
                    f"{texts.cut(word, 60)!r} stands after a name=VALUE; write it before"
                )
            args.append(value_of(word))
        elif keyword[1] in kwargs:
            raise WrongUsage(f"{keyword[1]} is given twice")
        else:
            kwargs[keyword[1]] = value_of(keyword[2])
    return args, kwargs


def value_of(word: str) -> Any:
    """A word as JSON, or as the text it is; `NaN` and the like are no JSON."""
    try:
        return json.loads(word, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return word


def _no_json(word: str) -> Any:
    raise ValueError(word)
