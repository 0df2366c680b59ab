"""`failbetter mirror`: rows of the user's own that follow their jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import Form, Some, Where, before, command, new_group

group = new_group("Rows of your own that follow their jobs: compared and repaired.")


@before(group)
def _without_a_command(context: typer.Context, where: Where, form: Form) -> int:
    """Rows of your own that follow their jobs: compared and repaired."""
    output.write(context.get_help() + "\n")
    return problems.USAGE


@command(group, "check")
def check(
    where: Where,
    form: Form,
    some: Some,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only compare; repair nothing.")
    ] = False,
) -> int:
    """Compare each mirrored row with its newest job, and repair what differs.

    Exit 1 when a row is missing, could not be looked at or repaired, or with --dry-run differs.
    """
    found = opening.ledger(where).check_mirrors(dry_run=dry_run, limit=some.limit)
    if form.json:
        rows = [_document(row) for row in found.rows]
        output.document({"checked": found.checked, "dry_run": dry_run, "rows": rows})
    else:
        if found.rows:
            output.table(
                ("JOB", "TABLE", "KEY", "ROW", "WHAT"),
                [
                    (
                        row.job,
                        row.table,
                        texts.cut(texts.one_line(row.key), 40),
                        _is(row),
                        _what(row),
                    )
                    for row in found.rows
                ],
            )
        output.line(_summary(found))
    return problems.OK if found.right else problems.REFUSED


def _document(row: failbetter.MirrorRow) -> dict[str, Any]:
    return {
        "job": row.job,
        "table": row.table,
        "key": row.key,
        "finding": row.finding,
        "columns": {
            name: {"is": held, "should_be": wanted} for name, (held, wanted) in row.columns.items()
        },
        "repaired": row.repaired,
        "problem": None if row.problem is None else texts.masked(row.problem),
    }


def _is(row: failbetter.MirrorRow) -> str:
    return "repaired" if row.repaired else row.finding


def _what(row: failbetter.MirrorRow) -> str:
    parts = [
        f"{name} was {texts.value(held)}, is {texts.value(wanted)}"
        if row.repaired
        else f"{name} is {texts.value(held)}, not {texts.value(wanted)}"
        for name, (held, wanted) in row.columns.items()
    ]
    if row.problem is not None:
        parts.append(texts.one_line(row.problem))
    return "; ".join(parts)


def _summary(found: failbetter.MirrorCheck) -> str:
    wrong = [_is(row) for row in found.rows]
    parts = [f"{texts.count(found.checked, 'row')} checked, {found.checked - len(wrong):,} right"]
    for word in ("repaired", "differs", "missing", "unknown"):
        if word in wrong:
            parts.append(f"{wrong.count(word):,} {_WORDS[word]}")
    return ", ".join(parts)


_WORDS = {
    "repaired": "repaired",
    "differs": "different",
    "missing": "missing",
    "unknown": "that could not be looked at",
}
