"""The command line as it is typed: settings, wrong usage, errors, exit codes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.cli_ground import SHOP, Ground, Ran

import failbetter
from failbetter.cli import main

LEDGER = ("--url", "sqlite:///jobs.db")


@pytest.fixture(scope="module")
def module_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A folder with an app and a ledger with one waiting job. Tests do not change it."""
    ground = Ground(tmp_path_factory.mktemp("shop"))
    ground.write("shop.py", SHOP)
    assert ground.shop("enqueue", "good", "1").code == 0
    yield ground
    sys.modules.pop("shop", None)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """An empty folder."""
    return Ground(tmp_path)


# -- in general


def test_version(ground: Ground) -> None:
    ran = ground.run("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"failbetter {failbetter.__version__}\n", "")


def test_without_a_command_it_helps(ground: Ground) -> None:
    for words in ((), ("jobs",)):
        ran = ground.run(*words)
        assert ran.code == 2
        assert "Usage: failbetter" in ran.out


def test_python_m_is_the_same(ground: Ground) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "failbetter", "--version"],
        cwd=ground.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("failbetter ")


@pytest.mark.parametrize(
    "words",
    [("--help",), ("failed", "--help"), ("failed", "retry", "-h"), ("worker", "--help")],
    ids=" ".join,
)
def test_help(ground: Ground, words: tuple[str, ...]) -> None:
    ran = ground.run(*words)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert "Options:" in ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nope",), "no such command 'nope'"),
        (("failed", "nope"), "no such command 'nope'"),
        (("failed", "--nope"), "no such option"),
        (("failed", "show"), "missing argument 'ID'"),
        (("failed", "show", "nope"), "'nope' is no job id"),
        (("failed", "show", "0000000000i00"), "is no job id"),
        (("failed", "show", "zzzzzzzzzzzzz"), "larger than any id"),
        (("jobs", "cancel"), "missing argument"),
        (("jobs", "cancel", "0000000000000", "x"), "'x' is no job id"),
        (("failed", "retry", "x"), "'x' is no job id"),
        (("failed", "retry"), "retry which?"),
        (("failed", "discard", "--limit", "3"), "discard which?"),
        (("failed", "retry", "--all", "--task", "x"), "--all means every failed job"),
        (("failed", "list", "--limit", "0"), "whole number from 1"),
        (("failed", "list", "--limit", "many"), "whole number from 1"),
        (("failed", "list", "--since", "soon"), "--since: 'soon' is no duration"),
        (("failed", "list", "--since", "-5"), "--since: "),
        (("failed", "list", "--until", "2026-13-01"), "--until: '2026-13-01' is no date"),
        (("failed", "--reason", "bad"), "--reason: 'bad' is no reason; there are: "),
        (("failed", "--arg", "path"), "--arg: 'path' is no NAME=PATTERN"),
        (("failed", "--not-arg", "a..b=1"), "--not-arg: 'a..b' is no parameter's name"),
        (("failed", "--attempts", "few"), "--attempts: 'few' is no number of attempts"),
        (("failed", "--fingerprint", "1-*"), "--fingerprint: '1-*' is no fingerprint"),
        (("failed", "--state", "gone"), "--state: 'gone' is none of open, resolved, ignored, all"),
        (("failed", "resolve"), "missing argument"),
        (("failed", "ignore", ""), "'' is no fingerprint"),
        (("jobs", "list", "--state", "gone"), "'gone' is no state; there are: "),
        (("worker", "--json"), "--log-format json"),
        (("worker", "--processes", "0"), "--processes: a whole number from 1"),
        (("worker", "--concurrency", "x"), "--concurrency: a whole number from 1"),
        (("worker", "--max-memory", "lots"), "--max-memory: bytes, or a size"),
        (("worker", "--max-memory", "512"), "for megabytes write M"),
        (("worker", "--shutdown-timeout", "x"), "--shutdown-timeout: 'x' is no duration"),
        (("worker", "--log-format", "xml"), "'xml' is none of text, json"),
        (("worker", "--log-level", "loud"), "'loud' is none of debug"),
        (("worker", "--queue", ""), "--queue: a text is needed"),
        (("-A", "./shop.py", "failed"), "'./shop.py' names no app"),
        (("-A", ":", "failed"), "':' names no app"),
        (("-A", "", "failed"), "--app: a text is needed"),
        (("enqueue",), "missing argument 'TASK'"),
        (("enqueue", "nope"), "no task 'nope' is registered; there are: "),
        (("enqueue", "good"), "missing a required argument: 'n'"),
        (("enqueue", "good", "one"), "argument 'n': expected `int`, got `str`"),
        (("enqueue", "good", "1", "2"), "too many positional arguments"),
        (("enqueue", "good", "{"), "expected `int`, got `str`"),
        (("enqueue", "good", "NaN"), "expected `int`, got `str`"),
        (("enqueue", "good", "m=1"), "'n'"),
        (("enqueue", "good", "n=1", "n=2"), "n is given twice"),
        (("enqueue", "good", "n=1", "2"), "stands after a name=VALUE"),
        (("enqueue", "good", "-5"), "write -- before arguments that begin with a dash"),
        (("enqueue", "only", "5"), "expected `str`, got `int` (text that could be JSON"),
        (("enqueue", "when", "noon"), "argument 'at'"),
        (("enqueue", "touchy", "0"), "touchy: ZeroDivisionError"),
        (("enqueue", "good", "1", "--run-after", "soon"), "--run-after: 'soon' is no duration"),
        (("enqueue", "good", "1", "--priority", "99999"), "whole number from -32768"),
        (("enqueue", "good", "1", "--queue", ""), "a queue's name"),
        (("demo", "--seed", "x"), "whole number from 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_2(
    module_ground: Ground,
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process, because there are many; nothing here may get as far as another program.
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("became another program"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FAILBETTER_APP", "shop:app")
    monkeypatch.setenv("FAILBETTER_URL", "sqlite:///jobs.db")
    monkeypatch.chdir(module_ground.folder)
    ran = Ran(main(words), *capsys.readouterr())
    assert says in ran.complaint
    assert (ran.code, ran.out) == (2, "")


def test_nothing_was_enqueued_by_mistake(module_ground: Ground) -> None:
    assert module_ground.shop("jobs", "list", "--json").document["total"] == 1


# -- which ledger


@pytest.mark.parametrize("command", [("failed",), ("health",), ("migrate",), ("worker",)])
def test_no_ledger_and_no_app(ground: Ground, command: tuple[str, ...]) -> None:
    ran = ground.run(*command)
    assert ran.complaint.startswith("which ")
    assert ran.code == 2


@pytest.mark.parametrize(
    ("url", "says", "code"),
    [
        ("sqlite:///none.db", "there is no ledger at sqlite:///none.db yet", 69),
        ("sqlite:///no/folder.db", "there is no ledger", 69),
        ("sqlite:///{folder}", "is a folder", 69),
        ("sqlite:///junk.db", "not a database", 69),
        ("sqlite://", "in-memory", 78),
        ("nonsense", "is no URL", 78),
        ("mssql://bob:hunter2@h/x", "not supported", 78),
        ("x://bob:hunter2@h:port/x", "is no URL", 78),
        ("sqlite+nope:///jobs.db", "not supported", 78),
    ],
)
def test_a_ledger_that_cannot_be_used(ground: Ground, url: str, says: str, code: int) -> None:
    ground.write("junk.db", "this is no database, but it is long enough to look like one\n" * 20)
    ran = ground.run("--url", url.format(folder=ground.folder), "failed")
    assert says in ran.complaint
    assert "hunter2" not in ran.err
    assert (ran.code, ran.out) == (code, "")
    assert not (ground.folder / "none.db").exists()


def test_a_look_makes_no_ledger_and_migrate_does(ground: Ground) -> None:
    assert ground.run(*LEDGER, "jobs", "list").code == 69
    ran = ground.run(*LEDGER, "health", "--json")
    assert (ran.code, ran.document["status"]) == (1, "fail")
    ran = ground.run(*LEDGER, "migrate", "--check")
    assert (ran.code, "has no tables yet" in ran.out) == (1, True)
    assert list(ground.folder.iterdir()) == []
    ran = ground.run(*LEDGER, "migrate")
    assert ran.code == 0
    assert "schema none -> 0" in ran.out
    assert ground.run(*LEDGER, "jobs", "list").out == "no job matches\n"
    assert ground.run(*LEDGER, "failed").out == "no failed jobs\n"


def test_migrate_says_what_it_did(ground: Ground) -> None:
    first = ground.run(*LEDGER, "migrate", "--json").document
    assert first["before"] is None
    assert first["changed"]
    again = ground.run(*LEDGER, "--json", "migrate").document
    assert again == {"before": first["after"], "after": first["after"], "changed": False}
    checked = ground.run(*LEDGER, "migrate", "--check", "--json")
    assert checked.code == 0
    assert checked.document == {"schema": first["after"], "current": True, "problem": None}


def test_a_schema_of_another_version(ground: Ground) -> None:
    ground.run(*LEDGER, "migrate")
    with sqlite3.connect(ground.folder / "jobs.db") as connection:
        connection.execute("UPDATE failbetter_version SET version_num = '9999'")
    connection.close()
    usable = ground.run(*LEDGER, "migrate", "--check")
    assert usable.code == 0
    assert "schema 9999, newer" in usable.out
    with sqlite3.connect(ground.folder / "jobs.db") as connection:
        connection.execute("UPDATE failbetter_notes SET value = '9999'")
    connection.close()
    checked = ground.run(*LEDGER, "migrate", "--check", "--json")
    assert checked.code == 1
    assert not checked.document["current"]
    ran = ground.run(*LEDGER, "failed")
    assert ran.code == 78
    assert "9999" in ran.complaint


def test_health_of_a_ledger_without_workers(module_ground: Ground) -> None:
    ran = module_ground.shop("health", "--json")
    assert ran.code == 0
    assert ran.document["status"] == "warn"
    assert ran.document["checks"]["workers"]["status"] == "warn"
    assert ran.document["checks"]["jobs"]["observedValue"]["pending"] == 1
    told = module_ground.shop("health").out
    assert told.startswith("warn\n")
    assert "no worker is alive" in told


def test_health_of_a_ledger_that_cannot_be_asked(ground: Ground) -> None:
    ground.write("junk.db", "this is no database, but it is long enough to look like one\n" * 20)
    ran = ground.run("--url", "sqlite:///junk.db", "health", "--json")
    assert (ran.code, ran.document["status"]) == (1, "fail")


# -- apps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch' (bad.py, line 1)"),
        ("x = 1\ny = x / 0", "ZeroDivisionError: division by zero (bad.py, line 2)"),
        ("def (", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("raise SystemExit('bye')", "SystemExit: bye (bad.py, line 1)"),
        ("raise OSError('at db://u:hunter2@h/x\\nnow')", "OSError: at db://u:***@h/x now (bad.py"),
        ("import failbetter; app = failbetter.App()", "where is the ledger?"),
        ("app = 5", "is a int, not a failbetter.App"),
        ("", "has no 'app'"),
    ],
)
def test_an_app_that_cannot_be_imported(ground: Ground, text: str, says: str) -> None:
    ground.write("bad.py", text)
    ran = ground.run("-A", "bad:app", "failed")
    assert says in ran.complaint
    assert "hunter2" not in ran.err
    assert (ran.code, ran.out) == (78, "")


@pytest.mark.parametrize("spec", ["nosuch:app", "shop.py:app"])
def test_an_app_that_is_not_there(ground: Ground, spec: str) -> None:
    ran = ground.run("-A", spec, "failed")
    assert "there is no module" in ran.complaint
    assert ran.code == 78


def test_a_worker_whose_app_cannot_be_imported(ground: Ground) -> None:
    ground.write("bad.py", "x = 1 / 0")
    ran = ground.run("-A", "bad:app", "worker", "--drain")
    assert ran.code == 78
    assert "division by zero" in ran.err


def test_what_an_app_prints_stays_out_of_the_output(ground: Ground) -> None:
    ground.write("shop.py", "print('noise')\n" + SHOP.replace("1 // n", "print('more') or n"))
    ran = ground.shop("enqueue", "touchy", "4", "--json")
    assert ran.document["task"] == "touchy"
    assert ran.err == "noise\nmore\n"


def test_an_app_with_a_ledger_of_its_own(ground: Ground) -> None:
    ground.write("shop.py", SHOP.replace("App()", "App('sqlite:///own.db')"))
    app = ("-A", "shop:app")
    assert ground.run(*app, "enqueue", "good", "1", FAILBETTER_URL="sqlite:///x.db").code == 0
    ran = ground.run(*app, "--url", "sqlite:///other.db", "enqueue", "good", "1")
    assert "has a ledger of its own, sqlite:///own.db" in ran.complaint
    assert ran.code == 2
    assert ground.run(*app, "jobs", "list", "--json").document["total"] == 1
    assert not (ground.folder / "x.db").exists()


def test_the_url_does_where_no_task_is_needed(ground: Ground) -> None:
    ground.write("bad.py", "x = 1 / 0")
    assert ground.run(*LEDGER, "migrate").code == 0
    assert ground.run("-A", "bad:app", *LEDGER, "failed").code == 0
    assert ground.run("failed", DATABASE_URL="sqlite:///jobs.db").code == 0
    assert ground.run("failed", FAILBETTER_APP="bad:app", FAILBETTER_URL=LEDGER[1]).code == 78


# -- settings


def test_precedence(ground: Ground) -> None:
    ground.write("shop.py", SHOP)
    ground.write("pyproject.toml", '[tool.failbetter]\napp = "shop"\nurl = "sqlite:///c.db"\n')
    ground.run("enqueue", "good", "1", "--url", "sqlite:///a.db")
    ground.run("enqueue", "good", "1", FAILBETTER_URL="sqlite:///b.db", DATABASE_URL="nope://")
    ground.run("enqueue", "good", "1", DATABASE_URL="nope://")
    for name in ("a", "b", "c"):
        ran = ground.run("jobs", "list", "--json", "--url", f"sqlite:///{name}.db")
        assert ran.document["total"] == 1


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[tool.failbetter", "pyproject.toml cannot be read"),
        ('[tool.failbetter]\nap = "x"', "has no setting 'ap'; there are: app, concurrency"),
        ("[tool.failbetter]\napp = 5", "pyproject.toml: app: a text is needed"),
        ("[tool]\nfailbetter = 5", "must be a table"),
    ],
)
def test_a_pyproject_that_cannot_be_meant(ground: Ground, toml: str, says: str) -> None:
    ground.write("pyproject.toml", toml)
    ran = ground.run("failed")
    assert says in ran.complaint
    assert ran.code == 78


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PROCESSES", "two", "$FAILBETTER_PROCESSES: a whole number"),
        ("MAX_MEMORY", "-1", "$FAILBETTER_MAX_MEMORY: bytes, or a size"),
        ("LOG_FORMAT", "xml", "$FAILBETTER_LOG_FORMAT: 'xml' is none of"),
        ("QUEUES", "a,,b", "$FAILBETTER_QUEUES: a text is needed"),
    ],
)
def test_a_variable_that_cannot_be_meant(ground: Ground, name: str, value: str, says: str) -> None:
    ran = ground.run("-A", "shop:app", "worker", **{f"FAILBETTER_{name}": value})
    assert says in ran.complaint
    assert ran.code == 78


