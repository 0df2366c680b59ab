"""`failbetter jobs`: any job, whatever its state."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import documents, opening, output, problems, selection, story, texts
from failbetter.cli.enqueue import misfit, value_of
from failbetter.cli.parameters import (
    LISTED,
    Filters,
    Form,
    Full,
    Ids,
    OneId,
    Some,
    SomeIds,
    Where,
    Why,
    before,
    command,
    new_group,
)

group = new_group("Any job: listed, shown, cancelled, retried.")


@before(group)
def _without_a_command(context: typer.Context, where: Where, form: Form) -> int:
    """Any job: listed, shown, cancelled, retried."""
    output.write(context.get_help() + "\n")
    return problems.USAGE


@command(group, "list")
def list_jobs(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="WORD",
            help="pending, running, succeeded, failed or discarded.",
        ),
    ] = None,
    ids: Ids = None,
) -> int:
    """List jobs, newest first: 50 unless --limit says otherwise."""
    app = opening.ledger(where)
    found = selection.narrowed(app.jobs, filters, ids, state=state)
    return show_list(found, some.limit or LISTED, form, _columns, "job")


@command(group, "show")
def show(job: OneId, where: Where, form: Form, full: Full = False) -> int:
    """Tell the story of one job.

    Its arguments, attempts, errors with their evidence, effects, and what it waits for.
    """
    found = selection.one(opening.ledger(where), job)
    if form.json:
        output.document(documents.whole_job(found))
    else:
        story.tell(found, full=full)
    return problems.OK


@command(group, "cancel")
def cancel(ids: SomeIds, where: Where, form: Form) -> int:
    """Discard waiting jobs, stop running ones.

    The worker of a running job is asked to stop it.
    """

    def act(job: failbetter.Job) -> str:
        job.cancel()
        return "cancelled" if job.over else "running; its worker is asked to stop it"

    return each(opening.ledger(where), ids, act, form)


@command(group, "retry")
def retry(
    ids: SomeIds,
    where: Where,
    form: Form,
    why: Why,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Run another job in its place, with this argument: JSON, else text. For apps"
            " that allow it.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="NAME", help="As --set: without this argument."),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="With --set: though effects of it have happened."),
    ] = False,
) -> int:
    """Make failed jobs wait again with fresh budgets, now.

    With --set or --unset, another job runs in the place of each, and the failed one is discarded.
    """
    if changes or without:
        args = _changed(changes or [], without or [])
        return _edit(ids, where, form, args, why, confirm=yes)
    if why.note is not None or why.actor is not None or yes:
        raise problems.WrongUsage(
            "--note, --actor and --yes go with --set; `failed retry` keeps them for any retry"
        )

    def act(job: failbetter.Job) -> str:
        job.retry()
        return "waits to run again"

    return each(opening.ledger(where), ids, act, form)


def _edit(
    ids: Sequence[str],
    where: Where,
    form: Form,
    args: dict[str, Any],
    why: Why,
    *,
    confirm: bool,
) -> int:
    def act(job: failbetter.Job) -> str:
        # The task's own code (its keys) may print; stdout is ours.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                made = job.edit_and_retry(args, actor=why.by, note=why.note, confirm=confirm)
            except failbetter.FailbetterError:
                raise
            except (TypeError, ValueError) as error:
                raise misfit(error) from None
            except Exception as error:  # from the task's `unique` and the like, or its database
                raise problems.WrongUsage(f"{job.task}: {type(error).__name__}: {error}") from None
        return f"discarded; {made.id} runs in its place"

    return each(opening.with_tasks(where), ids, act, form)


def _changed(changes: Sequence[str], without: Sequence[str]) -> dict[str, Any]:
    args: dict[str, Any] = dict.fromkeys(without, ...)
    for word in changes:
        name, is_there, value = word.partition("=")
        if not is_there or not name:
            raise problems.WrongUsage(f"--set: {texts.cut(word, 60)!r}; write it as NAME=VALUE")
        if name in args:
            raise problems.WrongUsage(f"{name} is given twice")
        args[name] = value_of(value)
    return args


def each(
    app: failbetter.App,
    ids: Sequence[str],
    act: Callable[[failbetter.Job], str],
    form: Form,
) -> int:
    """Act on jobs one by one and print the outcome of each; 1 when any was refused."""
    wanted = selection.checked(app.jobs, ids)
    outcomes = []
    for number in wanted:
        try:
            outcomes.append({"id": number, "done": True, "outcome": act(app.job(number))})
        except failbetter.JobNotFound:
            outcomes.append({"id": number, "done": False, "outcome": "not found"})
        except failbetter.Refused as error:
            outcomes.append({"id": number, "done": False, "outcome": selection.why(error)})
    if form.json:
        output.document(outcomes)
    else:
        for outcome in outcomes:
            refused = "" if outcome["done"] else "refused: "
            output.line(f"{outcome['id']}  {refused}{texts.one_line(str(outcome['outcome']))}")
    done = all(outcome["done"] for outcome in outcomes)
    return problems.OK if done else problems.REFUSED


Columns = Callable[[failbetter.Job, datetime], Sequence[str]]


def show_list(
    found: failbetter.Jobs,
    limit: int,
    form: Form,
    columns: tuple[Sequence[str], Columns],
    what: str,
) -> int:
    """Print the newest of the jobs; say on stderr when there are more."""
    total = found.count()
    if form.json:
        shown = (documents.job(job) for job in found.limit(limit))
        output.long_document({"total": total}, "jobs", shown)
        return problems.OK
    if total == 0:
        output.line(f"no {what} matches")
        return problems.OK
    headings, row = columns
    now = texts.now()
    # In pieces, so that a long list neither waits for its end nor fills the memory.
    for at, page in enumerate(output.paged(found.limit(limit), 1000)):
        output.table(headings, [row(job, now) for job in page], headed=at == 0)
    if total > limit:
        problems.tell(f"{limit:,} of {texts.count(total, what)} shown; --limit {total} shows all")
    return problems.OK


def _row(job: failbetter.Job, now: datetime) -> Sequence[str]:
    return (
        job.id,
        story.in_words(job.state, job.reason),
        job.task,
        job.queue,
        str(job.attempt),
        texts.ago(job.created_at, now),
        _what(job),
    )


def _what(job: failbetter.Job) -> str:
    waits = job.waiting_for()
    if waits is not None:
        return waits if job.row.claimed else f"waits for {waits}"
    if job.state == "succeeded" or job.error_type is None:
        return ""
    return texts.cut(texts.one_line(f"{job.error_type}: {job.error_message or ''}"), 500)


_columns = (("ID", "STATE", "TASK", "QUEUE", "ATTEMPT", "ACCEPTED", "WHAT"), _row)
