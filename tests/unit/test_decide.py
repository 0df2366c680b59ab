"""`decide`: every cause against every budget, case by case, and the promises for all cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter.lifecycle.backoff import Backoff, fixed, linear
from failbetter.lifecycle.decide import (
    MAX_HAND_BACKS,
    NEWER_CODE_WITHIN,
    Facts,
    Outcome,
    Transition,
    Verdict,
    decide,
)
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import REASONS, Cause, Reason, State, may_move

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND

PENDING, SUCCEEDED, FAILED, DISCARDED = (
    State.PENDING,
    State.SUCCEEDED,
    State.FAILED,
    State.DISCARDED,
)


class Fixed:
    """A source of chance that always draws the same number, and counts the draws."""

    def __init__(self, number: float = 0.5) -> None:
        self.number = number
        self.draws = 0

    def random(self) -> float:
        self.draws += 1
        return self.number


def make_facts(given: dict[str, Any]) -> Facts:
    """Facts from one flat dict: what is no fact belongs to the policy."""
    own = {name: value for name, value in given.items() if name in Facts.__struct_fields__}
    policy = {name: value for name, value in given.items() if name not in own}
    policy.setdefault("backoff", fixed(10, jitter=False))
    return Facts(Policy(**policy), **own)


# (what it shows, facts and policy, outcome, what the row becomes)
Case = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]


def to(state: State, reason: Reason | None = None, **more: Any) -> dict[str, Any]:
    """The expected transition; counters by how much they change: by nothing when not named."""
    return {"state": state, "reason": reason, **more}


RETURNED: list[Case] = [
    ("first success", {}, {}, to(SUCCEEDED)),
    (
        "a later success keeps what was counted",
        {"starts": 2, "attempts": 2, "losses": 1, "crashes": 1, "hand_backs": 3},
        {},
        to(SUCCEEDED),
    ),
    (
        "a suspect that returns gets its crash back",
        {"starts": 1, "crashes": 1, "suspect": True},
        {},
        to(SUCCEEDED, crashes=-1, suspect=False),
    ),
    (
        "a success after expiry is a success: only waiting expires",
        {"expires_at": NOW - HOUR},
        {},
        to(SUCCEEDED),
    ),
]
RAISED: list[Case] = [
    ("charged, and again after the backoff", {}, {}, to(PENDING, attempts=1, wait=10)),
    (
        "the backoff is asked about the attempt that is charged now",
        {"attempts": 2, "starts": 2, "backoff": linear(7, jitter=False)},
        {},
        to(PENDING, attempts=1, wait=21),
    ),
    ("the last attempt", {"attempts": 4, "starts": 4}, {}, to(FAILED, Reason.ERROR, attempts=1)),
    ("one attempt is all", {"max_attempts": 1}, {}, to(FAILED, Reason.ERROR, attempts=1)),
    (
        "starts do not count: hand-backs and releases made them",
        {"attempts": 0, "starts": 50, "losses": 3, "crashes": 2, "hand_backs": 40},
        {},
        to(PENDING, attempts=1, wait=10),
    ),
    ("fail_on", {}, {"verdict": "fail"}, to(FAILED, Reason.ERROR, attempts=1)),
    ("discard_on", {}, {"verdict": "discard"}, to(DISCARDED, Reason.BY_TASK)),
    ("the body's own delay", {}, {"delay": 3.5}, to(PENDING, attempts=1, wait=3.5)),
    ("no delay at all", {}, {"delay": 0.0}, to(PENDING, attempts=1, wait=0)),
    (
        "Retry-After is a lower bound: the longer wait wins",
        {},
        {"delay": 60.0, "at_least": True},
        to(PENDING, attempts=1, wait=60),
    ),
    (
        "Retry-After shorter than the backoff does not shorten it",
        {},
        {"delay": 2.0, "at_least": True},
        to(PENDING, attempts=1, wait=10),
    ),
    (
        "the next run would come too late: failed(expired), with its error, not one run more",
        {"expires_at": NOW + 10 * SECOND},
        {},
        to(FAILED, Reason.EXPIRED, attempts=1),
    ),
    (
        "the next run comes just in time",
        {"expires_at": NOW + 10 * SECOND + 1},
        {},
        to(PENDING, attempts=1, wait=10),
    ),
    (
        "budget and expiry at once: the error is the real reason",
        {"max_attempts": 1, "expires_at": NOW},
        {},
        to(FAILED, Reason.ERROR, attempts=1),
    ),
    (
        "a suspect that raises did not kill its child: refunded",
        {"suspect": True, "crashes": 1, "starts": 1},
        {},
        to(PENDING, attempts=1, crashes=-1, suspect=False, wait=10),
    ),
    (
        "a retry ends a row of releases",
        {"released_since": NOW - HOUR, "starts": 3},
        {},
        to(PENDING, attempts=1, released_since=None, wait=10),
    ),
]
SAID: list[Case] = [
    (
        "Release spends nothing",
        {"attempts": 4, "starts": 4},
        {"cause": Cause.RELEASED, "delay": 30.0},
        to(PENDING, wait=30, released_since=NOW),
    ),
    (
        "further releases count from the first",
        {"released_since": NOW - HOUR, "starts": 1},
        {"cause": Cause.RELEASED, "delay": 30.0},
        to(PENDING, wait=30, released_since=NOW - HOUR),
    ),
    (
        "the release budget: the wait would end after release_within",
        {"released_since": NOW - HOUR, "release_within": 3600.0, "starts": 1},
        {"cause": Cause.RELEASED, "delay": 0.001},
        to(FAILED, Reason.GAVE_UP),
    ),
    (
        "the release budget: just within",
        {"released_since": NOW - HOUR, "release_within": 3600.0, "starts": 1},
        {"cause": Cause.RELEASED, "delay": 0.0},
        to(PENDING, wait=0, released_since=NOW - HOUR),
    ),
    (
        "one release that is longer than the whole budget",
        {"release_within": 60.0},
        {"cause": Cause.RELEASED, "delay": 61.0},
        to(FAILED, Reason.GAVE_UP),
    ),
    (
        "released beyond expiry",
        {"expires_at": NOW + 30 * SECOND},
        {"cause": Cause.RELEASED, "delay": 30.0},
        to(FAILED, Reason.EXPIRED),
    ),
    (
        "a suspect that releases is refunded",
        {"suspect": True, "crashes": 2, "starts": 2},
        {"cause": Cause.RELEASED, "delay": 1.0},
        to(PENDING, wait=1, released_since=NOW, crashes=-1, suspect=False),
    ),
    ("Fail", {}, {"cause": Cause.FAILED_BY_TASK}, to(FAILED, Reason.BY_TASK, attempts=1)),
    ("Discard", {}, {"cause": Cause.DISCARDED_BY_TASK}, to(DISCARDED, Reason.BY_TASK)),
    ("cancelled in its body", {}, {"cause": Cause.CANCELLED}, to(DISCARDED, Reason.CANCELLED)),
]
TIMED: list[Case] = [
    ("timed out", {}, {"cause": Cause.TIMED_OUT}, to(PENDING, attempts=1, wait=10)),
    (
        "timed out at the last attempt",
        {"attempts": 4, "starts": 4},
        {"cause": Cause.TIMED_OUT},
        to(FAILED, Reason.TIMEOUT, attempts=1),
    ),
    (
        "timed out, on_lost=fail",
        {"on_lost": "fail"},
        {"cause": Cause.TIMED_OUT},
        to(FAILED, Reason.TIMEOUT, attempts=1),
    ),
    (
        "a kill for a timeout is no crash: the crash budget is not even looked at",
        {"crashes": 2, "starts": 2, "max_crashes": 3},
        {"cause": Cause.TIMED_OUT},
        to(PENDING, attempts=1, wait=10),
    ),
    (
        "a suspect that timed out did not kill its child",
        {"suspect": True, "crashes": 1, "starts": 1},
        {"cause": Cause.TIMED_OUT},
        to(PENDING, attempts=1, crashes=-1, suspect=False, wait=10),
    ),
    ("stalled", {}, {"cause": Cause.STALLED}, to(PENDING, attempts=1, wait=10)),
    (
        "stalled at the last attempt",
        {"max_attempts": 1},
        {"cause": Cause.STALLED},
        to(FAILED, Reason.STALLED, attempts=1),
    ),
    (
        "stalled, on_lost=fail",
        {"on_lost": "fail"},
        {"cause": Cause.STALLED},
        to(FAILED, Reason.STALLED, attempts=1),
    ),
]
DIED: list[Case] = [
    ("crashed alone: charged, again at once", {}, {"cause": Cause.CRASHED}, to(PENDING, crashes=1)),
    (
        "the crash budget",
        {"crashes": 2, "starts": 2},
        {"cause": Cause.CRASHED},
        to(FAILED, Reason.CRASHED, crashes=1),
    ),
    (
        "max_crashes=1",
        {"max_crashes": 1},
        {"cause": Cause.CRASHED},
        to(FAILED, Reason.CRASHED, crashes=1),
    ),
    (
        "crashed, on_lost=fail",
        {"on_lost": "fail"},
        {"cause": Cause.CRASHED},
        to(FAILED, Reason.CRASHED, crashes=1),
    ),
    (
        "crashes spend no attempts",
        {"attempts": 4, "starts": 4},
        {"cause": Cause.CRASHED},
        to(PENDING, crashes=1),
    ),
    (
        "a shared death makes a suspect",
        {},
        {"cause": Cause.CRASHED, "alone": False},
        to(PENDING, crashes=1, suspect=True),
    ),
    (
        "nobody is ended by a shared death, whatever is left",
        {"crashes": 2, "starts": 2},
        {"cause": Cause.CRASHED, "alone": False},
        to(PENDING, crashes=1, suspect=True),
    ),
    (
        "a suspect is charged for one shared death only",
        {"crashes": 1, "starts": 1, "suspect": True},
        {"cause": Cause.CRASHED, "alone": False},
        to(PENDING, suspect=True),
    ),
    (
        "a suspect that kills its child alone is convicted",
        {"crashes": 1, "starts": 1, "suspect": True},
        {"cause": Cause.CRASHED},
        to(PENDING, crashes=1, suspect=False),
    ),
    (
        "a suspect convicted at the end of its budget",
        {"crashes": 2, "starts": 2, "suspect": True},
        {"cause": Cause.CRASHED},
        to(FAILED, Reason.CRASHED, crashes=1, suspect=False),
    ),
    (
        "died before its body began: not charged",
        {"crashes": 2, "starts": 2},
        {"cause": Cause.CRASHED, "begun": False},
        to(PENDING),
    ),
    ("worker lost", {}, {"cause": Cause.LOST}, to(PENDING, losses=1)),
    (
        "worker lost before the body began: never charged",
        {"losses": 9, "starts": 9},
        {"cause": Cause.LOST, "begun": False},
        to(PENDING),
    ),
    (
        "the loss budget",
        {"losses": 9, "starts": 9},
        {"cause": Cause.LOST},
        to(FAILED, Reason.LOST, losses=1),
    ),
    (
        "losing a worker charges no crash",
        {"crashes": 2, "starts": 2},
        {"cause": Cause.LOST},
        to(PENDING, losses=1),
    ),
    (
        "lost, on_lost=fail",
        {"on_lost": "fail"},
        {"cause": Cause.LOST},
        to(FAILED, Reason.LOST, losses=1),
    ),
    (
        "lost before it began, on_lost=fail: nothing happened yet",
        {"on_lost": "fail"},
        {"cause": Cause.LOST, "begun": False},
        to(PENDING),
    ),
    (
        "a suspect stays one when its worker is lost",
        {"crashes": 1, "starts": 1, "suspect": True},
        {"cause": Cause.LOST},
        to(PENDING, losses=1, suspect=True),
    ),
]
INNOCENT: list[Case] = [
    *(
        case
        for cause in (Cause.BYSTANDER, Cause.INTERRUPTED)
        for case in (
            (f"{cause}: handed back", {}, {"cause": cause}, to(PENDING, hand_backs=1)),
            (
                f"{cause}: not begun",
                {"hand_backs": MAX_HAND_BACKS - 1, "starts": MAX_HAND_BACKS - 1},
                {"cause": cause, "begun": False},
                to(PENDING),
            ),
            (
                f"{cause}: hand-backs come to an end too",
                {"hand_backs": MAX_HAND_BACKS - 1, "starts": MAX_HAND_BACKS - 1},
                {"cause": cause},
                to(FAILED, Reason.GAVE_UP),
            ),
            (
                f"{cause}, on_lost=fail",
                {"on_lost": "fail"},
                {"cause": cause},
                to(FAILED, Reason.LOST),
            ),
            (
                f"{cause}: charges neither attempt nor crash",
                {"attempts": 4, "crashes": 2, "losses": 9, "starts": 15},
                {"cause": cause},
                to(PENDING, hand_backs=1),
            ),
            (
                f"{cause}: the release budget runs on",
                {"released_since": NOW - HOUR, "starts": 1},
                {"cause": cause},
                to(PENDING, hand_backs=1, released_since=NOW - HOUR),
            ),
        )
    ),
]
WAITED: list[Case] = [
    (
        "expired untried",
        {"expires_at": NOW - 1},
        {"cause": Cause.REFUSED, "begun": False},
        to(DISCARDED, Reason.EXPIRED),
    ),
    (
        "expired after a try: a failure, with its error",
        {"expires_at": NOW - 1, "starts": 1, "attempts": 1},
        {"cause": Cause.REFUSED, "begun": False},
        to(FAILED, Reason.EXPIRED),
    ),
    *(
        (
            f"superseded, having been tried {starts} times: nothing is charged",
            {"starts": starts, "attempts": starts},
            {"cause": Cause.REFUSED, "verdict": "discard", "begun": False},
            to(DISCARDED, Reason.SUPERSEDED),
        )
        for starts in (0, 1)
    ),
    *(
        (
            f"a record is missing, and its task says {verdict}: nothing is charged",
            {"attempts": 2, "starts": 2},
            {"cause": Cause.REFUSED, "verdict": verdict, "missing": True},
            to(end, Reason.MISSING_RECORD),
        )
        for verdict, end in (("fail", FAILED), ("discard", DISCARDED))
    ),
    (
        "unloadable: kept in the failed list",
        {},
        {"cause": Cause.UNLOADABLE, "verdict": "fail", "begun": False},
        to(FAILED, Reason.UNLOADABLE),
    ),
    (
        "unloadable here, known elsewhere: left to the other worker",
        {},
        {"cause": Cause.UNLOADABLE, "verdict": "retry", "delay": 1.0, "begun": False},
        to(PENDING, wait=1),
    ),
]
DOUBT: list[Case] = [
    (
        f"an effect in doubt: {cause}",
        {"max_attempts": 50},
        {"cause": cause, "uncertain": True},
        to(FAILED, Reason.UNCERTAIN, **charged),
    )
    for cause, charged in {
        Cause.RETURNED: {},
        Cause.RELEASED: {},
        Cause.FAILED_BY_TASK: {},
        Cause.RAISED: {"attempts": 1},
        Cause.TIMED_OUT: {"attempts": 1},
        Cause.STALLED: {"attempts": 1},
        Cause.CRASHED: {"crashes": 1},
        Cause.LOST: {"losses": 1},
        Cause.INTERRUPTED: {},
        Cause.BYSTANDER: {},
        Cause.CANCELLED: {},
        Cause.DISCARDED_BY_TASK: {},
    }.items()
] + [
    (
        "a shared death ends no one, except by doubt",
        {},
        {"cause": Cause.CRASHED, "alone": False, "uncertain": True},
        to(FAILED, Reason.UNCERTAIN, crashes=1),
    ),
]
VERIFIED: list[Case] = [
    (
        f"{cause}, in doubt, and the task can tell: {name}",
        {"verify": True, "max_attempts": 2, "max_crashes": 2, "max_losses": 2, **given},
        {"cause": cause, "uncertain": True, **ended},
        expected,
    )
    for cause, name, given, ended, expected in [
        (Cause.RETURNED, "runs again", {}, {}, to(PENDING, attempts=1, wait=10)),
        (
            Cause.RETURNED,
            "too often",
            {"attempts": 1},
            {},
            to(FAILED, Reason.UNCERTAIN),
        ),
        (Cause.RAISED, "runs again", {}, {}, to(PENDING, attempts=1, wait=10)),
        (
            Cause.RAISED,
            "the last attempt",
            {"attempts": 1},
            {},
            to(FAILED, Reason.UNCERTAIN, attempts=1),
        ),
        (Cause.CRASHED, "runs again", {}, {}, to(PENDING, crashes=1)),
        (
            Cause.CRASHED,
            "the last crash",
            {"crashes": 1},
            {},
            to(FAILED, Reason.UNCERTAIN, crashes=1),
        ),
        (Cause.LOST, "runs again", {}, {}, to(PENDING, losses=1)),
        (
            Cause.LOST,
            "on_lost=fail",
            {"on_lost": "fail"},
            {},
            to(FAILED, Reason.UNCERTAIN, losses=1),
        ),
        (Cause.CANCELLED, "no end in doubt", {}, {}, to(FAILED, Reason.UNCERTAIN)),
        (Cause.DISCARDED_BY_TASK, "no end in doubt", {}, {}, to(FAILED, Reason.UNCERTAIN)),
    ]
]
ITEMS: list[Case] = [
    (
        f"returned, {items} of the items succeeded, on_partial={on_partial}",
        {"on_partial": on_partial},
        {"cause": Cause.RETURNED, "items": items},
        expected,
    )
    for items, on_partial, expected in [
        ("all", "fail", to(SUCCEEDED)),
        ("all", "succeed", to(SUCCEEDED)),
        ("some", "fail", to(FAILED, Reason.PARTIAL)),
        ("some", "succeed", to(SUCCEEDED, Reason.PARTIAL)),
        ("none", "fail", to(FAILED, Reason.PARTIAL)),
        ("none", "succeed", to(FAILED, Reason.PARTIAL)),
    ]
] + [
    (
        "partial success of a suspect that ran alone",
        {"on_partial": "succeed", "suspect": True, "crashes": 1, "starts": 1},
        {"cause": Cause.RETURNED, "items": "some"},
        to(SUCCEEDED, Reason.PARTIAL, crashes=-1, suspect=False),
    ),
]
LATE: list[Case] = [
    (
        f"lost, silent for {silent} s, recover_within={within}{', not begun' * (not begun)}",
        {"recover_within": within},
        {"cause": Cause.LOST, "silent": silent, "begun": begun},
        expected,
    )
    for silent, within, begun, expected in [
        (59.0, 60.0, True, to(PENDING, losses=1)),
        (61.0, 60.0, True, to(FAILED, Reason.LOST, losses=1)),
        (61.0, 60.0, False, to(PENDING)),
        (1e9, None, True, to(PENDING, losses=1)),
    ]
]
OUTDATED: list[Case] = [
    (
        "C4: failed on code that is not on disk any more: not charged, and soon again",
        {"attempts": 4, "starts": 4},
        {"outdated": True},
        to(PENDING, hand_backs=1, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: final by its type, on old code: the new code is to say so",
        {},
        {"verdict": "fail", "outdated": True},
        to(PENDING, hand_backs=1, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: discarded by its type, on old code",
        {},
        {"verdict": "discard", "outdated": True},
        to(PENDING, hand_backs=1, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: of a known outage as well: that holds it",
        {},
        {"outdated": True, "held_back": True},
        to(PENDING),
    ),
    (
        "C4: a suspect that raised on old code did not kill its child",
        {"suspect": True, "crashes": 1, "starts": 1},
        {"outdated": True},
        to(PENDING, hand_backs=1, crashes=-1, suspect=False, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: on_lost=fail runs no body once more than its retries allow",
        {"on_lost": "fail", "max_attempts": 1},
        {"outdated": True},
        to(FAILED, Reason.ERROR, attempts=1),
    ),
    (
        "C4: its time would be over by then",
        {"expires_at": NOW + round(NEWER_CODE_WITHIN * SECOND), "max_attempts": 1},
        {"outdated": True},
        to(FAILED, Reason.ERROR, attempts=1),
    ),
    (
        "C4: handed back for too many reasons already",
        {"hand_backs": MAX_HAND_BACKS - 1, "max_attempts": 1},
        {"outdated": True},
        to(FAILED, Reason.ERROR, attempts=1),
    ),
    (
        "C4: a task that is in the new code only",
        {"on_lost": "fail"},
        {"cause": Cause.UNLOADABLE, "verdict": "fail", "begun": False, "outdated": True},
        to(PENDING, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: arguments that the new code can take",
        {},
        {"cause": Cause.UNLOADABLE, "verdict": "fail", "outdated": True},
        to(PENDING, hand_backs=1, wait=NEWER_CODE_WITHIN),
    ),
    (
        "C4: what a body says on purpose is so on old code, too",
        {},
        {"cause": Cause.FAILED_BY_TASK, "outdated": True},
        to(FAILED, Reason.BY_TASK, attempts=1),
    ),
]
CASES = [
    *RETURNED,
    *RAISED,
    *SAID,
    *TIMED,
    *DIED,
    *INNOCENT,
    *WAITED,
    *DOUBT,
    *VERIFIED,
    *ITEMS,
    *LATE,
    *OUTDATED,
]


def judge(case: Case, rng: Fixed | None = None) -> tuple[Facts, Outcome, Transition]:
    _, given, ended, _ = case
    facts = make_facts(given)
    outcome = Outcome(**{"cause": Cause.RETURNED if case in RETURNED else Cause.RAISED, **ended})
    return facts, outcome, decide(facts, outcome, NOW, rng or Fixed())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_case(case: Case) -> None:
    facts, _, found = judge(case)
    expected = dict(case[3])
    run_at = None
    if expected["state"] is PENDING:
        run_at = NOW + round(expected.pop("wait", 0) * SECOND)
    assert (found.state, found.reason, found.run_at) == (
        expected.pop("state"),
        expected.pop("reason"),
        run_at,
    )
    for name in ("attempts", "crashes", "losses", "hand_backs"):
        change = getattr(found, name) - getattr(facts, name)
        assert change == expected.pop(name, 0), name
    assert found.suspect is expected.pop("suspect", facts.suspect and found.state is PENDING)
    if "released_since" in expected:
        assert found.released_since == expected.pop("released_since")
    assert not expected


def test_the_table_knows_every_cause() -> None:
    assert {judge(case)[1].cause for case in CASES} == set(Cause)


def test_every_reason_is_reached() -> None:
    found = {(end.state, end.reason) for end in (judge(case)[2] for case in CASES)}
    decided = {
        (state, reason)
        for state, reasons in REASONS.items()
        for reason in reasons
        if reason not in ELSEWHERE.get(state, set())
    }
    assert {pair for pair in found if pair[1] is not None} == decided


# Reasons that other code than `decide` gives.
ELSEWHERE = {DISCARDED: {Reason.BY_OPERATOR}}


# -- for all facts and outcomes

counts = st.integers(0, 12)
times = st.none() | st.integers(NOW - 48 * HOUR, NOW + 48 * HOUR)
backoffs = st.builds(
    Backoff,
    kind=st.sampled_from(["fixed", "linear", "exponential", "list"]),
    delays=st.lists(st.floats(0, 1e6), min_size=1, max_size=4).map(tuple),
    cap=st.none() | st.floats(0, 1e5),
    jitter=st.booleans(),
)
policies = st.builds(
    Policy,
    max_attempts=st.integers(1, 8),
    backoff=backoffs,
    release_within=st.floats(0, 2e5),
    max_crashes=st.integers(1, 5),
    max_losses=st.integers(1, 11),
    on_lost=st.sampled_from(["retry", "fail"]),
    on_partial=st.sampled_from(["fail", "succeed"]),
    recover_within=st.none() | st.floats(0, 1e5),
    verify=st.booleans(),
)


@st.composite
def some_facts(draw: st.DrawFn) -> Facts:
    attempts, crashes, losses, hand_backs = (draw(counts) for _ in range(4))
    begun = attempts + crashes + losses + hand_backs
    return Facts(
        draw(policies),
        attempts,
        crashes,
        losses,
        hand_backs,
        crashes > 0 and draw(st.booleans()),
        draw(st.none() | st.integers(NOW - 48 * HOUR, NOW)) if begun else None,
        draw(times),
        begun + draw(st.integers(0, 5)),
    )


BEFORE_BODY = {
    Cause.CRASHED,
    Cause.BYSTANDER,
    Cause.LOST,
    Cause.INTERRUPTED,
    Cause.CANCELLED,
    Cause.REFUSED,
    Cause.UNLOADABLE,
}
NO_OUTCOME = {
    Cause.LOST,
    Cause.CRASHED,
    Cause.STALLED,
    Cause.TIMED_OUT,
    Cause.INTERRUPTED,
    Cause.BYSTANDER,
}


@st.composite
def some_outcome(draw: st.DrawFn) -> Outcome:
    cause = draw(st.sampled_from(list(Cause)))
    begun = cause is not Cause.REFUSED
    if cause in BEFORE_BODY and begun:
        begun = draw(st.booleans())
    return Outcome(
        cause,
        draw(st.sampled_from(["retry", "fail", "discard"])),
        draw(st.none() | st.floats(0, 1e6)),
        draw(st.booleans()),
        draw(st.booleans()),
        begun,
        begun and draw(st.booleans()),
        draw(st.sampled_from(["all", "some", "none"])),
        held_back=draw(st.booleans()),
        missing=cause is Cause.REFUSED and draw(st.booleans()),
        outdated=draw(st.booleans()),
        silent=draw(st.floats(0, 1e6)),
    )


@given(some_facts(), some_outcome(), st.floats(0, 1, exclude_max=True))
def test_a_transition_is_one_that_may_be(facts: Facts, outcome: Outcome, chance: float) -> None:
    found = decide(facts, outcome, NOW, Fixed(chance))
    assert may_move(State.RUNNING if outcome.begun else State.PENDING, found.state)
    if found.reason is None:
        assert found.state in (PENDING, SUCCEEDED)
    else:
        assert found.reason in REASONS[found.state]
    assert (found.run_at is not None) == (found.state is PENDING)
    assert found.run_at is None or found.run_at >= NOW


@given(some_facts(), some_outcome(), st.floats(0, 1, exclude_max=True))
def test_the_first_budget_reached_ends_the_job(
    facts: Facts, outcome: Outcome, chance: float
) -> None:
    found = decide(facts, outcome, NOW, Fixed(chance))
    if found.state is not PENDING:
        return
    policy = facts.policy
    if found.attempts > facts.attempts:
        assert found.attempts < policy.max_attempts
    if found.losses > facts.losses:
        assert found.losses < policy.max_losses
    if found.hand_backs > facts.hand_backs:
        assert found.hand_backs < MAX_HAND_BACKS
    if found.crashes > facts.crashes and outcome.alone:
        assert found.crashes < policy.max_crashes
    if outcome.cause is Cause.RELEASED:
        assert found.run_at is not None
        assert found.released_since is not None
        assert found.run_at - found.released_since <= policy.release_within * SECOND + 1
    if found.attempts > facts.attempts and facts.expires_at is not None:
        assert found.run_at is not None
        assert found.run_at < facts.expires_at


@given(some_facts(), some_outcome())
def test_at_most_one_budget_is_charged_and_only_for_a_body(facts: Facts, outcome: Outcome) -> None:
    found = decide(facts, outcome, NOW, Fixed())
    if found.state is SUCCEEDED and not facts.tried:
        return  # nothing was counted before, nothing is now
    charges = [
        found.attempts - facts.attempts,
        found.crashes - facts.crashes,
        found.losses - facts.losses,
        found.hand_backs - facts.hand_backs,
    ]
    if not outcome.begun:
        assert charges == [0, 0, 0, 0]
    assert all(charge in (0, 1) for charge in (charges[0], *charges[2:]))
    assert sum(charge > 0 for charge in charges) <= 1
    # A refund only ever gives a suspect its crash back, and ends the suspicion.
    if charges[1] < 0:
        assert charges[1] == -1
        assert facts.suspect
        assert not found.suspect


@given(some_facts(), some_outcome())
def test_doubt_is_never_guessed(facts: Facts, outcome: Outcome) -> None:
    found = decide(facts, outcome, NOW, Fixed())
    if outcome.uncertain:
        assert found.state is PENDING or found.reason is Reason.UNCERTAIN
        assert found.state is FAILED or facts.policy.verify


@given(some_facts(), some_outcome())
def test_items_that_failed_are_never_a_plain_success(facts: Facts, outcome: Outcome) -> None:
    if outcome.items != "all":
        found = decide(facts, outcome, NOW, Fixed())
        assert found.state is not SUCCEEDED or found.reason is Reason.PARTIAL


@given(some_facts(), some_outcome())
def test_on_lost_fail_never_runs_a_body_twice_whose_outcome_is_unknown(
    facts: Facts, outcome: Outcome
) -> None:
    if facts.policy.on_lost == "fail" and outcome.begun and outcome.cause in NO_OUTCOME:
        assert decide(facts, outcome, NOW, Fixed()).state is FAILED


@given(some_facts(), some_outcome())
def test_gave_up_is_for_releases_and_hand_backs_only(facts: Facts, outcome: Outcome) -> None:
    if decide(facts, outcome, NOW, Fixed()).reason is Reason.GAVE_UP:
        assert outcome.cause in (Cause.RELEASED, Cause.BYSTANDER, Cause.INTERRUPTED)


@given(some_facts(), some_outcome())
def test_deciding_twice_gives_the_same(facts: Facts, outcome: Outcome) -> None:
    assert decide(facts, outcome, NOW, Fixed()) == decide(facts, outcome, NOW, Fixed())


def after(facts: Facts, found: Transition) -> Facts:
    """The row's facts after a transition back to pending, as the ledger would hold them."""
    return Facts(
        facts.policy,
        found.attempts,
        found.crashes,
        found.losses,
        found.hand_backs,
        found.suspect,
        found.released_since,
        facts.expires_at,
        facts.starts + 1,
    )


