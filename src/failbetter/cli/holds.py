"""`failbetter pause`, `resume` and `holds`: work kept waiting on purpose."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import Form, Where
from failbetter.cli.problems import WrongUsage


@dataclasses.dataclass(frozen=True)
class What:
    """What is paused or resumed: exactly one of them."""

    queue: Annotated[
        str | None, typer.Argument(metavar="[QUEUE]", help="The queue.", show_default=False)
    ] = None
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="Or a task.")] = None
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="KEY", help="Or what has failed of one cause before."),
    ] = None

    breaker: Annotated[
        str | None,
        typer.Option("--breaker", metavar="NAME", help="Or all that needs what a breaker is for."),
    ] = None

    def given(self) -> dict[str, str | None]:
        """As App.pause and App.resume take it."""
        return {
            "queue": self.queue,
            "task": self.task,
            "group": self.group,
            "breaker": self.breaker,
        }


def pause(
    where: Where,
    form: Form,
    what: What,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why, for those who wonder.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Who.")] = None,
) -> int:
    """Keep a queue, a task, a group or a breaker's jobs waiting; what runs goes on."""
    app = opening.ledger(where)
    try:
        hold = app.pause(**what.given(), reason=reason, actor=actor)
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    if form.json:
        output.document(_document(hold))
    else:
        output.line(f"paused {_name(hold)}: {_since(hold)}")
    return problems.OK


def resume(
    where: Where,
    form: Form,
    what: What,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", help="So many jobs a second (not a queue's)."),
    ] = None,
) -> int:
    """Let go of what was paused. Exit 1 when it is not."""
    app = opening.ledger(where)
    try:
        app.resume(**what.given(), rate=rate)
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    if form.json:
        output.document({"resumed": {k: v for k, v in what.given().items() if v is not None}})
    else:
        kind, name = next((k, v) for k, v in what.given().items() if v is not None)
        pace = "" if rate is None else f", {rate:g} jobs a second"
        output.line(f"resumed {kind} {texts.one_line(name)}{pace}")
    return problems.OK


def holds(where: Where, form: Form) -> int:
    """List what is kept waiting on purpose."""
    found = opening.ledger(where).holds()
    if form.json:
        output.document([_document(hold) for hold in found])
    elif not found:
        output.line("nothing is held")
    else:
        rows = [
            (
                "?" if hold.jobs is None else f"{hold.jobs:,}",
                hold.kind,
                texts.cut(texts.one_line(hold.name), 40),
                _since(hold),
                texts.one_line(hold.reason or "-"),
            )
            for hold in found
        ]
        output.table(("JOBS", "WHAT", "NAME", "HELD", "REASON"), rows, numbers=1)
    return problems.OK


def _name(hold: failbetter.Hold) -> str:
    return f"{hold.kind} {texts.one_line(hold.name)}"


def _since(hold: failbetter.Hold) -> str:
    since = texts.ago(hold.since, texts.now())
    by = "" if hold.actor is None else f", by {texts.one_line(hold.actor)}"
    if not hold.active:
        pace = "" if hold.rate is None else f" at {hold.rate:g} a second"
        return f"letting go{pace}"
    return f"{since}{by}"


def _document(hold: failbetter.Hold) -> dict[str, Any]:
    return {
        "kind": hold.kind,
        "name": hold.name,
        "active": hold.active,
        "reason": hold.reason,
        "actor": hold.actor,
        "since": texts.stamp(hold.since),
        "rate": hold.rate,
        "jobs": hold.jobs,
    }
