"""Groups of failed jobs, as `failbetter failed` shows them, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import failbetter
from failbetter.cli import documents, output, problems, selection, story, texts
from failbetter.cli.parameters import LISTED, Form
from failbetter.cli.problems import WrongUsage

STATES = ("open", "resolved", "ignored", "all")

# A name of a task longer than that would leave no room for the error.
_TASK = 30
# Fewer characters of a fingerprint are hard to tell from another at a glance.
_SHORTEST = 8
_MESSAGE = 300


def overview(found: failbetter.Jobs, wanted: str, limit: int | None, form: Form) -> int:
    """Print the groups of a state; say on stderr what else there is."""
    if wanted not in STATES:
        raise WrongUsage(f"--state: {wanted!r} is none of {', '.join(STATES)}")
    every = found.groups()
    among = [each for each in every if wanted in (each.state, "all")]
    shown = among[: limit or (len(among) if form.json else LISTED)]
    if form.json:
        output.document([documents.group(each) for each in shown])
    elif among:
        _table(shown, every)
    else:
        output.line("no failed jobs" if not every else f"no group is {wanted}")
    if len(shown) < len(among):
        problems.tell(f"{len(shown)} of {texts.count(len(among), 'group')} shown; see --limit")
    _say_others(every, wanted)
    return problems.OK


def _say_others(every: Sequence[failbetter.Group], wanted: str) -> None:
    """What is not looked at is not forgotten: one line says how much that is."""
    others = []
    for state in STATES[:-1]:
        of_state = [each for each in every if each.state == state]
        if of_state and wanted not in (state, "all"):
            jobs = texts.count(sum(each.count for each in of_state), "job")
            others.append(f"{texts.count(len(of_state), 'group')} {state} ({jobs})")
    if others:
        problems.tell(f"not shown: {', '.join(others)}; see --state")


def _table(shown: Sequence[failbetter.Group], every: Sequence[failbetter.Group]) -> None:
    now = texts.now()
    length = _telling([each.fingerprint or "" for each in every]) if output.on_terminal() else None
    headings = ("COUNT", "LAST", "STATE", "GROUP", "TASK", "ERROR")
    output.table(headings, [_row(each, now, length) for each in shown], numbers=1)


def _row(found: failbetter.Group, now: datetime, length: int | None) -> Sequence[str]:
    """`length`: so much of a fingerprint tells it from all others; None: all is shown."""
    state = f"reopened {found.recurred:,}" if found.reopened else found.state
    task = texts.cut(found.task, _TASK) if length is not None else found.task
    kind = cause(found)
    if length is not None and ":" not in kind:
        kind = kind.rpartition(".")[2]
    message = texts.cut(texts.one_line(found.message or ""), _MESSAGE)
    return (
        f"{found.count:,}",
        texts.ago(found.last_seen, now),
        state,
        (found.fingerprint or "-")[:length],
        task,
        f"{kind}: {message}" if message else kind,
    )


def _telling(fingerprints: Sequence[str]) -> int:
    """How much of each tells it from the others."""
    length = _SHORTEST
    while len({each[:length] for each in fingerprints}) < len(set(fingerprints)):
        length += 1
    return length


def cause(found: failbetter.Group) -> str:
    """What the group has in common, in a word or two: an error's type, else the reason."""
    kind = texts.one_line(found.error_type or "")
    if found.reason in (None, "error"):
        return kind or "error"
    # The reason says what failbetter's own error types say.
    return found.reason if not kind or kind.startswith("failbetter.") else f"{found.reason}: {kind}"


def tell(found: failbetter.Group, form: Form, *, full: bool) -> None:
    """All that is known of one group, and the story of its newest job."""
    if form.json:
        sample = documents.whole_job(found.sample)
        output.document({**documents.group(found), "sample": sample})
        return
    output.line(found.title, "bold")
    seen = f"first {texts.local(found.first_seen)}, last {texts.local(found.last_seen)}"
    said = ", ".join(
        part
        for part in (
            texts.local(found.changed_at) if found.changed_at else "",
            f"by {texts.one_line(found.actor)}" if found.actor else "",
            texts.one_line(found.note or ""),
        )
        if part
    )
    state = f"open again: {found.recurred:,} since resolved" if found.reopened else found.state
    for name, value in (
        ("group", found.fingerprint or "-"),
        ("state", f"{state} ({said})" if said else state),
        ("jobs", f"{found.count:,}"),
        ("seen", seen),
        ("tasks", ", ".join(found.tasks)),
        ("queues", ", ".join(found.queues)),
        ("code", ", ".join(found.code_versions) or "-"),
    ):
        output.line(f"  {name:10}  {value}")
    output.line("\nthe newest of its jobs:\n")
    story.tell(found.sample, full=full)


Act = Callable[[failbetter.Group], failbetter.Group]


def change(failed: failbetter.Jobs, keys: Sequence[str], act: Act, form: Form) -> int:
    """Say something of the groups of these fingerprints; 1 when any was refused."""
    wanted = [selection.fingerprint(failed, "FINGERPRINT", key) for key in dict.fromkeys(keys)]
    outcomes: list[tuple[str, failbetter.Group | None]] = []
    for key in dict.fromkeys(wanted):
        of_key = failed.where(fingerprint=key).groups()
        try:
            outcomes.append((key, act(of_key[0]) if of_key else None))
        except ValueError as error:
            raise WrongUsage(f"--{error}") from None
    if form.json:
        output.document(
            [
                {
                    "fingerprint": key,
                    "done": now is not None,
                    "state": None if now is None else now.state,
                }
                for key, now in outcomes
            ]
        )
    else:
        for key, now in outcomes:
            told = "refused: no failed job has it" if now is None else _told(now)
            output.line(f"{texts.one_line(key)}  {told}")
    return problems.OK if all(now is not None for _, now in outcomes) else problems.REFUSED


def _told(now: failbetter.Group) -> str:
    return f"{now.state}: {texts.one_line(now.title)}, {texts.count(now.count, 'failed job')}"
