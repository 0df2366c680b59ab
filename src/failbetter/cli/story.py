"""The story of a job in the order it happened, for a person at three in the morning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import failbetter
from failbetter.cli import output, texts

_TRACEBACK_LINES = 10
_TEXT_WIDTH = 300
_ITEMS = 5
# Frames of a stack that tell a user nothing: our own, and how Python begins a thread.
_MACHINERY = re.compile(r"/failbetter/worker/|/threading\.py\"|<frozen runpy>")

_STYLES = dict.fromkeys(("released", "interrupted", "bystander"), "yellow") | {"returned": "green"}


class Event(NamedTuple):
    """Something that happened: when, in a headline, with details under it.

    `at` None: not on record; it belongs where it stands.
    """

    at: datetime | None
    headline: str
    style: str | None = None
    details: Sequence[str] = ()


def tell(job: failbetter.Job, *, full: bool) -> None:
    """Print what the job is, what happened to it, and what it waits for."""
    now = texts.now()
    output.line(f"{job.task}  {job.id}", "bold")
    _facts(job, now, full=full)
    output.line()
    output.line(f"What happened ({now.astimezone().tzname()})", "bold")
    for event in events(job, full=full):
        at = "" if event.at is None else texts.exact(event.at)
        output.line(f"  {at:<23}  {event.headline}", event.style)
        for detail in event.details:
            output.line(f"  {'':<23}  {detail}".rstrip())
    waits = job.waiting_for()
    if waits is not None:
        output.line(f"  {'now':<23}  {_now(job, waits, now)}", output.STYLES[job.state])


def in_words(state: str, reason: str | None) -> str:
    """`failed (crashed)`, `succeeded`."""
    return state if reason is None else f"{state} ({reason})"


def _end(state: str, reason: str | None) -> str:
    return f"the job {'was ' if state == 'discarded' else ''}{in_words(state, reason)}"


# -- what the job is


def _facts(job: failbetter.Job, now: datetime, *, full: bool) -> None:
    facts = [("state", in_words(job.state, job.reason))]
    if job.error_type is not None and job.state != "succeeded":
        facts.append(("last error", _error(job.error_type, job.error_message, full=full)))
    facts += _progress(job, full=full)
    for name, value in job.args.items():
        shown = value if value == "***" else texts.value(value)
        facts.append(("arguments", f"{name} = {_bounded(shown, full=full)}"))
    if job.state == "succeeded":
        facts.append(("result", _bounded(texts.value(job.result(timeout=0)), full=full)))
    if job.note is not None:
        facts.append(("note", _bounded(job.note, full=full)))
    facts += _edits(job, now)
    facts.append(("queue", f"{job.queue}, priority {job.priority}"))
    if job.tags:
        facts.append(("tags", ", ".join(job.tags)))
    if job.fingerprint is not None and job.state == "failed":
        facts.append(("group", job.fingerprint))
    facts.append(("accepted", texts.ago(job.created_at, now)))
    if job.ended_at is not None:
        facts.append(("ended", texts.ago(job.ended_at, now)))
    before = ""
    for name, text in facts:
        style = output.STYLES[job.state] if name == "state" else None
        output.line(f"  {'' if name == before else name:<10}  {texts.one_line(text)}", style)
        before = name


def _edits(job: failbetter.Job, now: datetime) -> list[tuple[str, str]]:
    """Of which job it was made with other arguments, and which was made of it."""
    facts = []
    if (made := job.edited_from) is not None:
        facts.append(("edited", f"from {made.original}{_edit(made, now)}"))
    if (last := job.edited_as) is not None:
        facts.append(("edited", f"as {last.made}{_edit(last, now)}"))
    return facts


def _edit(edit: failbetter.Edit, now: datetime) -> str:
    by = f" by {edit.actor}" if edit.actor else ""
    why = f": {edit.note}" if edit.note else ""
    return f", other {', '.join(edit.changed)}, {texts.ago(edit.at, now)}{by}{why}"


def _progress(job: failbetter.Job, *, full: bool) -> list[tuple[str, str]]:
    """How far it has come, and which of its items failed."""
    found = job.progress
    if found is None:
        return []
    of = "" if found.total is None else f" of {found.total:,}"
    told = f"{found.done:,}{of} done"
    if found.failed:
        told += f", {found.failed:,} failed"
    if found.vanished:
        told += f", {found.vanished:,} no longer there"
    facts = [("progress", told)]
    if found.failed:
        limit = 1_000 if full else _ITEMS
        facts += [
            (
                "failed",
                f"{item.key}: {_error(item.error_type or '', item.error_message, full=full)}",
            )
            for item in job.failed_items(limit)
        ]
        if found.failed > limit:
            facts.append(("failed", f"… {found.failed - limit:,} more{'' if full else ': --full'}"))
    return facts


# -- what happened to it


def events(job: failbetter.Job, *, full: bool) -> list[Event]:
    """What happened to the job, oldest first."""
    attempts = job.attempts
    timed = [Event(job.created_at, "accepted")]
    for effect in job.effects:
        timed += _effect_events(effect, full=full)
    before: str | None = None
    for at, attempt in enumerate(attempts):
        following = attempts[at + 1 :]
        timed += _attempt_events(attempt, following, before, full=full)
        before = attempt.code or before
        if attempt.state == "failed" and (following or _was_retried(job)):
            timed.append(Event(attempt.ended_at, ""))  # see _retries
    begun_at = job.row.begun_at
    if job.state == "running" and begun_at is not None:
        began = datetime.fromtimestamp(begun_at / 1e6, UTC)
        timed.append(Event(began, f"attempt {job.attempt} began"))
    if job.ended_at is not None and not (attempts and attempts[-1].ended_at == job.ended_at):
        by_hand = job.reason == "by_operator"
        ended = "discarded by a person" if by_hand else _end(job.state, job.reason)
        timed.append(Event(job.ended_at, ended, output.STYLES[job.state]))
    # Stable: what is written of one moment stays in the order it was told in.
    timed.sort(key=lambda event: event.at or job.created_at)
    return [_retries(event) for event in timed]


def _was_retried(job: failbetter.Job) -> bool:
    """Whether a job, whose last attempt failed it for good, has been made to wait again since."""
    if job.state == "discarded":
        return job.reason != "by_operator"
    return job.state in ("pending", "running")


def _retries(event: Event) -> Event:
    """A person's retry leaves no time of its own: it came after that end, before what follows."""
    return event if event.headline else Event(None, "retried by a person, with fresh budgets")


