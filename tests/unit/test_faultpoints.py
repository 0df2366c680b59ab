"""Fault points: unset they do nothing; set, the process dies at that passing and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from failbetter import faultpoints

PROGRAM = """
from failbetter.faultpoints import passing
for turn in range(5):
    print(turn, flush=True)
    passing("in_tick")
    passing("in_commit")
"""


def run(fault: str | None) -> tuple[int, list[str]]:
    environment = {**os.environ}
    if fault is not None:
        environment["FAILBETTER_FAULT"] = fault
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("fault", "turns"),
    [
        ("in_tick:1", 1),
        ("in_tick", 1),
        ("in_tick:3", 3),
        ("in_commit:2", 2),
        ("in_tick:4,in_commit:2", 2),
    ],
)
def test_it_kills_at_the_named_passing(fault: str, turns: int) -> None:
    code, seen = run(fault)
    assert code == -signal.SIGKILL
    assert len(seen) == turns


@pytest.mark.parametrize("fault", [None, "", "in_tick:6", "nowhere:1"])
def test_otherwise_nothing_happens(fault: str | None) -> None:
    assert run(fault) == (0, ["0", "1", "2", "3", "4"])


def test_the_points_that_the_fault_tests_know() -> None:
    assert {
        "after_claim",
        "before_own_commit",
        "after_own_commit",
        "before_body",
        "in_body",
        "after_body",
        "in_commit",
        "after_commit",
        "in_hand_back",
        "in_tick",
        "before_delivered",
        "after_recover_lock",
        "after_removal",
        "in_recovery",
        "before_recorded",
        "before_pruning",
        "in_pruning",
        "in_operation",
        "in_edit",
        "before_send",
        "after_send",
    } == faultpoints.POINTS
