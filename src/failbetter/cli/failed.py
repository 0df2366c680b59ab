"""`failbetter failed`: the failed jobs: by cause, one by one, and what is to become of them."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

import failbetter
from failbetter.cli import (
    acting,
    documents,
    export,
    groups,
    jobs,
    opening,
    output,
    problems,
    prune,
    selection,
    texts,
)
from failbetter.cli.operations import By, Pace, Token
from failbetter.cli.parameters import (
    LISTED,
    Care,
    Filters,
    Form,
    Full,
    Ids,
    OneId,
    Some,
    Where,
    Why,
    before,
    command,
    new_group,
)
from failbetter.cli.problems import WrongUsage

group = new_group("Failed jobs: by cause, listed, retried, discarded.")


@before(group)
def overview(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="WORD",
            help="Groups that are open, resolved, ignored, or all; open unless --fingerprint.",
        ),
    ] = None,
) -> int:
    """Failed jobs: by cause, listed, retried, discarded.

    Without a command: by cause, the largest group first.
    """
    found = selection.narrowed(opening.ledger(where).failed, filters)
    wanted = state or ("all" if filters.fingerprint else "open")
    return groups.overview(found, wanted, some.limit, form)


@command(group, "list")
def list_failed(where: Where, filters: Filters, form: Form, some: Some, ids: Ids = None) -> int:
    """List failed jobs, newest first: 50 unless --limit says otherwise."""
    found = selection.narrowed(opening.ledger(where).failed, filters, ids)
    return jobs.show_list(found, some.limit or LISTED, form, _columns, "failed job")


def _row(job: failbetter.Job, now: datetime) -> Sequence[str]:
    kind = job.error_type or ""
    if output.on_terminal():
        kind = kind.rpartition(".")[2]
    error = f"{kind}: {job.error_message or ''}" if kind else ""
    return (
        job.id,
        job.task,
        job.reason or "",
        str(job.attempt),
        texts.ago(job.ended_at, now),
        texts.cut(texts.one_line(error), 500),
    )


_columns = (("ID", "TASK", "REASON", "ATTEMPTS", "FAILED", "ERROR"), _row)


@command(group, "show")
def show(
    job: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or a fingerprint.")],
    where: Where,
    form: Form,
    full: Full = False,
) -> int:
    """Tell the story of one job: its attempts, errors, evidence and effects.

    Of a group's fingerprint, or enough of its beginning, what is known of the group, and then the
    story of the newest of its jobs.
    """
    if "-" not in job:
        return jobs.show(job, where, form, full)
    failed = opening.ledger(where).failed
    found = failed.where(fingerprint=selection.fingerprint(failed, "ID", job)).groups()
    if not found:
        problems.complain(f"no failed job has the fingerprint {job}")
        return problems.REFUSED
    groups.tell(found[0], form, full=full)
    return problems.OK


Fingerprints = Annotated[
    list[str],
    typer.Argument(
        metavar="FINGERPRINT", help="Groups, as `failed` prints them, or enough of the beginning."
    ),
]


@command(group, "resolve")
def resolve(fingerprints: Fingerprints, where: Where, form: Form, why: Why) -> int:
    """Say that a cause is dealt with. What fails of it later opens the group again."""

    def act(found: failbetter.Group) -> failbetter.Group:
        return found.resolve(note=why.note, actor=why.by)

    return groups.change(opening.ledger(where).failed, fingerprints, act, form)


@command(group, "ignore")
def ignore(fingerprints: Fingerprints, where: Where, form: Form, why: Why) -> int:
    """Say that a cause needs no attention, also if it recurs. It is still counted."""

    def act(found: failbetter.Group) -> failbetter.Group:
        return found.ignore(note=why.note, actor=why.by)

    return groups.change(opening.ledger(where).failed, fingerprints, act, form)


@command(group, "reopen")
def reopen(fingerprints: Fingerprints, where: Where, form: Form, why: Why) -> int:
    """Say that a cause needs attention, whatever was said before."""

    def act(found: failbetter.Group) -> failbetter.Group:
        return found.reopen(note=why.note, actor=why.by)

    return groups.change(opening.ledger(where).failed, fingerprints, act, form)


@command(group, "preview")
def preview(where: Where, filters: Filters, form: Form, some: Some, ids: Ids = None) -> int:
    """Say what a retry would make of failed jobs, and keep their list for it.

    Which ones: by id, by filters; without either, all of them.
    """
    return acting.preview(where, filters, form, some, ids)


@command(group, "retry")
def retry(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    care: Care,
    pace: Pace,
    by: By,
    token: Token = None,
    ids: Ids = None,
) -> int:
    """Make failed jobs wait again with fresh budgets.

    Which ones: by id, by filters, those of a preview, or --all of them.
    """
    asked = acting.Asked(where, filters, form, some, care, by, ids, token)
    return acting.act(acting.RETRY, asked, **pace.given)


@command(group, "discard")
def discard(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    care: Care,
    by: By,
    token: Token = None,
    ids: Ids = None,
) -> int:
    """Put failed jobs aside for good; they stay on record as discarded.

    Which ones: by id, by filters, those of a preview, or --all of them.
    """
    return acting.act(
        acting.DISCARD, acting.Asked(where, filters, form, some, care, by, ids, token)
    )


@command(group, "restore")
def restore(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    care: Care,
    by: By,
    ids: Ids = None,
) -> int:
    """Make jobs that a person has discarded failed again, as they were.

    Which ones: by id, by filters, or --all of them.
    """
    return acting.act(acting.RESTORE, acting.Asked(where, filters, form, some, care, by, ids))


command(group, "export")(export.export)
command(group, "prune")(prune.prune)


@command(group, "confirm")
def confirm(
    job: OneId,
    where: Where,
    form: Form,
    happened: Annotated[bool, typer.Option("--happened", help="The effect has happened.")] = False,
    did_not: Annotated[bool, typer.Option("--did-not", help="It has not happened.")] = False,
    effect: Annotated[
        str | None,
        typer.Option("--effect", metavar="NAME", help="Which effect, where several are in doubt."),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option("--result", metavar="JSON", help="What it returned, for the body to go on."),
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who says so; else the user.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Then retry the job, now.")] = False,
) -> int:
    """Say whether an effect in doubt has happened, having found out.

    With --happened a later attempt does not run it again; with --did-not it does.
    """
    if happened == did_not:
        raise WrongUsage("say either --happened or --did-not")
    if result is not None and not happened:
        raise WrongUsage("--result is what the effect returned: only with --happened")
    found = selection.one(opening.ledger(where), job)
    try:
        found.confirm(
            effect,
            happened=happened,
            result=None if result is None else _json(result),
            actor=actor or getpass.getuser(),
        )
        if retry:
            found.retry()
    except failbetter.Refused as error:
        problems.complain(str(error))
        return problems.REFUSED
    if form.json:
        output.document(documents.whole_job(found.refresh()))
    else:
        output.line(f"{found.refresh().note or 'confirmed'}; job {found.id} is {found.state}")
        if not retry:
            output.line(f"retry it with: failbetter failed retry {found.id}")
    return problems.OK


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WrongUsage(f"--result is no JSON: {error}") from None
