"""What is known of a death, in data and in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from failbetter.fleet import pid_namespace
from failbetter.worker import evidence
from failbetter.worker.evidence import (
    KernelLog,
    OutOfMemory,
    describe_exit,
    exit_text,
    peak_bytes,
    resident_bytes,
)


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
    assert watch.evidence_of(7) == {}
    counter.write_text("low 0\noom 6\noom_kill 3\noom_group_kill 0\n")
    found = {"out_of_memory": True, "known_by": "the counter of kills of its cgroup rose"}
    assert watch.evidence_of(7) == found
    assert watch.evidence_of(7) == {}
    counter.unlink()
    assert watch.evidence_of(7) == {}


def test_a_kill_somewhere_on_the_host_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 2\n")
    monkeypatch.setattr(evidence, "_counter_file", lambda: counter)
    monkeypatch.setattr(evidence, "_OF_THE_HOST", counter)
    watch = OutOfMemory()
    counter.write_text("oom_kill 3\n")
    found = watch.evidence_of(7)
    assert "out_of_memory" not in found
    assert "some process" in found["known_by"]


def test_the_kernels_log_names_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,1,1,-;Out of memory: Killed process 5 (old) total-vm:1kB\n")
    monkeypatch.setattr(evidence, "_KERNEL_LOG", str(log))
    monkeypatch.setattr(evidence, "_INITIAL_PIDS", pid_namespace())
    monkeypatch.setattr(evidence, "_counter_file", lambda: None)
    watch = OutOfMemory()
    with log.open("a") as more:
        more.write("3,2,2,-;Memory cgroup out of memory: Killed process 71 (python) total-vm:9kB\n")
    assert watch.evidence_of(71) == {
        "out_of_memory": True,
        "known_by": "the kernel's log names the process",
    }
    assert watch.evidence_of(5) == {}


def test_where_pids_mean_something_else_the_kernels_log_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_INITIAL_PIDS", "pid:[1]")
    assert KernelLog().killed() == set()


def test_resident_memory() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(2**22 + 12345) == 0


def test_peak_memory() -> None:
    peak = peak_bytes(os.getpid())
    assert peak is not None
    assert peak >= resident_bytes(os.getpid()) > 0
    assert peak_bytes(2**22 + 12345) is None
