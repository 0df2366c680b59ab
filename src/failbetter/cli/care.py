"""`failbetter health` and `failbetter migrate`: looking after the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import Form, Where


def health(where: Where, form: Form) -> int:
    """Say how the ledger and its workers are.

    Exit 0 for pass and warn, 1 for fail.
    """
    app = opening.ledger(where, new=True)
    if opening.exists(app):
        found = app.health()
    else:
        # Asking would make it: a mistyped path must not look like a ledger without trouble.
        nothing = failbetter.Finding("ledger", "fail", None, opening.no_ledger(app))
        found = failbetter.Health("fail", [nothing])
    if form.json:
        output.document(found.as_dict())
    else:
        output.line(found.status, output.STYLES[found.status])
        rows = [
            (
                each.status,
                each.name.removesuffix("_seconds").replace("_", " "),
                _shown(each.observed),
                each.output or "",
            )
            for each in found.findings
        ]
        output.table(("STATUS", "CHECK", "SEEN", "MEANING"), rows)
    return problems.REFUSED if found.status == "fail" else problems.OK


def _shown(observed: Any) -> str:
    if isinstance(observed, dict):
        return ", ".join(_counted(name, number) for name, number in observed.items())
    if isinstance(observed, float):
        return texts.span(observed)
    return "-" if observed is None else texts.one_line(str(observed))


# In the document they are ISO 8601.
_MOMENTS = ("last", "next")


def _counted(name: str, number: Any) -> str:
    if name.endswith("_seconds"):
        return f"{name.removesuffix('_seconds')} {texts.span(number)}"
    if isinstance(number, int):
        return f"{number:,} {name.replace('_', ' ')}"
    if number is not None and name in _MOMENTS:
        moment, now = datetime.fromisoformat(number), texts.now()
        return (
            f"{name} now"
            if name == "next" and moment <= now
            else f"{name} {texts.ago(moment, now)}"
        )
    return f"{name} {number or '-'}"


def migrate(
    where: Where,
    form: Form,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when there is work to do.")
    ] = False,
) -> int:
    """Create or upgrade the ledger's tables."""
    app = opening.ledger(where, new=True)
    if check:
        return _check(app, form)
    before, after = app.migrate()
    if form.json:
        output.document({"before": before, "after": after, "changed": before != after})
    elif before == after:
        output.line(f"{app.database.name}: schema {after}, nothing to do")
    else:
        output.line(f"{app.database.name}: schema {before or 'none'} -> {after}")
    return problems.OK


def _check(app: failbetter.App, form: Form) -> int:
    revision = app.database.revision() if opening.exists(app) else None
    problem = None
    if revision is None:
        problem = f"{app.database.name} has no tables yet; run `failbetter migrate`"
    else:
        try:
            app.jobs.limit(1).count()
        except failbetter.SchemaMismatch as error:
            problem = str(error)
    if form.json:
        output.document({"schema": revision, "current": problem is None, "problem": problem})
    elif problem is None and revision != app.database.own_revision:
        output.line(
            f"{app.database.name}: schema {revision}, newer than this version of failbetter, which"
            " can use it"
        )
    elif problem is None:
        output.line(f"{app.database.name}: schema {revision}, current")
    else:
        output.line(problem)
    return problems.OK if problem is None else problems.REFUSED
