"""`failbetter drill`: jobs are interrupted for real, here, and each must come to its right end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import Form, Where, a_duration, a_number
from failbetter.drill.course import FEWEST
from failbetter.drill.run import Drilled, Signalled, run_drill
from failbetter.drill.verify import Check

# Of what is wrong in one respect, so much is shown.
_SHOWN = 5


def drill(
    where: Where,
    form: Form,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            metavar="N",
            help="How many jobs, 20.",
            parser=a_number(FEWEST, 1_000),
            show_default=False,
        ),
    ] = 20,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Give up after so long, 60 s.",
            parser=a_duration,
            show_default=False,
        ),
    ] = 60.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the jobs and the logs, until the next drill.")
    ] = False,
) -> int:
    """Interrupt jobs for real, and see that each comes to its right end.

    On this ledger, with a queue, tasks and workers of its own, which are killed; nothing of your
    code runs. Exit 1 when something is wrong.
    """
    app = opening.ledger(where)
    try:
        drilled = run_drill(
            app,
            jobs=jobs,
            timeout=timeout,
            keep=keep,
            tell=(lambda check: None) if form.json else _tell,
        )
    except Signalled as signalled:
        jobs_too = "; its jobs stay until the next drill" if keep else ", and so are its jobs"
        problems.complain(f"stopped by {signalled.signal.name}; its workers are gone{jobs_too}")
        return 128 + signalled.signal
    if form.json:
        _document(drilled, app.database.name)
    else:
        _sum_up(drilled)
    return problems.OK if drilled.ok else problems.REFUSED


def _tell(check: Check) -> None:
    mark = ("✓" if check.ok else "✗") if output.on_terminal() else ("ok  " if check.ok else "FAIL")
    output.line(f"{mark} {check.name}: {check.seen}", None if check.ok else "red")
    for problem in check.wrong[:_SHOWN]:
        output.line(f"    {texts.one_line(texts.masked(problem))}", "red")
    if len(check.wrong) > _SHOWN:
        output.line(f"    and {len(check.wrong) - _SHOWN} more", "red")
    if not check.ok:
        output.line(f"    this means: {check.means}")
    if sys.stdout is not None:
        sys.stdout.flush()


def _sum_up(drilled: Drilled) -> None:
    bad = sum(not check.ok for check in drilled.checks)
    took = texts.span(drilled.seconds)
    if drilled.kept is not None:
        output.line(f"kept until the next drill: queue {drilled.queue}, logs in {drilled.kept}")
    if drilled.ok:
        output.line(f"passed: interrupted work is recovered here ({took})", "green")
    else:
        output.line(f"failed: {texts.count(bad, 'check')} of {len(drilled.checks)} ({took})", "red")


def _document(drilled: Drilled, ledger: str) -> None:
    output.document(
        {
            "ok": drilled.ok,
            "ledger": ledger,
            "queue": drilled.queue,
            "seconds": round(drilled.seconds, 3),
            "kept": drilled.kept,
            "checks": [
                {
                    "name": check.name,
                    "ok": check.ok,
                    "seen": check.seen,
                    "wrong": [texts.masked(problem) for problem in check.wrong],
                    "means": None if check.ok else check.means,
                }
                for check in drilled.checks
            ],
        }
    )