@pytest.mark.parametrize("where", ["before", "group", "after"])
def test_options_may_stand_before_or_after_the_command(module_ground: Ground, where: str) -> None:
    common = ("-A", "shop:app", "--json", *LEDGER)
    words = {
        "before": (*common, "failed", "--task", "nothing", "list"),
        "group": ("failed", *common, "--task", "nothing", "list"),
        "after": ("failed", "list", "--task", "nothing", *common),
    }
    ran = module_ground.run(*words[where])
    assert (ran.code, ran.document) == (0, {"total": 0, "jobs": []})


# -- the end of the line


def test_a_full_disk_under_the_output(module_ground: Ground) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [Path(sys.executable).with_name("failbetter"), *LEDGER, "jobs", "list"],
            cwd=module_ground.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 74
    assert done.stderr == "failbetter: No space left on device\n"


def test_nobody_reads(module_ground: Ground) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [Path(sys.executable).with_name("failbetter"), *LEDGER, "jobs", "list", "--json"],
        cwd=module_ground.folder,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_interrupted(module_ground: Ground) -> None:
    module_ground.write("patient.py", "import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [Path(sys.executable).with_name("failbetter"), "-A", "patient:app", "failed"],
        cwd=module_ground.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_demo_refuses_a_folder_that_is_not_there(ground: Ground) -> None:
    ran = ground.run("demo", "nowhere")
    assert ran.code == 66
    assert ran.out == ""
    assert "nowhere" in ran.err
