"""The table in docs/engines.md is what the engines declare, about all that can be declared. D1."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from failbetter.engine import Capabilities

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "capabilities", ROOT / "tools" / "capabilities.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_table_is_current(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0, "run: python tools/capabilities.py"


def test_a_table_that_is_out_of_date_is_noticed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "engines.md"
    page.write_text(f"before\n{tool.BEGIN}old\n{tool.END}after\n")
    monkeypatch.setattr(tool, "PAGE", page)
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")


def test_every_capability_is_in_it(tool: ModuleType) -> None:
    assert {*tool.FEATURES, "limits"} == set(Capabilities.__struct_fields__)


def test_what_an_engine_does_not_deliver_it_explains(tool: ModuleType) -> None:
    for name, found in tool.ENGINES.items():
        missing = {field for field in tool.FEATURES if getattr(found, field) in (False, "none")}
        assert missing <= found.limits.keys(), name
        assert found.limits.keys() <= tool.FEATURES.keys(), name
