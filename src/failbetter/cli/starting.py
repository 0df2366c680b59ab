"""`failbetter worker` and `failbetter demo`: this process becomes another program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from failbetter.cli import opening
from failbetter.cli.parameters import Form, Where, a_number
from failbetter.cli.problems import WrongUsage
from failbetter.cli.settings import (
    a_text,
    log_format_of,
    log_level_of,
    seconds,
    setting,
    size,
    texts_of,
    whole,
)
from failbetter.worker.settings import Settings


def worker(
    where: Where,
    form: Form,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="With --restart-on-change: what to watch instead of the app's own modules.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            metavar="NAME",
            help="Run jobs of this queue; repeat it in order of preference; all queues if none"
            " is given [env: FAILBETTER_QUEUES, with commas].",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            "--processes", metavar="N", help="Child processes, 1 [env: FAILBETTER_PROCESSES]."
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            metavar="N",
            help="Bodies at once in each child, 1 [env: FAILBETTER_CONCURRENCY].",
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Replace a child that uses more: bytes, 512M, 2G [env: FAILBETTER_MAX_MEMORY].",
        ),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option("--drain", help="End with 0 once no job of the queues waits or runs."),
    ] = False,
    restart_on_change: Annotated[
        bool,
        typer.Option(
            "--restart-on-change",
            help="Go on with new code when the app's modules, or what the PATHs hold, change.",
        ),
    ] = False,
    shutdown_timeout: Annotated[
        str | None,
        typer.Option(
            "--shutdown-timeout",
            metavar="DURATION",
            help="How long running jobs may take to finish after SIGTERM, 25 s"
            " [env: FAILBETTER_SHUTDOWN_TIMEOUT].",
        ),
    ] = None,
    health_port: Annotated[
        str | None,
        typer.Option(
            "--health-port",
            metavar="PORT",
            help="Serve /livez, /readyz, /health and /metrics here; 0 for any free port"
            " [env: FAILBETTER_HEALTH_PORT].",
        ),
    ] = None,
    health_host: Annotated[
        str | None,
        typer.Option(
            "--health-host",
            metavar="ADDRESS",
            help="The address to serve them on, 127.0.0.1 [env: FAILBETTER_HEALTH_HOST].",
        ),
    ] = None,
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
    """Run jobs until told to stop.

    SIGTERM or Ctrl-C: no new jobs, those that run may finish, then exit 0. A second signal does
    not wait for them.
    """
    if form.json:
        raise WrongUsage("a worker prints no document; --log-format json makes its log JSON")
    plain = Settings(app=opening.app_spec(where))
    patience = setting("shutdown_timeout", shutdown_timeout, seconds)
    settings = msgspec.structs.replace(
        plain,
        queues=tuple(setting("queues", queue, texts_of, "--queue") or ()),
        processes=setting("processes", processes, whole(1, 1_000)) or plain.processes,
        concurrency=setting("concurrency", concurrency, whole(1, 1_000)) or plain.concurrency,
        max_memory=setting("max_memory", max_memory, size),
        drain=drain,
        restart_on_change=_watched(paths or [], restart_on_change),
        shutdown_timeout=plain.shutdown_timeout if patience is None else patience,
        health_port=setting("health_port", health_port, whole(0, 65_535)),
        health_host=setting("health_host", health_host, a_text) or plain.health_host,
        log_format=log_format_of(log_format),
        log_level=log_level_of(log_level),
    )
    opening.share_url(where)
    # Nothing of the command line stays in the supervisor's memory.
    become("-m", "failbetter.worker", msgspec.json.encode(settings).decode())


def _watched(paths: list[str], wanted: bool) -> tuple[str, ...] | None:
    """What a worker watches; None: nothing. Raises WrongUsage for what cannot be watched."""
    if paths and not wanted:
        raise WrongUsage(f"{paths[0]!r}: a worker takes paths with --restart-on-change only")
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise WrongUsage(f"--restart-on-change: there is nothing at {missing[0]!r}")
    return tuple(map(os.path.abspath, paths)) if wanted else None


def demo(
    form: Form,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="What to back up; the standard library if not given.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Decides files and faults.",
            parser=a_number(0, 2**63),
        ),
    ] = 1,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="DIR", help="Keep ledger, store and logs in this new folder."
        ),
    ] = None,
) -> int:
    """See it at work: real files, real faults, and proof.

    Backs up a folder to a store that refuses, limits and breaks down, with workers that are
    killed, retries what failed, and proves that nothing was lost.
    """
    # -P: whatever lies in this folder must not take the place of the demo's own imports.
    words = ["-P", "-m", "failbetter.demo", f"--seed={seed}"]
    if form.json:
        words.append("--json")
    if keep is not None:
        words.append(f"--keep={keep}")
    if folder is not None:
        words += ["--", str(folder)]
    become(*words)


def become(*words: str) -> NoReturn:
    """Run Python on these words in the place of this process."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(sys.executable, [sys.executable, *words])
