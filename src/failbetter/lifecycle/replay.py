"""Whether a failed job can be run again, and what keeps it from that. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

import msgspec

from failbetter.lifecycle.policy import Replay
from failbetter.lifecycle.states import Reason, State


class Verdict(StrEnum):
    """What a preview says of a job."""

    READY = "ready"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    MISSING_RECORD = "missing_record"
    NEEDS_CONFIRMATION = "needs_confirmation"
    UNCERTAIN = "uncertain"
    UNKNOWN_TASK = "unknown_task"
    BAD_ARGUMENTS = "bad_arguments"
    DUPLICATE = "duplicate"
    NOT_FAILED = "not_failed"
    NOT_DISCARDED = "not_discarded"


CONFIRMABLE = frozenset({Verdict.READY, Verdict.NEEDS_CONFIRMATION})
"""What is run again once a person has confirmed it."""

NEVER_AGAIN = "its task says that it is never to be run again by hand"
REPLACED = "its engine has another job of its id by now"
KEY_IS_TAKEN = "a live job has its unique key"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job when it is judged. Times in microseconds since the epoch.

    `done`, `in_doubt`: its effects by whether they are known to have happened. `verify`: whether
    its task can tell. `misfit`: why its arguments no longer fit the task. `twin`: a live job has
    its unique key; `newer_twin`: a newer one that was selected as well has it. `replaced`: it is
    an engine's own, which has another job of its id. `missing`: what its arguments refer to and
    is not there.
    """

    state: str
    reason: str | None
    expires_at: int | None
    replay: Replay = "safe"
    verify: bool = False
    known_task: bool = True
    misfit: str | None = None
    done: int = 0
    in_doubt: int = 0
    twin: bool = False
    newer_twin: bool = False
    superseded: bool = False
    replaced: bool = False
    missing: str | None = None
    now: int


Found: TypeAlias = tuple[Verdict, str] | None
Check: TypeAlias = Callable[[Facts], Found]


def _not_failed(facts: Facts) -> Found:
    if facts.state == State.FAILED:
        return None
    return Verdict.NOT_FAILED, f"not failed but {facts.state}"


def _unknown_task(facts: Facts) -> Found:
    if facts.known_task:
        return None
    return Verdict.UNKNOWN_TASK, "neither this app nor a live worker knows its task"


def _bad_arguments(facts: Facts) -> Found:
    return None if facts.misfit is None else (Verdict.BAD_ARGUMENTS, facts.misfit)


def _missing_record(facts: Facts) -> Found:
    return None if facts.missing is None else (Verdict.MISSING_RECORD, facts.missing)


def _superseded(facts: Facts) -> Found:
    if facts.replaced:
        return Verdict.SUPERSEDED, REPLACED
    if not facts.superseded:
        return None
    return Verdict.SUPERSEDED, "a newer job of its subject has succeeded"


def _expired(facts: Facts) -> Found:
    if facts.expires_at is None or facts.expires_at > facts.now:
        return None
    return Verdict.EXPIRED, "its time is over"


def _uncertain(facts: Facts) -> Found:
    if facts.reason != Reason.UNCERTAIN or not facts.in_doubt or facts.verify:
        return None
    return Verdict.UNCERTAIN, (
        f"{_in_doubt(facts.in_doubt)}; find out and say so with `failbetter failed confirm`"
    )


def _duplicate(facts: Facts) -> Found:
    if facts.twin:
        return Verdict.DUPLICATE, KEY_IS_TAKEN
    if facts.newer_twin:
        return Verdict.DUPLICATE, "a newer job that was selected as well has its unique key"
    return None


def _needs_confirmation(facts: Facts) -> Found:
    why = None
    if facts.replay == "never":
        why = NEVER_AGAIN
    elif facts.done:
        why = f"{facts.done} of {facts.done + facts.in_doubt} effects done"
    elif facts.in_doubt and not facts.verify:
        why = _in_doubt(facts.in_doubt)
    elif facts.replay == "confirm":
        why = "its task asks for it"
    return None if why is None else (Verdict.NEEDS_CONFIRMATION, why)


def against_editing(replay: Replay, done: int, in_doubt: int, *, confirmed: bool) -> str | None:
    """What there is against running a job again with other arguments, in a few words.

    The new job knows nothing of the effects of the old one, and so no `verify` settles them.
    """
    if replay == "never":
        return NEVER_AGAIN
    if confirmed:
        return None
    why = None
    if done:
        why = f"{done} of {done + in_doubt} effects done"
    elif in_doubt:
        why = _in_doubt(in_doubt)
    elif replay == "confirm":
        why = "its task asks for it"
    if why is None:
        return None
    return f"it needs confirmation ({why}; another job would not know of what it has done)"


def _in_doubt(count: int) -> str:
    return "an effect of it is in doubt" if count == 1 else f"{count} effects of it are in doubt"


CHECKS: tuple[Check, ...] = (
    _not_failed,
    _unknown_task,
    _bad_arguments,
    _missing_record,
    _superseded,
    _expired,
    _uncertain,
    _duplicate,
    _needs_confirmation,
)
"""The first that finds something says what the job is."""


def judge(facts: Facts) -> tuple[Verdict, str | None]:
    """The verdict on a job, and why; None: it is ready."""
    for check in CHECKS:
        found = check(facts)
        if found is not None:
            return found
    return Verdict.READY, None
