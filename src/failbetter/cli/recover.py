"""`failbetter recover`: what was interrupted is handed back before an application serves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.parameters import LISTED, Form, Where, a_duration, a_number
from failbetter.cli.progress import Progress

_ORDER = {"refused": 0, "ended": 1, "handed_back": 2}


class _Stopped(Exception):
    """A signal came; raised between two batches."""


def recover(
    where: Where,
    form: Form,
    force: Annotated[
        bool, typer.Option("--force", help="Also when one ended within --skip-window.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Stop cleanly after so long, 30 s.",
            parser=a_duration,
            show_default=False,
        ),
    ] = 30.0,
    max_retries: Annotated[
        int,
        typer.Option(
            "--max-retries",
            metavar="N",
            help="Try a ledger out of reach again so often, 3 times.",
            parser=a_number(0, 1_000_000),
            show_default=False,
        ),
    ] = 3,
    retry_delay: Annotated[
        float,
        typer.Option(
            "--retry-delay",
            metavar="DURATION",
            help="How long to wait before that, 5 s.",
            parser=a_duration,
            show_default=False,
        ),
    ] = 5.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")
    ] = False,
    skip_window: Annotated[
        float,
        typer.Option(
            "--skip-window",
            metavar="DURATION",
            help="Do nothing when one ended so short a time ago, 0 s.",
            parser=a_duration,
            show_default=False,
        ),
    ] = 0.0,
) -> int:
    """Find interrupted jobs and hand them back, before an application serves.

    Exit 1 when some job could not be recovered, 69 when the ledger is out of reach, 75 when the
    time was over or another recovery went on for all of it.
    """
    app = opening.ledger(where, new=not dry_run)
    with _signals() as received:
        shown = Progress("interrupted jobs")
        done = 0

        def progress(so_far: failbetter.RecoveryProgress) -> None:
            nonlocal done
            done = so_far.done
            if received:
                raise _Stopped
            shown.show(so_far.done, so_far.total, so_far.waits_for)

        try:
            report = app.recover(
                force=force,
                timeout=timeout,
                skip_window=skip_window,
                dry_run=dry_run,
                max_retries=max_retries,
                retry_delay=retry_delay,
                progress=progress,
            )
        except _Stopped:
            name = signal.Signals(received[0]).name
            problems.complain(
                f"stopped by {name}; {texts.count(done, 'job')} settled, the rest is as it was:"
                " a worker or the next recovery takes it up"
            )
            return 128 + received[0]
        finally:
            shown.close()
    if form.json:
        _document(report)
    else:
        _tell(report)
    return _code(report)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came meanwhile. A second one is as deadly as ever."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        for each in numbers:
            signal.signal(each, before[each])

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def _code(report: failbetter.RecoveryReport) -> int:
    if report.outcome in ("timed_out", "locked"):
        return problems.TRY_AGAIN
    return problems.OK if report.ok else problems.REFUSED


def _document(report: failbetter.RecoveryReport) -> None:
    head = {
        "outcome": report.outcome,
        "ok": report.ok,
        "dry_run": report.dry_run,
        "handed_back": report.handed_back,
        "ended": report.ended,
        "expired": report.expired,
        "refused": report.refused,
        "left": report.left,
        "leased": report.leased,
        "by": report.by,
        "seconds": round(report.seconds, 3),
        "gone": [
            {
                "name": one.name,
                "host": one.host,
                "why": one.why,
                "last_heard": texts.stamp(one.last_heard),
            }
            for one in report.gone
        ],
        "watched": [
            {
                "name": one.name,
                "host": one.host,
                "last_heard": texts.stamp(one.last_heard),
                "lease": one.lease,
                "jobs": one.jobs,
            }
            for one in report.watched
        ],
    }
    rows = (
        {
            "id": job.id,
            "task": job.task,
            "became": job.became,
            "state": job.state,
            "reason": job.reason,
            "why": texts.masked(job.why),
        }
        for job in report.jobs
    )
    output.long_document(head, "jobs", rows)


def _tell(report: failbetter.RecoveryReport) -> None:
    for one in report.gone:
        output.line(f"worker {one.name} is gone: {one.why}")
    if report.jobs:
        some = sorted(report.jobs, key=lambda job: _ORDER[job.became])[:LISTED]
        output.table(
            ("ID", "BECAME", "TASK", "WHY"),
            [(job.id, _became(job), job.task, texts.one_line(job.why)) for job in some],
        )
        if len(some) < len(report.jobs):
            output.line(f"{len(some)} of {len(report.jobs):,} jobs shown; --json shows all")
    for worker in report.watched:
        output.line(
            f"worker {worker.name} was last heard of {texts.ago(worker.last_heard, texts.now())}:"
            f" {texts.count(worker.jobs, 'job')} of it will be handed back by a worker or"
            f" `failbetter maintain`, unless it is heard of within {texts.span(worker.lease)}"
        )
    if report.leased:
        output.line(f"{texts.count(report.leased, 'job')} under a live lease: left alone")
    output.line(_summary(report))


def _became(job: failbetter.RecoveredJob) -> str:
    if job.became == "ended":
        return job.state if job.reason is None else f"{job.state} ({job.reason})"
    return job.became.replace("_", " ")


def _summary(report: failbetter.RecoveryReport) -> str:
    took = texts.span(report.seconds)
    if report.outcome == "skipped":
        return "skipped: a recovery ended within --skip-window; --force does not mind"
    if report.outcome == "locked":
        return f"locked: {report.by} is at it, and was for all of {took}"
    would = "would be " if report.dry_run else ""
    parts = [f"{report.handed_back:,} {would}handed back"]
    if report.ended:
        parts.append(f"{report.ended:,} {would}ended")
    if report.refused:
        parts.append(f"{report.refused:,} could not be moved")
    if report.outcome == "timed_out":
        parts.append(f"{report.left:,} left for a worker or the next recovery")
    if report.outcome == "nothing":
        return f"nothing to recover ({took})"
    outcome = "dry run" if report.dry_run else report.outcome.replace("_", " ")
    return f"{outcome}: {', '.join(parts)} ({took})"
