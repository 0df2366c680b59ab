"""`failed preview`, `restore`, `operations`: what was asked for, what became of it, taken back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.cli_ground import Ground, with_a_past

UNKNOWN = "0000000000005"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """An app whose jobs a worker has run."""
    return with_a_past(tmp_path_factory.mktemp("past"))


@pytest.fixture
def ground(past: Ground, tmp_path: Path) -> Ground:
    """A copy of the ledger to act on."""
    shutil.copytree(past.folder, tmp_path / "copy")
    return Ground(tmp_path / "copy")


def test_preview_then_retry_by_token(ground: Ground) -> None:
    ran = ground.shop("failed", "preview", "--task", "boom")
    assert ran.code == 0
    assert ran.out.splitlines()[:2] == ["JOBS  VERDICT", "   3  ready"]
    found = ground.shop("failed", "preview", "--json").document
    assert (found["total"], found["refused"]) == (6, {})
    assert sum(found["verdicts"].values()) == 6
    token = found["token"]
    assert f"--token {token}" not in ran.out
    dry = ground.shop("failed", "retry", "--token", token, "--dry-run")
    assert (dry.code, dry.out) == (0, "would retry 6 failed jobs\n")
    ground.shop("failed", "discard", "--task", "poison")
    ran = ground.shop("failed", "retry", "--token", token, "--json", "--actor", "ann")
    assert ran.code == 1
    assert ran.document["retried"] + len(ran.document["refused"]) == 6
    assert "not failed but discarded" in ran.document["refused"].values()
    assert ran.document["operations"] == [token]
    again = ground.shop("failed", "retry", "--token", token)
    assert (again.code, again.out) == (1, "")
    assert "acted on already" in again.err


def test_an_operation_is_listed_shown_and_undone(ground: Ground) -> None:
    assert ground.shop("operations").out == "no operations\n"
    ran = ground.shop(
        "failed", "retry", "--task", "boom", "--note", "try", "--actor", "ann", "--json"
    )
    (number,) = ran.document["operations"]
    (listed,) = ground.shop("operations", "--json").document
    assert (listed["id"], listed["verb"], listed["state"]) == (number, "retry", "done")
    assert (listed["actor"], listed["note"], listed["filters"]["task"]) == ("ann", "try", "boom")
    assert number in ground.shop("operations", "list").out
    shown = ground.shop("operations", "show", number)
    assert shown.out.splitlines() == [
        "retry of 3 jobs: done",
        "by ann: try",
        "JOBS  BECAME",
        "   3  waiting",
    ]
    undone = ground.shop("operations", "undo", number, "--json")
    assert undone.document["report"]["undone"] == 3
    assert ground.shop("failed", "list", "--task", "boom", "--json").document["total"] == 3


def test_a_pace_is_begun_and_aborted(ground: Ground) -> None:
    ran = ground.shop(
        "failed", "retry", "--task", "boom", "--rate", "0.5", "--canary", "1", "--json"
    )
    (number,) = ran.document["operations"]
    assert ran.document["retried"] == 0
    shown = ground.shop("operations", "abort", number)
    assert shown.out.splitlines()[0] == "retry of 3 jobs: aborted"
    assert "3  unreleased" in shown.out
    assert ground.shop("operations", "resume", number).code == 1


def test_restore(ground: Ground) -> None:
    boom = ground.ids("--task", "boom")
    ground.shop("failed", "discard", "--task", "boom")
    ran = ground.shop("failed", "restore", boom[0], ground.ids("--task", "good")[0])
    assert (ran.code, ran.out.splitlines()[-1]) == (1, "restored 1 discarded job, 1 refused")
    ran = ground.shop("failed", "restore", "--all")
    assert (ran.code, ran.out) == (0, "restored 2 discarded jobs\n")
    assert ground.shop("failed", "list", "--task", "boom", "--json").document["total"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("failed", "retry", "--token", "x"), 2, "'x' is no"),
        (("failed", "retry", "--token", UNKNOWN), 1, "no preview or operation"),
        (("failed", "retry", "--token", UNKNOWN, "--all"), 2, "--token means"),
        (("failed", "retry", "--all", "--rate", "0"), 2, "no number of jobs a second"),
        (("failed", "retry", "--all", "--canary", "many"), 2, "--canary"),
        (("failed", "restore"), 2, "restore which?"),
        (("operations", "show", UNKNOWN), 1, "no preview or operation"),
        (("operations", "undo", "x"), 2, "'x' is no"),
        (("operations", "abort", UNKNOWN), 1, "no preview or operation"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(
    ground: Ground, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = ground.shop(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ground.shop("failed", "list", "--json").document["total"] == 6
