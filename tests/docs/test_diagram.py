"""docs/states.md is what the code says now, and says something about all of it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from failbetter.lifecycle.states import MOVES, REASONS, Cause, Reason, State

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "state_diagram", ROOT / "tools" / "state_diagram.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_current(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0, "run: python tools/state_diagram.py"


def test_a_page_that_is_out_of_date_is_noticed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "PAGE", tmp_path / "states.md")
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    (tmp_path / "states.md").write_text("old")
    assert tool.main(["--check"]) == 1


def test_every_word_is_explained(tool: ModuleType) -> None:
    assert set(tool.STATES) == set(State)
    assert set(tool.REASON_TEXTS) == set(Reason)
    assert set(tool.CAUSES) == set(Cause)


def test_every_move_is_drawn(tool: ModuleType) -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+): ", tool.diagram(), re.MULTILINE))
    assert drawn == {(str(source), str(target)) for source, target in MOVES}


def test_no_cause_leads_to_what_does_not_exist(tool: ModuleType) -> None:
    for cause in Cause:
        ends = tool.ends_of(cause)
        assert ends
        for state, reason in ends:
            assert reason is None or reason in REASONS[state]
