"""The words for where a job is, why, and what ended an attempt; and which moves exist."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is. Only the last three are ends."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DISCARDED = "discarded"


ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.DISCARDED})
LIVE = frozenset({State.PENDING, State.RUNNING})


class Reason(StrEnum):
    """Why a job is in its end state."""

    PARTIAL = "partial"
    ERROR = "error"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CRASHED = "crashed"
    LOST = "lost"
    UNLOADABLE = "unloadable"
    UNCERTAIN = "uncertain"
    BY_TASK = "by_task"
    EXPIRED = "expired"
    MISSING_RECORD = "missing_record"
    GAVE_UP = "gave_up"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    BY_OPERATOR = "by_operator"


class Cause(StrEnum):
    """What ended an attempt."""

    RETURNED = "returned"
    RAISED = "raised"
    RELEASED = "released"
    FAILED_BY_TASK = "failed_by_task"
    DISCARDED_BY_TASK = "discarded_by_task"
    TIMED_OUT = "timed_out"
    STALLED = "stalled"
    CRASHED = "crashed"
    BYSTANDER = "bystander"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    UNLOADABLE = "unloadable"


FAILED_REASONS = frozenset(
    {
        Reason.ERROR,
        Reason.TIMEOUT,
        Reason.STALLED,
        Reason.CRASHED,
        Reason.LOST,
        Reason.UNLOADABLE,
        Reason.UNCERTAIN,
        Reason.PARTIAL,
        Reason.BY_TASK,
        Reason.EXPIRED,
        Reason.MISSING_RECORD,
        Reason.GAVE_UP,
    }
)
DISCARDED_REASONS = frozenset(
    {
        Reason.EXPIRED,
        Reason.SUPERSEDED,
        Reason.MISSING_RECORD,
        Reason.CANCELLED,
        Reason.BY_TASK,
        Reason.BY_OPERATOR,
    }
)
REASONS: dict[State, frozenset[Reason]] = {
    State.PENDING: frozenset(),
    State.RUNNING: frozenset(),
    State.SUCCEEDED: frozenset({Reason.PARTIAL}),
    State.FAILED: FAILED_REASONS,
    State.DISCARDED: DISCARDED_REASONS,
}

# Every move a job can make: (from, to) -> the verbs that make it. The diagram in the docs is
# drawn from this table, and the model-based test allows no other move.
MOVES: dict[tuple[State, State], tuple[str, ...]] = {
    (State.PENDING, State.RUNNING): ("body begins",),
    (State.PENDING, State.PENDING): ("claim", "hand back", "release", "retry later"),
    (State.RUNNING, State.PENDING): ("retry later", "release", "hand back"),
    (State.PENDING, State.SUCCEEDED): ("return",),
    (State.RUNNING, State.SUCCEEDED): ("return",),
    (State.PENDING, State.FAILED): ("fail", "expire", "undo a retry"),
    (State.RUNNING, State.FAILED): ("fail",),
    (State.PENDING, State.DISCARDED): ("discard", "expire", "cancel"),
    (State.RUNNING, State.DISCARDED): ("discard", "cancel"),
    (State.FAILED, State.PENDING): ("retry by a person",),
    (State.DISCARDED, State.FAILED): ("restore",),
    (State.FAILED, State.DISCARDED): ("discard by a person",),
}


def may_move(source: State, target: State) -> bool:
    """Whether a job may go from `source` to `target` at all."""
    return (source, target) in MOVES
