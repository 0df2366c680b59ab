"""The tables of states, reasons and moves agree with each other and with the contract."""

from __future__ import annotations

from failbetter.lifecycle.states import (
    DISCARDED_REASONS,
    ENDS,
    FAILED_REASONS,
    LIVE,
    MOVES,
    REASONS,
    Cause,
    Reason,
    State,
    may_move,
)


def test_a_state_is_live_or_an_end() -> None:
    assert set(State) == LIVE | ENDS
    assert not LIVE & ENDS


def test_words_are_the_contracts() -> None:
    assert {str(state) for state in State} == {
        "pending",
        "running",
        "succeeded",
        "failed",
        "discarded",
    }
    assert {str(reason) for reason in FAILED_REASONS} == {
        "error",
        "timeout",
        "stalled",
        "crashed",
        "lost",
        "unloadable",
        "uncertain",
        "partial",
        "by_task",
        "expired",
        "missing_record",
        "gave_up",
    }
    assert {str(reason) for reason in DISCARDED_REASONS} == {
        "expired",
        "superseded",
        "missing_record",
        "cancelled",
        "by_task",
        "by_operator",
    }
    assert {str(cause) for cause in Cause} == {
        "returned",
        "raised",
        "released",
        "failed_by_task",
        "discarded_by_task",
        "timed_out",
        "stalled",
        "crashed",
        "bystander",
        "lost",
        "interrupted",
        "cancelled",
        "refused",
        "unloadable",
    }


def test_every_reason_belongs_to_a_state() -> None:
    assert set().union(*REASONS.values()) == set(Reason)
    assert set(REASONS) == set(State)


def test_only_a_claim_leads_into_running() -> None:
    assert [source for source, target in MOVES if target is State.RUNNING] == [State.PENDING]


def test_success_is_for_good() -> None:
    assert not [target for source, target in MOVES if source is State.SUCCEEDED]


def test_every_live_state_reaches_every_end() -> None:
    for source in LIVE:
        for target in ENDS:
            assert may_move(source, target)


def test_an_end_is_left_by_a_person_only() -> None:
    assert {
        (source, target): verbs for (source, target), verbs in MOVES.items() if source in ENDS
    } == {
        (State.FAILED, State.PENDING): ("retry by a person",),
        (State.DISCARDED, State.FAILED): ("restore",),
        (State.FAILED, State.DISCARDED): ("discard by a person",),
    }


def test_words_fit_their_columns() -> None:
    assert max(len(state) for state in State) <= 12
    assert max(len(reason) for reason in Reason) <= 16
    assert max(len(cause) for cause in Cause) <= 20
