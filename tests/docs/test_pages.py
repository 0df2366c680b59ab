"""The pages are true: what they show is run, and prints what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ON_A_SERVER, ROOT, RUN, agrees, blocks, commands, pages, prose
from tests.servers.postgres import shared_server

HERE = Path(__file__).parent

# Seconds for a page that has begun with all the others, on a small machine that does more besides.
_PATIENCE = 300

Running = Callable[[str], "subprocess.Popen[str]"]


def start(page: Path, folder: Path) -> subprocess.Popen[str]:
    """Begin to run a page in the folder, with the programs of this environment."""
    more = {}
    if page == ROOT / ON_A_SERVER:
        more["DATABASE_URL"] = shared_server().new_database()
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-W", "error::DeprecationWarning", str(HERE / "runner.py"), str(page)],
        cwd=folder,
        env=os.environ | {"PATH": search, "COLUMNS": "100", "TZ": "UTC"} | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said."""
    try:
        said, _ = running.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        running.terminate()
        raise
    return running.returncode, said


def run(page: Path, folder: Path) -> tuple[int, str]:
    """Run a page in the folder; its exit code and what it said."""
    return end(start(page, folder))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Runs a page. They mostly wait for processes to start, so they all run at once."""
    begun: dict[str, subprocess.Popen[str]] = {}

    def begin(page: str) -> subprocess.Popen[str]:
        if page not in begun:
            begun[page] = start(ROOT / page, tmp_path_factory.mktemp("page"))
        return begun[page]

    if "PYTEST_XDIST_WORKER" not in os.environ:
        for page in RUN:
            begin(page)
    yield begin
    for each in begun.values():
        if each.poll() is None:
            each.terminate()
            each.communicate()


@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_says(page: str, running: Running) -> None:
    code, said = end(running(page))
    assert code == 0, said


@pytest.mark.parametrize("page", RUN)
def test_every_block_is_run_or_only_shows_something(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert {block.language for block in blocks(text)} <= {
        "python",
        "console",
        "toml",
        "ini",
        "dockerfile",
    }


def test_no_other_page_has_python_that_nobody_runs() -> None:
    others = [page for page in pages() if str(page.relative_to(ROOT)) not in RUN]
    assert len(others) > 5
    for page in others:
        languages = {block.language for block in blocks(page.read_text("utf-8"))}
        assert not languages & {"python", "py", "pycon"}, page


# -- a page can be untrue ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```python\nprint(1 + 1)  # -> 3\n```", "and prints\n2"),
        ("```python\nprint(1)\n```", "and prints\n1"),
        ("```python\nraise ValueError('no')\n```", "ValueError: no"),
        ("```python\nx = 1\n```\n```python\nprint(x)  # -> 2\n```", "page.md:5"),
        ("```console\n$ echo two words\ntwo worlds\n```", "two words"),
        ("```console\n$ true\nsomething\n```", "exit code 0"),
        ("```console\n$ echo something\n```", "something"),
        ("```python\n# one.py\nx = 1\n```\n```python\nimport one\nprint(one.x)  # -> 2\n```", "1"),
    ],
)
def test_what_is_not_true_is_told(page: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page, "utf-8")
    code, said = run(path, tmp_path)
    assert code == 1
    assert says in said


def test_what_is_true_passes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "```python\n# one.py\nx = 1\n```\n\n```python\nimport one\nprint(one.x)  # -> 1\n```\n"
        "*Not run by our tests: it fails.*\n\n```console\n$ false && echo no\nyes\n```\n"
        "```console\n$ echo one; echo two; echo three\none\n…\nthr…\n$ true\n```\n",
        "utf-8",
    )
    assert run(path, tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("job 0sa5yjwn5j896", "job 0sb000000000z\n", True),
        ("job 0sa5yjwn5j896", "job\n", False),
        ("12:00:00.001 info    x", "03:51:23.461 info x\n", True),
        ("12:00:00.001 info    x", "03:51:23.461 warning x\n", False),
        ("worker host:1: up", "worker vm-3:70001: up\n", True),
        ("1 s ago", "14 s ago\n", True),
        ("runs again in 0.5 s", "runs again in 0.2 s\n", False),
        ("…", "", True),
        ("…", "a\nb\n", True),
        ("a … c", "a b c\n", True),
        ("a … c", "a b\nc\n", False),
        ("a", "a\n\n", True),
        ("", "a\n", False),
    ],
)
def test_ids_times_and_columns_make_no_difference(shown: str, printed: str, same: bool) -> None:
    assert agrees(tuple(shown.splitlines()), printed) is same


def test_a_page_is_read_as_a_reader_does() -> None:
    page = (
        "Text\n\n```python\n# a.py\nx = 1\n```\n\n"
        "*Not run by our tests: why.*\n\n```console\n$ a\nb\n$ c\n```\n"
    )
    first, second = blocks(page)
    assert (first.file, first.line, first.skipped) == ("a.py", 4, None)
    assert (second.file, second.line, second.skipped) == (None, 11, "why.")
    assert [(each.text, each.output, each.line) for each in commands(second)] == [
        ("a", ("b",), 11),
        ("c", (), 13),
    ]
    assert prose(page) == "Text\n\n\n*Not run by our tests: why.*\n"
