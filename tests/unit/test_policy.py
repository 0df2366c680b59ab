"""A policy as the row keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter.lifecycle.backoff import Backoff, exponential
from failbetter.lifecycle.policy import Policy, from_json

policies = st.builds(
    Policy,
    max_attempts=st.integers(1, 1_000_000),
    backoff=st.builds(
        Backoff,
        kind=st.sampled_from(["fixed", "linear", "exponential", "list"]),
        delays=st.lists(st.floats(0, 1e10), min_size=1, max_size=5).map(tuple),
        cap=st.none() | st.floats(0, 1e10),
        jitter=st.booleans(),
        factor=st.floats(1, 100),
    ),
    timeout=st.none() | st.floats(0, 1e10),
    release_within=st.floats(0, 1e10),
    max_crashes=st.integers(1, 1_000_000),
    max_losses=st.integers(1, 1_000_000),
    on_lost=st.sampled_from(["retry", "fail"]),
    replay=st.sampled_from(["safe", "confirm", "never"]),
    redact=st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


@given(policies)
def test_round_trip(policy: Policy) -> None:
    assert from_json(policy.to_json()) == policy


def test_the_default_is_stored_as_nothing() -> None:
    assert Policy().to_json() == "{}"
    assert from_json("{}") == Policy()


def test_the_defaults_are_the_contracts() -> None:
    policy = Policy()
    assert policy.max_attempts == 5
    assert policy.backoff == exponential(5, cap=3600)
    assert policy.timeout == 3600
    assert policy.release_within == 24 * 3600
    assert policy.max_crashes == 3
    assert policy.max_losses == 10
    assert policy.on_lost == "retry"
    assert policy.replay == "safe"


def test_what_a_later_version_adds_does_not_stop_an_older_worker() -> None:
    assert from_json('{"max_attempts":2,"a_later_option":true}').max_attempts == 2


@pytest.mark.parametrize("bad", ["", "[]", '{"on_lost":"perhaps"}', '{"backoff":["x",[1]]}'])
def test_a_spoilt_policy_stops_no_worker(bad: str) -> None:
    """The job may run once: neither again and again nor never."""
    found = from_json(bad)
    assert (found.max_attempts, found.max_crashes, found.on_lost) == (1, 1, "fail")