def _effect_events(effect: failbetter.Effect, *, full: bool) -> list[Event]:
    name = texts.one_line(effect.name)
    if effect.done_at is None:
        told = f"effect {name}: begun, and not known to have happened"
        return [Event(effect.intended_at, told, "yellow")]
    result = "" if effect.result is None else f": {texts.value(effect.result)}"
    return [Event(effect.done_at, f"effect {name}: done{_bounded(result, full=full)}")]


def _attempt_events(
    attempt: failbetter.Attempt,
    following: Sequence[failbetter.Attempt],
    code_before: str | None,
    *,
    full: bool,
) -> list[Event]:
    told = []
    where = f" on {attempt.worker}" if attempt.worker else ""
    code = f", code {attempt.code}" if attempt.code else ""
    if attempt.code and code_before not in (None, attempt.code):
        code = f", new code {attempt.code}"
    took = ""
    if attempt.begun_at is not None:
        told.append(Event(attempt.begun_at, f"attempt {attempt.number} began{where}{code}"))
        seconds = max((attempt.ended_at - attempt.begun_at).total_seconds(), 0)
        took = f" after {texts.span(seconds)}"
    verb, rest = _cause(attempt, full=full)
    headline = f"attempt {attempt.number} {verb}{took}{rest}"
    details = _details(attempt, following, full=full)
    return [*told, Event(attempt.ended_at, headline, _STYLES.get(attempt.cause, "red"), details)]


def _details(
    attempt: failbetter.Attempt, following: Sequence[failbetter.Attempt], *, full: bool
) -> list[str]:
    found: list[str] = []
    told = ("returned", "released", "crashed", "lost")  # by the headline
    if attempt.cause not in told and attempt.error_type is not None:
        found.append(_error(attempt.error_type, attempt.error_message, full=full))
    if "newer_code" in attempt.evidence:
        found.append(_on_old_code(attempt))
    for name, value in attempt.evidence.items():
        if name not in _TOLD_ELSEWHERE:
            shown = _EVIDENCE.get(name, texts.value)(value)
            found.append(f"{name.replace('_', ' ')}: {_bounded(shown, full=full)}")
    found += _trace(attempt, following, full=full)
    found.append(_consequence(attempt))
    return found


def _on_old_code(attempt: failbetter.Attempt) -> str:
    newer = texts.one_line(str(attempt.evidence["newer_code"]))
    told = f"newer code was on disk by then ({newer})"
    if attempt.evidence.get("not_charged"):
        told += ": not charged, to be seen again with that"
    return told


def _checkpoint(value: Any) -> str:
    if not isinstance(value, dict):
        return texts.value(value)
    of = "" if value.get("total") is None else f" of {value['total']:,}"
    failed = f", {value['failed']:,} failed" if value.get("failed") else ""
    return f"{value.get('done', 0):,}{of} done{failed}"


def _moment(value: Any) -> str:
    try:
        return texts.exact(datetime.fromisoformat(str(value)))
    except ValueError:
        return texts.value(value)


def _plain(value: Any) -> str:
    return texts.one_line(str(value))


