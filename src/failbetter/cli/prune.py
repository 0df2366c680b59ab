"""`failbetter failed prune`: failed jobs deleted for good, written to a file before if wanted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import failbetter
from failbetter.cli import opening, output, problems, selection, texts
from failbetter.cli.parameters import Care, Filters, Form, Some, Where, a_duration
from failbetter.cli.problems import WrongUsage


def prune(
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    care: Care,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Only what failed longer ago, such as 90d.",
            parser=a_duration,
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="A new file of JSON lines: each job is in it before it is deleted.",
        ),
    ] = None,
) -> int:
    """Delete failed jobs, with all that is kept of them. There is no way back.

    Which ones: by filters, by age, or --all of them. Workers do so by themselves with what is past
    its time.
    """
    narrow = bool(filters.given() or older_than)
    if care.all and filters.given():
        raise WrongUsage("--all means every failed job: give no filter with it")
    if not narrow and not care.all:
        raise WrongUsage(
            "prune which? Give filters or --older-than (see --help), or --all for every failed job"
        )
    found = selection.narrowed(opening.ledger(where).failed, filters)
    if some.limit is not None:
        found = found.limit(some.limit)
    if not care.dry_run and not care.yes:
        would = found.prune(older_than=older_than, all=True, dry_run=True)
        if would.total and not _confirmed(would.total):
            problems.complain("nothing was done")
            return problems.REFUSED
    try:
        report = found.prune(older_than=older_than, all=True, dry_run=care.dry_run, export=export)
    except FileExistsError:
        raise WrongUsage(f"--export: there is a file {export} already; name a new one") from None
    _say(report, form)
    return problems.REFUSED if report.kept else problems.OK


def _confirmed(count: int) -> bool:
    """Ask a person, if there is one; a script has said what it wants."""
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    sys.stderr.write(f"delete {texts.count(count, 'failed job')} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say(report: failbetter.PruneReport, form: Form) -> None:
    if form.json:
        output.document(
            {
                "action": "prune",
                "dry_run": report.dry_run,
                "pruned": report.total,
                "kept": report.kept,
            }
        )
        return
    verb = "would delete" if report.dry_run else "deleted"
    output.line(f"{verb} {texts.count(report.total, 'failed job')}")
    for why, number in report.kept.items():
        output.line(f"kept {texts.count(number, 'failed job')}: {why}")
