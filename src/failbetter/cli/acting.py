"""What `failed preview`, `retry`, `discard`, `restore` share: the jobs, and what is said after."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import failbetter
from failbetter.cli import opening, operations, output, problems, selection, texts
from failbetter.cli.operations import By
from failbetter.cli.parameters import Care, Filters, Form, Some, Where
from failbetter.cli.problems import WrongUsage
from failbetter.cli.progress import Progress

# So many ids are asked for at once: databases bound the values of one statement.
_BATCH = 10_000


class Verb(NamedTuple):
    """An act on many jobs: of which state, which query, how it is done."""

    name: str
    done: str
    state: str
    base: Callable[[failbetter.App], failbetter.Jobs]
    act: Callable[..., failbetter.Operation]


class Asked(NamedTuple):
    """What was typed."""

    where: Where
    filters: Filters
    form: Form
    some: Some
    care: Care
    by: By
    ids: Sequence[str] | None
    token: str | None = None


RETRY = Verb(
    "retry",
    "retried",
    "failed",
    lambda app: app.failed,
    lambda found, **given: found.preview().retry(**given),
)
DISCARD = Verb(
    "discard",
    "discarded",
    "failed",
    lambda app: app.failed,
    lambda found, **given: found.preview().discard(**given),
)
RESTORE = Verb(
    "restore",
    "restored",
    "discarded",
    lambda app: app.jobs.where(state="discarded", reason="by_operator"),
    lambda found, progress, **given: found.restore(all=True, **given),
)


class _Selected(NamedTuple):
    """What is meant: how many, in which queries, and the ids that are refused at once."""

    matched: int
    queries: list[failbetter.Jobs]
    refused: dict[str, str]


def preview(
    where: Where, filters: Filters, form: Form, some: Some, ids: Sequence[str] | None
) -> int:
    """Keep the list of the jobs that are meant, and say what a retry would make of them."""
    app = opening.ledger(where)
    selected = _select(RETRY, app, filters, ids, some.limit)
    if len(selected.queries) > 1:
        raise WrongUsage(f"a preview takes up to {_BATCH:,} ids; use filters for more")
    if not selected.queries:
        operations.say_refused(selected.refused)
        problems.complain("no failed job is among them")
        return problems.REFUSED
    found = selected.queries[0].preview()
    _show(found, selected.refused, form)
    return problems.REFUSED if selected.refused else problems.OK


def _show(found: failbetter.Preview, refused: dict[str, str], form: Form) -> None:
    counts, reasons = found.counts(), found.reasons()
    if form.json:
        output.document(
            {
                "token": found.token,
                "total": found.total,
                "verdicts": counts,
                "reasons": [
                    {"verdict": verdict, "why": why, "count": count}
                    for verdict, why, count in reasons
                ],
                "refused": refused,
            }
        )
        return
    operations.say_refused(refused)
    output.table(("JOBS", "VERDICT"), [(f"{n:,}", word) for word, n in counts.items()], numbers=1)
    for verdict, why, count in reasons:
        output.line(f"{count:,} {verdict}: {texts.one_line(why)}")
    output.line(f"token {found.token}")
    if found.total:
        output.line(f"retry those that are ready: failbetter failed retry --token {found.token}")


def act(verb: Verb, asked: Asked, **given: Any) -> int:
    """Do it to the jobs that are meant; 1 when any of them was refused."""
    given |= asked.by.given
    if asked.token is not None:
        return _act_on_preview(verb, asked, given)
    narrow = bool(asked.filters.given() or asked.ids)
    if asked.care.all and narrow:
        raise WrongUsage(f"--all means every {verb.state} job: give no filter and no id with it")
    if not narrow and not asked.care.all:
        raise WrongUsage(
            f"{verb.name} which? Give ids or filters (see --help), or --all for every"
            f" {verb.state} job"
        )
    app = opening.ledger(asked.where)
    selected = _select(verb, app, asked.filters, asked.ids, asked.some.limit)
    if asked.care.dry_run:
        return _say_what_would_be(verb, selected.matched, selected.refused, asked.form)
    if not _may_go_on(verb, selected.matched, asked.care):
        return problems.REFUSED
    done = [_run(verb.act, query, given) for query in selected.queries]
    return _report(verb, done, selected.refused, asked.form)


def _act_on_preview(verb: Verb, asked: Asked, given: dict[str, Any]) -> int:
    if asked.filters.given() or asked.ids or asked.care.all or asked.some.limit:
        raise WrongUsage("--token means the jobs of that preview: give nothing else to select by")
    found = operations.find_preview(opening.ledger(asked.where), str(asked.token))
    if asked.care.dry_run:
        return _say_what_would_be(verb, found.total, {}, asked.form)
    if not _may_go_on(verb, found.total, asked.care):
        return problems.REFUSED
    method = found.retry if verb is RETRY else found.discard
    done = _run(lambda _, **more: method(**more), None, given)
    return _report(verb, [done], {}, asked.form)


def _run(
    method: Callable[..., failbetter.Operation], query: Any, given: dict[str, Any]
) -> failbetter.Operation:
    progress = Progress("jobs")
    try:
        return method(query, progress=progress.show, **given)
    except (ValueError, TypeError) as error:
        raise WrongUsage(str(error)) from None
    finally:
        progress.close()


def _select(
    verb: Verb,
    app: failbetter.App,
    filters: Filters,
    ids: Sequence[str] | None,
    limit: int | None,
) -> _Selected:
    base = verb.base(app)
    if not ids:
        found = selection.narrowed(base, filters)
        count = found.count()
        if limit is None:
            return _Selected(count, [found], {})
        return _Selected(min(count, limit), [found.limit(limit)], {})
    queries = []
    refused: dict[str, str] = {}
    matching = 0
    for batch in output.paged(selection.checked(base, ids), _BATCH):
        found = selection.narrowed(base, filters, batch)
        present = [job.id for job in found]
        if limit is not None:
            present = present[: limit - matching]
        matching += len(present)
        if present:
            queries.append(base.where(ids=present))
        for missing in [number for number in batch if number not in set(present)]:
            refused[missing] = _why_not(verb, app, missing)
    return _Selected(matching, queries, refused)


def _why_not(verb: Verb, app: failbetter.App, number: str) -> str:
    try:
        job = app.job(number)
    except failbetter.JobNotFound:
        return "not found"
    if job.state != verb.state:
        return f"not {verb.state} but {job.state}"
    if verb is RESTORE and job.reason != "by_operator":
        return f"not discarded by a person but {job.state} ({job.reason})"
    return "left out by a filter or --limit"


def _may_go_on(verb: Verb, count: int, care: Care) -> bool:
    """Ask a person, if there is one; a script has said what it wants."""
    if not count or care.yes or sys.stdin is None or not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{verb.name} {texts.count(count, f'{verb.state} job')}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    problems.complain("nothing was done")
    return False


def _say_what_would_be(verb: Verb, matched: int, refused: dict[str, str], form: Form) -> int:
    if form.json:
        output.document(
            {"action": verb.name, "dry_run": True, "matched": matched, "refused": refused}
        )
    else:
        output.line(f"would {verb.name} {texts.count(matched, f'{verb.state} job')}")
        operations.say_refused(refused)
    return problems.REFUSED if refused else problems.OK


def _report(
    verb: Verb, done: Sequence[failbetter.Operation], refused: dict[str, str], form: Form
) -> int:
    moved = sum(one.moved for one in done)
    for one in done:
        refused = refused | one.refused
    if form.json:
        output.document(
            {
                "action": verb.name,
                "dry_run": False,
                verb.done: moved,
                "refused": refused,
                "operations": [one.id for one in done],
            }
        )
        return problems.REFUSED if refused else problems.OK
    operations.say_refused(refused)
    tail = f", {len(refused):,} refused" if refused else ""
    running = [one for one in done if one.state == "running"]
    if running:
        total = sum(one.total for one in running)
        output.line(f"{verb.name} of {texts.count(total, f'{verb.state} job')} has begun{tail}")
    else:
        output.line(f"{verb.done} {texts.count(moved, f'{verb.state} job')}{tail}")
    for one in done:
        if one.total:
            problems.tell(f"what becomes of them: failbetter operations show {one.id}")
    return problems.REFUSED if refused else problems.OK
