"""`failbetter failed`: the failed jobs: by cause, one by one, and what is to become of them."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import typer

import failbetter
from failbetter.cli import (
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

# So many ids are asked for at once: databases bound the values of one statement.
_BATCH = 500


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


@command(group, "retry")
def retry(
    where: Where, filters: Filters, form: Form, some: Some, care: Care, ids: Ids = None
) -> int:
    """Make failed jobs wait again with fresh budgets, now.

    Which ones: by id, by filters, or --all of them.
    """
    return _act(_RETRY, where, filters, form, some, care, ids)


@command(group, "discard")
def discard(
    where: Where, filters: Filters, form: Form, some: Some, care: Care, ids: Ids = None
) -> int:
    """Put failed jobs aside for good; they stay on record as discarded.

    Which ones: by id, by filters, or --all of them.
    """
    return _act(_DISCARD, where, filters, form, some, care, ids)


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


class _Verb(NamedTuple):
    name: str
    done: str
    act: Callable[[failbetter.Jobs], failbetter.Operation]


_RETRY = _Verb("retry", "retried", lambda found: found.retry(all=True))
_DISCARD = _Verb("discard", "discarded", lambda found: found.discard(all=True))


class _Selected(NamedTuple):
    """What is meant: how many, in which queries, and the ids that are refused at once."""

    matched: int
    queries: list[failbetter.Jobs]
    refused: dict[str, str]


def _act(
    verb: _Verb,
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    care: Care,
    ids: Sequence[str] | None,
) -> int:
    narrow = bool(filters.given() or ids)
    if care.all and narrow:
        raise WrongUsage("--all means every failed job: give no filter and no id with it")
    if not narrow and not care.all:
        raise WrongUsage(
            f"{verb.name} which? Give ids or filters (see --help), or --all for every failed job"
        )
    app = opening.ledger(where)
    selected = _select(app, filters, ids, some.limit)
    if care.dry_run:
        return _say_what_would_be(verb, selected, form)
    if selected.matched and not care.yes and not _confirmed(verb, selected.matched):
        problems.complain("nothing was done")
        return problems.REFUSED
    moved = 0
    refused = dict(selected.refused)
    for query in selected.queries:
        outcome = verb.act(query)
        moved += outcome.moved
        refused |= outcome.refused
    _report(verb, moved, refused, form)
    return problems.REFUSED if refused else problems.OK


def _select(
    app: failbetter.App, filters: Filters, ids: Sequence[str] | None, limit: int | None
) -> _Selected:
    if not ids:
        found = selection.narrowed(app.failed, filters)
        count = found.count()
        if limit is None:
            return _Selected(count, [found], {})
        return _Selected(min(count, limit), [found.limit(limit)], {})
    wanted = selection.checked(app.failed, ids)
    queries = []
    refused: dict[str, str] = {}
    matching = 0
    for batch in output.paged(wanted, _BATCH):
        found = selection.narrowed(app.failed, filters, batch)
        present = [job.id for job in found]
        if limit is not None:
            present = present[: limit - matching]
        matching += len(present)
        if present:
            queries.append(app.failed.where(ids=present))
        for missing in [number for number in batch if number not in set(present)]:
            refused[missing] = _why_not(app, missing)
    return _Selected(matching, queries, refused)


def _why_not(app: failbetter.App, number: str) -> str:
    try:
        state = app.job(number).state
    except failbetter.JobNotFound:
        return "not found"
    return f"not failed but {state}" if state != "failed" else "left out by a filter or --limit"


def _confirmed(verb: _Verb, count: int) -> bool:
    """Ask a person, if there is one; a script has said what it wants."""
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{verb.name} {texts.count(count, 'failed job')}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say_what_would_be(verb: _Verb, selected: _Selected, form: Form) -> int:
    if form.json:
        output.document(
            {
                "action": verb.name,
                "dry_run": True,
                "matched": selected.matched,
                "refused": selected.refused,
            }
        )
    else:
        output.line(f"would {verb.name} {texts.count(selected.matched, 'failed job')}")
        _say_refused(selected.refused)
    return problems.REFUSED if selected.refused else problems.OK


def _report(verb: _Verb, moved: int, refused: dict[str, str], form: Form) -> None:
    if form.json:
        output.document(
            {"action": verb.name, "dry_run": False, verb.done: moved, "refused": refused}
        )
        return
    _say_refused(refused)
    tail = f", {len(refused):,} refused" if refused else ""
    output.line(f"{verb.done} {texts.count(moved, 'failed job')}{tail}")


def _say_refused(refused: dict[str, str]) -> None:
    for number, why in refused.items():
        output.line(f"{number}  refused: {texts.one_line(why)}")
