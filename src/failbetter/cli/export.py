"""`failbetter failed export`: failed jobs as JSON lines, for people and programs elsewhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from failbetter.cli import opening, output, problems, selection, texts
from failbetter.cli.parameters import Filters, Form, Some, Where
from failbetter.cli.problems import WrongUsage


def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to; - for stdout.", show_default=False)
    ],
    where: Where,
    filters: Filters,
    form: Form,
    some: Some,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if there is one.")
    ] = False,
) -> int:
    """Write failed jobs to a file, a line of JSON each: all that is kept of them.

    Newest first. The file is there once it is whole. Without a filter: all of them.
    """
    found = selection.narrowed(opening.ledger(where).failed, filters)
    if some.limit is not None:
        found = found.limit(some.limit)
    if file == "-":
        if form.json:
            raise WrongUsage("the lines go to stdout, and so would --json's document: name a file")
        if sys.stdout is not None:
            sys.stdout.flush()
            found.export(sys.stdout.buffer)
        return problems.OK
    try:
        count = found.export(file, force=force)
    except FileExistsError:
        raise WrongUsage(f"there is a file {file} already; --force replaces it") from None
    if form.json:
        output.document({"action": "export", "exported": count, "file": file})
    else:
        output.line(f"wrote {texts.count(count, 'failed job')} to {texts.one_line(file)}")
    return problems.OK