@given(st.integers(1, 6), st.lists(st.booleans(), min_size=40, max_size=40))
def test_poison_runs_at_most_max_crashes_times_and_once_more_alone(
    max_crashes: int, company: list[bool]
) -> None:
    facts = make_facts({"max_crashes": max_crashes})
    for run, shared in enumerate(company, start=1):
        # A suspect runs alone: whatever company there is waits.
        alone = facts.suspect or not shared
        found = decide(facts, Outcome(Cause.CRASHED, alone=alone), NOW, Fixed())
        if found.state is FAILED:
            assert found.reason is Reason.CRASHED
            assert max_crashes <= run <= max_crashes + 1
            return
        facts = after(facts, found)
    pytest.fail("it runs for ever")


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_neighbour_of_poison_is_never_ended_by_it(returns_between: list[bool]) -> None:
    facts = make_facts({"max_crashes": 1, "release_within": 1e9})
    for released in returns_between:
        shared = Outcome(Cause.CRASHED, alone=False)
        found = decide(facts, shared, NOW, Fixed())
        assert found.state is PENDING
        facts = after(facts, found)
        # Its run alone does not kill the child: by a release, or by a hand-back after it.
        alone = Outcome(Cause.RELEASED, delay=0.0) if released else Outcome(Cause.INTERRUPTED)
        found = decide(facts, alone, NOW, Fixed())
        facts = after(facts, found)
        if released:
            assert facts.crashes == 0
    found = decide(facts, Outcome(Cause.RETURNED), NOW, Fixed())
    assert (found.state, found.crashes) == (SUCCEEDED, 0)


