"""What a user may read of a job that came to no good end: short, and safe to be shown.

Of an error nothing is told, neither its type nor its message: they are for those who run the
program, who find them by the job's id. Only what a task's author says with `Fail("…")` or
`Discard("…")` is passed on as it is.
"""

from __future__ import annotations

from failbetter.lifecycle.states import Reason, State

LONGEST = 200
"""Characters, the id included."""

_SENTENCES: dict[tuple[State, Reason], str] = {
    (State.FAILED, Reason.ERROR): "It failed because of an error.",
    (State.FAILED, Reason.TIMEOUT): "It took too long and was stopped.",
    (State.FAILED, Reason.STALLED): "It made no progress and was stopped.",
    (State.FAILED, Reason.CRASHED): "It was cut short by a crash.",
    (State.FAILED, Reason.LOST): "It was cut short, and nobody knows how far it came.",
    (State.FAILED, Reason.UNLOADABLE): "The program that does it is not available.",
    (State.FAILED, Reason.UNCERTAIN): "It is not known whether it was done.",
    (State.FAILED, Reason.PARTIAL): "Only a part of it could be done.",
    (State.FAILED, Reason.BY_TASK): "It cannot be done.",
    (State.FAILED, Reason.EXPIRED): "It could not be done in time.",
    (State.FAILED, Reason.MISSING_RECORD): "What it was about is no longer there.",
    (State.FAILED, Reason.GAVE_UP): "It had to be put off for too long.",
    (State.DISCARDED, Reason.EXPIRED): "It could not be done in time.",
    (State.DISCARDED, Reason.SUPERSEDED): "Something newer has taken its place.",
    (State.DISCARDED, Reason.MISSING_RECORD): "What it was about is no longer there.",
    (State.DISCARDED, Reason.CANCELLED): "It was cancelled.",
    (State.DISCARDED, Reason.BY_TASK): "There was nothing to do.",
    (State.DISCARDED, Reason.BY_OPERATOR): "It was put aside.",
}
# By these types the ledger knows what a body said from what it raised.
_SAID = {State.FAILED: "failbetter.Fail", State.DISCARDED: "failbetter.Discard"}


def public_reason(
    job: str,
    state: State,
    reason: Reason | None,
    error_type: str | None,
    error_message: str | None,
) -> str | None:
    """One sentence for a user, with the job's id for whoever is asked; None where all is well.

    `error_type`, `error_message`: as the ledger keeps them, with secrets masked.
    """
    if state not in _SAID:
        return None
    sentence = None
    if reason is Reason.BY_TASK and error_type == _SAID[state]:
        sentence = (error_message or "").strip()
    if not sentence:
        sentence = "It was not done." if reason is None else _SENTENCES[state, reason]
    tail = f" (job {job})"
    room = LONGEST - len(tail)
    if len(sentence) > room:
        sentence = sentence[: room - 1] + "…"
    return sentence + tail
