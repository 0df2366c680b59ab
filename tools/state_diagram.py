"""Writes docs/states.md from the tables and the decision that the code itself uses.

    python tools/state_diagram.py           # write it
    python tools/state_diagram.py --check   # exit 1 when the committed page is another

The diagram is drawn from `lifecycle.states.MOVES`; what each cause can make of a job is found by
asking `lifecycle.decide` about every combination that it tells apart.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from failbetter.lifecycle.backoff import fixed
from failbetter.lifecycle.decide import MAX_HAND_BACKS, Facts, Items, Outcome, Verdict, decide
from failbetter.lifecycle.policy import OnLost, OnPartial, Policy
from failbetter.lifecycle.states import ENDS, MOVES, REASONS, Cause, Reason, State, may_move

PAGE = Path(__file__).resolve().parents[1] / "docs" / "states.md"

STATES = {
    State.PENDING: "waits: for a worker, for its time, for another job of its exclusive key;"
    " or it is claimed and its body has not begun",
    State.RUNNING: "its body has begun",
    State.SUCCEEDED: "its body returned",
    State.FAILED: "it came to nothing, and is kept with its evidence until a person retries or"
    " discards it",
    State.DISCARDED: "there is nothing left to do, and nobody needs to look",
}
REASON_TEXTS = {
    Reason.PARTIAL: "some of its items failed",
    Reason.ERROR: "its body raised, and no attempt is left or the error is final",
    Reason.TIMEOUT: "its body ran longer than `timeout`, and no attempt is left",
    Reason.STALLED: "its body made no progress for too long, and no attempt is left",
    Reason.CRASHED: "its process died `max_crashes` times while its body ran alone",
    Reason.LOST: 'its worker was lost `max_losses` times, or once with `on_lost="fail"`',
    Reason.UNLOADABLE: "no worker's code knows its task, or its arguments fit no more",
    Reason.UNCERTAIN: "an effect was begun, and nobody knows whether it happened",
    Reason.BY_TASK: "its own code said so, with `Fail` or `Discard`, or by `discard_on`",
    Reason.EXPIRED: "it waited longer than `expires_after`",
    Reason.MISSING_RECORD: "the record that it is about is gone",
    Reason.GAVE_UP: "it was released or handed back without end",
    Reason.SUPERSEDED: "a newer job about the same subject has succeeded",
    Reason.CANCELLED: "a person cancelled it",
    Reason.BY_OPERATOR: "a person discarded it",
}
CAUSES = {
    Cause.RETURNED: "the body returned",
    Cause.RAISED: "the body raised an exception, or said `Retry`",
    Cause.RELEASED: "the body said `Release`: nothing is charged",
    Cause.FAILED_BY_TASK: "the body said `Fail`",
    Cause.DISCARDED_BY_TASK: "the body said `Discard`",
    Cause.TIMED_OUT: "the body ran longer than its `timeout` and was stopped",
    Cause.STALLED: "the body made no progress for `stalled_after` and was stopped",
    Cause.CRASHED: "its process died: a signal, an exit code, out of memory",
    Cause.BYSTANDER: "its process was killed for the sake of another body in it",
    Cause.LOST: "its worker died, or its lease ran out",
    Cause.INTERRUPTED: "its worker stopped and could wait no longer",
    Cause.CANCELLED: "a person cancelled the job while its body ran",
    Cause.REFUSED: "its time had run out, or it was out of date, before the body began",
    Cause.UNLOADABLE: "the code that should run it could not be loaded, or its arguments not read",
}
NOT_BEGUN = frozenset(
    {
        Cause.CRASHED,
        Cause.BYSTANDER,
        Cause.LOST,
        Cause.INTERRUPTED,
        Cause.CANCELLED,
        Cause.UNLOADABLE,
    }
)
_NOW = 1_000_000_000


class _Even:
    def random(self) -> float:
        return 0.5


def _facts() -> Iterator[Facts]:
    """A job at the beginning and at the end of every budget, in every circumstance."""
    last = (4, 2, 9, MAX_HAND_BACKS - 1)
    for counts, on_lost, on_partial, suspect, released, expires in itertools.product(
        ((0, 0, 0, 0), last),
        get_args(OnLost),
        get_args(OnPartial),
        (False, True),
        (None, 0),
        (None, _NOW, 10**15),
    ):
        policy = Policy(
            backoff=fixed(1, jitter=False),
            on_lost=on_lost,
            release_within=100,
            on_partial=on_partial,
        )
        yield Facts(policy, *counts, suspect, released, expires, sum(counts))


def _outcomes(cause: Cause) -> Iterator[Outcome]:
    begun = {Cause.REFUSED: (False,)}.get(cause, (True, False) if cause in NOT_BEGUN else (True,))
    for verdict, delay, alone, had_begun, uncertain in itertools.product(
        get_args(Verdict), (None, 1.0, 1000.0), (True, False), begun, (False, True)
    ):
        # Only a body can have begun an effect.
        if not uncertain or (had_begun and cause is not Cause.UNLOADABLE):
            for items in get_args(Items) if cause is Cause.RETURNED else ("all",):
                yield Outcome(cause, verdict, delay, False, alone, had_begun, uncertain, items)


def ends_of(cause: Cause) -> list[tuple[State, Reason | None]]:
    """What an attempt that ended by `cause` can make of its job."""
    found = set()
    for outcome in _outcomes(cause):
        for facts in _facts():
            made = decide(facts, outcome, _NOW, _Even())
            if not may_move(State.RUNNING if outcome.begun else State.PENDING, made.state):
                raise AssertionError(f"{cause}: the table knows no move to {made.state}")
            found.add((made.state, made.reason))
    states, reasons = list(State), list(Reason)
    return sorted(
        found,
        key=lambda end: (states.index(end[0]), -1 if end[1] is None else reasons.index(end[1])),
    )


def _word(end: tuple[State, Reason | None]) -> str:
    state, reason = end
    return f"`{state}`" if reason is None else f"`{state}({reason})`"


def diagram() -> str:
    """The moves as a mermaid state diagram."""
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {State.PENDING}: enqueue"]
    lines += [
        f"    {source} --> {target}: {', '.join(verbs)}"
        for (source, target), verbs in MOVES.items()
    ]
    # What only success is: an end that nobody takes a job back from.
    final = [state for state in State if not any(source is state for source, _ in MOVES)]
    lines += [f"    {state} --> [*]" for state in final]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    states = [
        f"| `{state}` | {'an end' if state in ENDS else 'live'} | {STATES[state]} |"
        for state in State
    ]
    reasons = [
        f"| `{state}({reason})` | {REASON_TEXTS[reason]} |"
        for state in State
        for reason in Reason
        if reason in REASONS[state]
    ]
    causes = [
        f"| `{cause}` | {CAUSES[cause]} | {', '.join(_word(end) for end in ends_of(cause))} |"
        for cause in Cause
    ]
    return "\n".join(
        [
            "<!-- Written by tools/state_diagram.py; change the code, then run it again. -->",
            "",
            "# States, reasons and causes",
            "",
            "A job is in one of five states; three of them are ends. No other move than those"
            " drawn here is ever made.",
            "",
            "```mermaid",
            diagram(),
            "```",
            "",
            "| state | kind | a job that is in it |",
            "|---|---|---|",
            *states,
            "",
            "## Reasons: why a job came to its end",
            "",
            "| end | because |",
            "|---|---|",
            *reasons,
            "",
            "## Causes: what ended an attempt, and what that can make of its job",
            "",
            "Which of them it is, the job's budgets and its task's options decide. An effect in"
            " doubt makes it `failed(uncertain)`, whatever the cause.",
            "",
            "| cause | what happened | the job is then |",
            "|---|---|---|",
            *causes,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it; the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/states.md from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when it differs")
    given = parser.parse_args(arguments)
    text = page()
    if not given.check:
        PAGE.write_text(text)
        return 0
    if PAGE.is_file() and PAGE.read_text() == text:
        return 0
    print(
        f"{PAGE.name} is not what the code says; run python {Path(__file__).name}", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
