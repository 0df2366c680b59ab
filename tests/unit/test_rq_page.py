"""docs/rq.md says of RQ what the engine declares, no more and no less (D1)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from failbetter import RQ

PAGE = (Path(__file__).parents[2] / "docs" / "rq.md").read_text()
_WORDS = {True: "yes", False: "no"}


def test_the_page_has_the_table_of_what_is_declared() -> None:
    declared = msgspec.structs.asdict(RQ.capabilities)
    limits = declared.pop("limits")
    assert limits.keys() <= declared.keys()
    rows = ["| | delivered | but |", "|---|---|---|"]
    for name, value in declared.items():
        delivered = _WORDS.get(value, value)
        limit = limits.get(name, "")
        rows.append(f"| {name.replace('_', ' ')} | {delivered} | {limit}{' ' if limit else ''}|")
    assert "\n".join(rows) in PAGE