# By the headline, or below it.
_TOLD_ELSEWHERE = frozenset(
    {
        "stacks",
        "signal",
        "signal_name",
        "exit_code",
        "out_of_memory",
        "why",
        "newer_code",
        "not_charged",
    }
)
_EVIDENCE: dict[str, Callable[[Any], str]] = {
    "checkpoint": _checkpoint,
    "last_heard": _moment,
    "host": _plain,
    "known_by": _plain,
    "held_back": lambda value: f"not charged, as the breaker {_plain(value)} is open",
    "peak_memory": lambda value: texts.size(value) if isinstance(value, int) else str(value),
}


def _cause(attempt: failbetter.Attempt, *, full: bool) -> tuple[str, str]:
    """What ended the attempt: what it did, and what is to be said about that."""
    evidence = attempt.evidence
    why = f": {texts.one_line(str(evidence['why']))}" if "why" in evidence else ""
    message = _bounded(texts.one_line(attempt.error_message or ""), full=full)
    match attempt.cause:
        case "crashed":
            return "died", f": its process {_death(evidence)}"
        case "timed_out":
            return "was stopped", ", past its timeout"
        case "bystander":
            return "was stopped", ": its process was killed for another job's sake"
        case "lost":
            return "was lost", f": {message}" if message else why
        case "interrupted":
            return "was interrupted", ": its worker stopped"
        case "released":
            return "asked to wait", f" (Release {message})" if message else " (Release)"
        case "failed_by_task":
            return "failed the job", " (Fail)"
        case "discarded_by_task":
            return "discarded the job", " (Discard)"
        case "unloadable":
            return "could not be loaded", ""
        case "cancelled":
            return "was cancelled", ""
        case other:
            return other.replace("_", " "), why


def _death(evidence: dict[str, Any]) -> str:
    memory = ", out of memory" if evidence.get("out_of_memory") else ""
    if "signal" in evidence:
        name = evidence.get("signal_name")
        named = f" ({name})" if name else ""
        return f"was killed by signal {evidence['signal']}{named}{memory}"
    if "exit_code" in evidence:
        return f"exited with code {evidence['exit_code']}{memory}"
    return f"is gone{memory}"


def _consequence(attempt: failbetter.Attempt) -> str:
    if attempt.state != "pending":
        return _end(attempt.state, attempt.reason)
    if attempt.next_run_at is None or attempt.next_run_at <= attempt.ended_at:
        return "waits to run again, at once"
    wait = (attempt.next_run_at - attempt.ended_at).total_seconds()
    return f"waits to run again at {texts.exact(attempt.next_run_at)}, in {texts.span(wait)}"


def _trace(
    attempt: failbetter.Attempt, following: Sequence[failbetter.Attempt], *, full: bool
) -> list[str]:
    """The attempt's traceback or stacks: whole, or what matters of them, and that once only."""
    stacks = attempt.evidence.get("stacks")
    text = attempt.traceback or stacks
    if not text:
        return []
    if full:
        parts = [attempt.traceback, None if stacks == attempt.traceback else stacks]
        return ["  " + line for part in parts if part for line in texts.lines(part.rstrip("\n"))]
    if attempt.cause in ("returned", "released", "failed_by_task", "discarded_by_task"):
        return []
    for later in following:
        if later.traceback is not None and _frames(later.traceback) == _frames(text):
            return [f"  (the traceback is that of attempt {later.number})"]
    lines = _without_machinery(texts.lines(text.rstrip("\n")))
    if text == stacks:
        # The innermost frame comes first; threads with nothing left but a heading say nothing.
        after = [*lines[1:], ""]
        told = zip(lines, after, strict=True)
        lines = [line for line, then in told if line.startswith("  ") or then.startswith("  ")]
        return [*("  " + line for line in lines[:_TRACEBACK_LINES]), "  (all stacks: --full)"]
    if len(lines) <= _TRACEBACK_LINES:
        return ["  " + line for line in lines]
    left_out = f"… {texts.count(len(lines) - _TRACEBACK_LINES, 'more line')}: --full"
    return ["  " + left_out, *("  " + line for line in lines[-_TRACEBACK_LINES:])]


def _without_machinery(lines: Sequence[str]) -> list[str]:
    kept = []
    skipping = False
    for line in lines:
        if line.startswith("  File "):
            skipping = _MACHINERY.search(line) is not None
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(line)
    return kept


def _frames(traceback: str) -> list[str]:
    return [line for line in traceback.split("\n") if line.startswith('  File "')]


# -- what it waits for


def _now(job: failbetter.Job, waits: str, now: datetime) -> str:
    told = waits if job.row.claimed else f"waits for {waits}"
    if job.run_at > now and not job.row.claimed:
        told += f" ({texts.ago(job.run_at, now)})"
    if job.row.cancel:
        told += "; its worker has been asked to stop it"
    return told


def _error(kind: str, message: str | None, *, full: bool) -> str:
    text = kind if not message else f"{kind}: {message}"
    return _bounded(texts.one_line(text), full=full)


def _bounded(text: str, *, full: bool) -> str:
    return text if full else texts.cut(text, _TEXT_WIDTH)
