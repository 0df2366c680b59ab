"""`failbetter maintain`: upkeep of a ledger where no worker of ours runs."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from failbetter.cli import opening
from failbetter.cli.parameters import Form, Where
from failbetter.cli.problems import WrongUsage
from failbetter.cli.settings import log_format_of, log_level_of
from failbetter.cli.starting import become


def maintain(
    where: Where,
    form: Form,
    once: Annotated[
        bool, typer.Option("--once", help="Sweep once and end; no worker's silence is judged so.")
    ] = False,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format", metavar="FORMAT", help="text or json [env: FAILBETTER_LOG_FORMAT]."
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            help="debug, info, warning or error [env: FAILBETTER_LOG_LEVEL].",
        ),
    ] = None,
) -> int:
    """Sweep and deliver without running jobs, until told to stop.

    SIGTERM or Ctrl-C: exit 0 after what is being done. A second signal does not wait for that.
    """
    if form.json:
        raise WrongUsage("maintain prints no document; --log-format json makes its log JSON")
    spec, url = opening.spec_or_url(where)
    settings = {
        "app": spec,
        "url": url,
        "once": once,
        "log_format": log_format_of(log_format),
        "log_level": log_level_of(log_level),
    }
    become("-m", "failbetter.worker.maintain", msgspec.json.encode(settings).decode())
