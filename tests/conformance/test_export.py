"""Jobs as JSON lines: all that is kept of each, nothing that is secret, a file only if whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.conformance.kit import NOW, POLICY, Ledger, attempt_of

from failbetter import App, ids
from failbetter.ledger import effects
from failbetter.ledger.endings import Error
from failbetter.lifecycle.states import Cause

TRACE = 'Traceback\n  File "a.py", line 1\nOSError: at http://bob:pw@host/x\n'


def failed(ledger: Ledger, **given: Any) -> int:
    """A job that was retried once, had an effect, and failed for good."""
    number = ledger.add(**given)
    for verdict in ("retry", "fail"):
        (job,) = ledger.claim()
        _, fence, holder = attempt_of(job)
        with ledger.database.write() as tx:
            effects.intend(tx, number, fence, holder, "charge", NOW)
            effects.done(tx, number, fence, holder, "charge", '{"to":"bob"}', NOW)
        said = Error("builtins.OSError", "at http://bob:pw@host/x", TRACE, "1-aa")
        ledger.end(job, Cause.RAISED, verdict=verdict, delay=0.0, error=said)
    return number


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_has_all_that_is_kept_of_a_job(worked: Ledger, app: App, tmp_path: Path) -> None:
    policy = msgspec.structs.replace(POLICY, redact=("token",))
    number = failed(
        worked, policy=policy, payload='{"path":"caf\u00e9","token":"s3cret"}', subject="x"
    )
    path = tmp_path / "failed.jsonl"
    assert app.failed.export(path) == 1
    (line,) = read(path)
    assert line["id"] == ids.to_text(number)
    assert line["args"] == {"path": "caf\u00e9", "token": "***"}
    assert (line["state"], line["reason"], line["attempt"]) == ("failed", "error", 2)
    assert (line["error_type"], line["fingerprint"]) == ("builtins.OSError", "1-aa")
    assert line["subject"] == "x"
    assert line["ended_at"] == "2023-11-14T22:13:20.000Z"
    assert [one["state"] for one in line["attempts"]] == ["pending", "failed"]
    assert all("http://bob:***@host/x" in one["traceback"] for one in line["attempts"])
    assert line["effects"][0]["result"] == {"to": "bob"}
    whole = path.read_text("utf-8")
    assert "s3cret" not in whole
    assert "bob:pw" not in whole


def test_only_what_matches_newest_first(worked: Ledger, app: App, tmp_path: Path) -> None:
    numbers = [failed(worked, task="mail") for _ in range(3)]
    failed(worked)
    path = tmp_path / "mail.jsonl"
    assert app.failed.where(task="mail").export(path) == 3
    assert [line["id"] for line in read(path)] == [ids.to_text(n) for n in reversed(numbers)]
    assert app.failed.where(task="mail").limit(1).export(path, force=True) == 1
    assert [line["id"] for line in read(path)] == [ids.to_text(numbers[-1])]


def test_each_page_has_its_own_attempts(
    worked: Ledger, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failbetter.triage.export._PAGE", 3)
    monkeypatch.setattr("failbetter.triage.export._STORIES", 2)
    for _ in range(5):
        failed(worked)
    sink = io.BytesIO()
    assert app.failed.export(sink) == 5
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    for line in lines:
        assert [one["id"].partition(".")[0] for one in line["attempts"]] == [line["id"]] * 2
        assert len(line["effects"]) == 1


def test_a_file_that_is_there_is_not_replaced(worked: Ledger, app: App, tmp_path: Path) -> None:
    failed(worked)
    path = tmp_path / "failed.jsonl"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        app.failed.export(path)
    assert path.read_text() == "precious"
    assert app.failed.export(path, force=True) == 1
    assert len(read(path)) == 1


def test_what_breaks_leaves_no_half_of_a_file(
    worked: Ledger, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(worked)

    def broken(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("failbetter.triage.export.os.fsync", broken)
    with pytest.raises(OSError, match="no space"):
        app.failed.export(tmp_path / "failed.jsonl")
    assert list(tmp_path.glob("*jsonl*")) == []


def test_nothing_makes_an_empty_file(app: App, tmp_path: Path) -> None:
    assert app.failed.export(tmp_path / "none.jsonl") == 0
    assert read(tmp_path / "none.jsonl") == []
