"""`failbetter operations`: bulk acts: listed, what became of their jobs, stopped, taken back."""

from __future__ import annotations

import dataclasses
import getpass
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import (
    LISTED,
    Form,
    Some,
    Where,
    a_number,
    before,
    command,
    new_group,
)
from failbetter.cli.problems import WrongUsage
from failbetter.cli.progress import Progress

group = new_group("Bulk acts: listed, shown, stopped, taken back.")

OneOperation = Annotated[str, typer.Argument(metavar="ID", help="The operation's id.")]
# So many jobs that were not moved are named; a document names all.
_NAMED = 20


def a_rate(text: str) -> float:
    """Reads an option's rate, in jobs a second."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1_000_000:
        raise typer.BadParameter(f"{text!r} is no number of jobs a second")
    return found


@dataclasses.dataclass(frozen=True)
class By:
    """Who acts, and why: kept with the operation."""

    note: Annotated[
        str | None, typer.Option("--note", metavar="TEXT", help="Why; kept with the operation.")
    ] = None
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who acts; else the user.")
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """As the verbs take it."""
        return {"note": self.note, "actor": self.actor or getpass.getuser()[:100]}


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast, and whether with a word for what needs one."""

    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", help="At most N jobs a second.", parser=a_rate),
    ] = None
    canary: Annotated[
        int | None,
        typer.Option(
            "--canary",
            metavar="N",
            help="N first, of each cause; the others follow as those fare.",
            parser=a_number(1, 1_000),
        ),
    ] = None
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Also those that need confirmation.")
    ] = False

    @property
    def given(self) -> dict[str, Any]:
        """As the verbs take it."""
        return dataclasses.asdict(self)


Token = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="The jobs of this preview, and no others."),
]


def find(app: failbetter.App, text: str) -> failbetter.Operation:
    """The operation of an id as typed. Raises WrongUsage when it is none, OperationNotFound."""
    try:
        return app.operation(text.strip().lower())
    except ValueError as error:
        raise WrongUsage(str(error)) from None


def find_preview(app: failbetter.App, text: str) -> failbetter.Preview:
    """The preview of a token as typed. Raises WrongUsage when it is none, OperationNotFound."""
    try:
        return app.preview(text.strip().lower())
    except ValueError as error:
        raise WrongUsage(str(error)) from None


@before(group)
def by_default(where: Where, form: Form, some: Some) -> int:
    """Bulk acts: listed, shown, stopped, taken back.

    Without a command: the list, newest first.
    """
    return list_operations(where, form, some)


@command(group, "list")
def list_operations(where: Where, form: Form, some: Some) -> int:
    """List bulk acts, newest first: 50 unless --limit says otherwise."""
    found = opening.ledger(where).operations
    shown = found[: some.limit or LISTED]
    if form.json:
        output.document([document(each) for each in shown])
        return problems.OK
    if not shown:
        output.line("no operations")
        return problems.OK
    now = texts.now()
    headings = ("ID", "VERB", "STATE", "JOBS", "BEGAN", "BY", "NOTE")
    output.table(headings, [_row(each, now) for each in shown])
    if len(shown) < len(found):
        problems.tell(f"{len(shown)} of {texts.count(len(found), 'operation')} shown; see --limit")
    return problems.OK


def _row(found: failbetter.Operation, now: datetime) -> Sequence[str]:
    return (
        found.id,
        found.verb,
        found.state,
        f"{found.total:,}",
        texts.ago(found.begun_at, now),
        texts.one_line(found.actor or "-"),
        texts.one_line(found.note or ""),
    )


def document(found: failbetter.Operation) -> dict[str, Any]:
    """An operation as a JSON document."""
    return {
        "id": found.id,
        "verb": found.verb,
        "state": found.state,
        "why": found.why,
        "actor": found.actor,
        "note": found.note,
        "filters": found.filters,
        "total": found.total,
        "created_at": texts.stamp(found.created_at),
        "begun_at": texts.stamp(found.begun_at),
        "ended_at": texts.stamp(found.ended_at),
    }


@command(group, "show")
def show(operation: OneOperation, where: Where, form: Form) -> int:
    """Tell what became of an operation's jobs."""
    return _tell(find(opening.ledger(where), operation), form)


def _tell(found: failbetter.Operation, form: Form) -> int:
    report = found.report()
    if form.json:
        output.document({**document(found), "held": found.held, "report": _counts(report)})
        return problems.OK
    output.line(f"{found.verb} of {texts.count(found.total, 'job')}: {found.state}", "bold")
    if found.actor or found.note:
        output.line(texts.one_line(f"by {found.actor or '-'}: {found.note or '-'}"))
    if found.pace is not None and found.state == "running":
        output.line(f"at {found.pace:g} jobs a second")
    for mark, why in found.held.items():
        output.line(f"held back: group {mark}: {texts.one_line(why)}")
    rows = [(f"{count:,}", name.replace("_", " ")) for name, count in _flat(report)]
    if rows:
        output.table(("JOBS", "BECAME"), rows, numbers=1)
    if found.state == "paused":
        output.line(f"go on with all of it: failbetter operations resume {found.id}")
    return problems.OK


def _counts(report: failbetter.Report) -> dict[str, Any]:
    names = report.__struct_fields__
    return {name: getattr(report, name) for name in names}


def _flat(report: failbetter.Report) -> list[tuple[str, int]]:
    found = []
    for name, value in _counts(report).items():
        if isinstance(value, dict):
            found += [(f"skipped: {why}", count) for why, count in value.items()]
        elif value and name != "total":
            found.append((name, value))
    return found


@command(group, "abort")
def abort(operation: OneOperation, where: Where, form: Form) -> int:
    """Move no more of an operation's jobs; what was moved stays so."""
    return _tell(find(opening.ledger(where), operation).abort(), form)


@command(group, "resume")
def resume(operation: OneOperation, where: Where, form: Form) -> int:
    """Go on after a pause, also with what was held back."""
    return _tell(find(opening.ledger(where), operation).resume(), form)


@command(group, "undo")
def undo(operation: OneOperation, where: Where, form: Form) -> int:
    """Take an operation back, as far as its jobs have not begun."""
    found = find(opening.ledger(where), operation)
    progress = Progress("jobs")
    try:
        found.undo(progress=progress.show)
    finally:
        progress.close()
    return _tell(found, form)


def say_refused(refused: dict[str, str]) -> None:
    """Of jobs that were not moved, why; of the first few."""
    for number, why in list(refused.items())[:_NAMED]:
        output.line(f"{number}  refused: {texts.one_line(why)}")
    if len(refused) > _NAMED:
        output.line(f"… and {len(refused) - _NAMED:,} more; --json names all")
