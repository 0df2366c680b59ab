"""C4: what a process has loaded, and whether that is on disk still; what is watched."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from failbetter.worker import changes
from failbetter.worker.changes import Changes, files_in
from failbetter.worker.code import LoadedCode, fingerprint_of, stamps


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, str]]:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(name)
    return [(name, str(tmp_path / f"{name}.py")) for name in ("a", "b")]


def replace(path: str, text: str) -> None:
    Path(f"{path}.new").write_text(text)
    os.replace(f"{path}.new", path)


def test_only_contents_count(files: list[tuple[str, str]]) -> None:
    code = LoadedCode(files)
    assert code.newer() is None
    replace(files[0][1], "a")
    os.utime(files[1][1], (1, 1))
    assert code.newer() is None
    replace(files[0][1], "other")
    assert code.newer() == fingerprint_of(files)
    replace(files[0][1], "a")
    assert code.newer() is None
    os.unlink(files[1][1])
    assert code.newer() is not None


def test_files_are_read_only_when_something_may_have_changed(
    files: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = LoadedCode(files)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it is read"))
    assert [code.newer() for _ in range(3)] == [None] * 3


def test_a_file_that_changes_while_it_is_loaded(files: list[tuple[str, str]]) -> None:
    """It may have been loaded before: then what is on disk is other code, as far as is known."""
    assert LoadedCode(files, since=time.time() + 60).is_sure
    unsure = LoadedCode(files, since=time.time() - 60)
    assert not unsure.is_sure
    assert unsure.newer() == unsure.fingerprint
    assert unsure.name == f"{unsure.fingerprint}?"
    seen = LoadedCode(files, since=time.time() - 60, seen=unsure.fingerprint)
    assert (seen.is_sure, seen.newer()) == (True, None)


def test_names_count_and_order_does_not_change_by_itself(files: list[tuple[str, str]]) -> None:
    assert fingerprint_of(files) == fingerprint_of(list(files))
    assert fingerprint_of(files) != fingerprint_of([("c", files[0][1]), files[1]])
    assert stamps(["/nowhere"]) == [None]


def test_what_is_among_the_files_of_a_path(tmp_path: Path) -> None:
    wanted = ["a.py", "deep/b.html", "deep/er/c.txt"]
    others = [
        ".hidden", ".git/config", "__pycache__/a.pyc", "a.pyc", "a.py~", "#a.py#", ".a.py.swp",
        "env/pyvenv.cfg", "env/lib/d.py", "node_modules/e.js",
    ]  # fmt: skip
    for name in [*wanted, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "broken").symlink_to("nowhere")
    assert files_in([str(tmp_path)]) == [str(tmp_path / name) for name in wanted]
    assert files_in([str(tmp_path / "a.py"), str(tmp_path / "none")]) == [str(tmp_path / "a.py")]


@pytest.fixture(params=["told", "polling"])
def watching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With watchfiles and without; in a test, one look follows the other sooner."""
    monkeypatch.setattr(changes, "_OFTEN", 0.05)
    monkeypatch.setattr(changes, "_QUIET", 0.1)
    if request.param == "polling":
        monkeypatch.setitem(sys.modules, "watchfiles", None)


def until(changed: Changes, before: changes.Seen) -> changes.Seen:
    limit = time.monotonic() + 20
    while changed.seen == before:
        assert time.monotonic() < limit, f"nothing but {before} is seen"
        time.sleep(0.01)
    return changed.seen


@pytest.mark.usefixtures("watching")
def test_changes_are_seen(files: list[tuple[str, str]], tmp_path: Path) -> None:
    """Of what was loaded, and of what is named: also what is new there, and folders deeper down."""
    named = tmp_path / "templates"
    named.mkdir()
    watched = Changes([str(named)])
    watched.know(files)
    seen = [until(watched, changes.Seen(None, None))]
    (named / "new.html").write_text("1")
    seen.append(until(watched, seen[-1]))
    (named / "deep").mkdir()
    (named / "deep" / "other.html").write_text("2")
    seen.append(until(watched, seen[-1]))
    (named / "deep" / "other.html").write_text("3")
    seen.append(until(watched, seen[-1]))
    assert len({one.named for one in seen}) == 4
    assert {one.loaded for one in seen} == {fingerprint_of(files)}
    watched.stop()


@pytest.mark.usefixtures("watching")
def test_what_was_loaded_is_watched(files: list[tuple[str, str]], tmp_path: Path) -> None:
    watched = Changes([])
    watched.know(files)
    before = until(watched, changes.Seen(None, None))
    assert before == changes.Seen(fingerprint_of(files), None)
    replace(files[0][1], "other")
    assert until(watched, before) == changes.Seen(fingerprint_of(files), None)
    watched.know(files[:1])
    assert until(watched, changes.Seen(None, None)).loaded is not None
    watched.stop()
    for thread in [one for one in threading.enumerate() if one.name == "changes"]:
        thread.join(20)
        assert not thread.is_alive()


def test_the_supervisor_needs_no_watchfiles() -> None:
    script = "import sys, failbetter.worker.supervisor as _; print('watchfiles' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