@given(policies, st.sampled_from(["retry", "fail", "discard"]), st.integers(0, 5))
def test_what_fails_of_a_known_outage_is_not_charged(
    policy: Policy, verdict: Verdict, charged: int
) -> None:
    facts = Facts(policy, attempts=charged, crashes=1, suspect=True, starts=charged)
    found = decide(facts, Outcome(Cause.RAISED, verdict, held_back=True), NOW, Fixed())
    assert (found.state, found.run_at, found.attempts) == (PENDING, NOW, charged)
    assert (found.crashes, found.suspect) == (0, False)  # it did not kill its child


tight = st.builds(
    Policy,
    max_attempts=st.integers(1, 3),
    backoff=backoffs,
    release_within=st.floats(0, 5),
    max_crashes=st.integers(1, 2),
    max_losses=st.integers(1, 3),
)


@given(tight, st.lists(some_outcome(), min_size=1, max_size=20), st.randoms())
def test_every_job_reaches_an_end(policy: Policy, script: list[Outcome], rng: Any) -> None:
    """Whatever happens to its bodies, over and over: the budgets together bound the runs."""
    facts = Facts(policy)
    now = NOW
    for run in range(4 * MAX_HAND_BACKS):
        outcome = script[run % len(script)]
        if not outcome.begun or outcome.cause is Cause.UNLOADABLE or outcome.held_back:
            # What waits for another's code, or for the end of an outage, has no end of its own.
            outcome = Outcome(Cause.RAISED)
        found = decide(facts, outcome, now, rng)
        if found.state is not PENDING:
            return
        assert found.run_at is not None
        facts = after(facts, found)
        now = max(now, found.run_at) + SECOND
    pytest.fail("it runs for ever")
