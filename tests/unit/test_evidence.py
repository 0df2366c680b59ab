"""What is known of a death, in data and in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from failbetter.worker import evidence
from failbetter.worker.evidence import OutOfMemory, describe_exit, exit_text, resident_bytes


@pytest.mark.parametrize(
    ("code", "found", "text"),
    [
        (0, {"exit_code": 0}, "exited with code 0"),
        (3, {"exit_code": 3}, "exited with code 3"),
        (-9, {"signal": 9, "signal_name": "SIGKILL"}, "killed by signal 9 (SIGKILL)"),
        (-11, {"signal": 11, "signal_name": "SIGSEGV"}, "killed by signal 11 (SIGSEGV)"),
        (-200, {"signal": 200, "signal_name": "signal 200"}, "killed by signal 200 (signal 200)"),
    ],
)
def test_exit(code: int, found: dict[str, object], text: str) -> None:
    assert describe_exit(code) == found
    assert exit_text(found) == text


def test_out_of_memory_goes_before_the_signal() -> None:
    assert exit_text({"signal": 9, "out_of_memory": True}) == "killed: out of memory"


def test_the_kernels_counter_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 5\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(evidence, "_counter_file", lambda: counter)
    watch = OutOfMemory()
    assert not watch.happened()
    counter.write_text("low 0\noom 6\noom_kill 3\noom_group_kill 0\n")
    assert watch.happened()
    assert not watch.happened()
    counter.unlink()
    assert not watch.happened()


def test_resident_memory() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(2**22 + 12345) == 0
