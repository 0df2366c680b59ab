"""The command line on a real ledger with a past, made by a real worker."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from tests.integration.cli_ground import Ground, Ran, with_a_past

from failbetter.cli import main

UNKNOWN = "0000000000000"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """An app whose jobs a worker has run. Tests do not change it: see `ground`."""
    return with_a_past(tmp_path_factory.mktemp("past"))


@pytest.fixture
def ground(past: Ground, tmp_path: Path) -> Ground:
    """A copy of the ledger to act on."""
    shutil.copytree(past.folder, tmp_path / "copy")
    return Ground(tmp_path / "copy")


# -- looking


def test_groups(past: Ground) -> None:
    groups = past.shop("failed", "--json").document
    assert (groups[0]["task"], groups[0]["count"]) == ("boom", 3)
    assert {(group["task"], group["reason"], group["error_type"]) for group in groups} == {
        ("boom", "error", "ValueError"),
        ("deep", "error", "ConnectionError"),
        ("poison", "crashed", "failbetter.ProcessDied"),
        ("charge", "uncertain", "ZeroDivisionError"),
    }
    assert set(groups[0]) == {
        "fingerprint", "title", "task", "reason", "error_type", "count", "first_seen", "last_seen",
        "tasks", "queues", "code_versions", "state", "reopened", "recurred", "changed_at", "actor",
        "note", "sample",
    }  # fmt: skip
    told = past.shop("failed").out
    assert "\x1b" not in told
    assert told.splitlines()[0].split() == [
        "COUNT", "LAST", "STATE", "GROUP", "TASK", "ERROR"
    ]  # fmt: skip
    assert all(group["fingerprint"] in told for group in groups)
    assert "boom 3" in told
    assert past.shop("failed", "--limit", "1").out.count("\n") == 2


def test_lists(past: Ground) -> None:
    document = past.shop("failed", "list", "--json", "--limit", "2").document
    assert document["total"] == 6
    assert len(document["jobs"]) == 2
    assert set(document["jobs"][0]) == {
        "id", "task", "queue", "priority", "state", "reason", "attempt", "created_at", "run_at",
        "ended_at", "waiting_for", "error_type", "error_message", "fingerprint", "tags", "args",
    }  # fmt: skip
    short = past.shop("failed", "list", "--limit", "2")
    assert short.out.count("\n") == 3
    assert short.err == "2 of 6 failed jobs shown; --limit 6 shows all\n"
    assert past.shop("jobs", "list").out.count("\n") == 8
    assert "succeeded" in past.shop("jobs", "list", "--state", "succeeded").out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--task", "boom"), 3),
        (("--task", "*o*"), 4),
        (("--error", "ValueError"), 3),
        (("--error", "failbetter.*"), 1),
        (("--message", "boom 2"), 1),
        (("--message", "*no % such_*"), 0),
        (("--queue", "images"), 1),
        (("--reason", "crashed"), 1),
        (("--tag", "billing"), 1),
        (("--since", "1h"), 6),
        (("--until", "1h"), 0),
        (("--since", "2020-01-01", "--until", "2020-01-02T03:04"), 0),
        (("--task", "boom", "--reason", "crashed"), 0),
        (("--task", "boom", "--task", "deep"), 4),
        (("--not-task", "boom", "--not-task", "deep"), 2),
        (("--error", "OSError"), 1),
        (("--error", "Exception", "--not-error", "ValueError"), 2),
        (("--arg", "path=*.png"), 1),
        (("--arg", "n=2"), 1),
        (("--not-arg", "n=1", "--not-arg", "n=2"), 4),
        (("--arg", "token=*"), 0),
        (("--attempts", ">=2"), 1),
        (("--attempts", "1", "--not-reason", "crashed"), 4),
        (("--not-attempts", "1"), 1),
        (("--worker", "*:*"), 6),
        (("--not-worker", "*:*"), 0),
        (("--code", "*"), 6),
        (("--not-tag", "billing", "--not-queue", "images", "--not-message", "boom*"), 2),
        (("--since", "yesterday"), 6),
        (("--until", "yesterday"), 0),
        ((UNKNOWN,), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_filters(
    past: Ground,
    words: tuple[str, ...],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(past.folder)  # in this process, because there are many
    ran = Ran(
        main(["--url", "sqlite:///jobs.db", "failed", "list", *words, "--json"]),
        *capsys.readouterr(),
    )
    assert (ran.code, ran.document["total"]) == (0, count)


def test_a_group_leads_to_its_jobs(past: Ground) -> None:
    group = past.shop("failed", "--task", "deep", "--json").document[0]
    jobs = past.ids("--fingerprint", group["fingerprint"])
    assert jobs == [group["sample"]["id"]]
    assert past.ids("--fingerprint", group["fingerprint"][:-3]) == jobs
    assert jobs[0] not in past.ids("--not-fingerprint", group["fingerprint"][:-3])
    assert past.ids(*jobs) == jobs


def test_the_story_of_a_failure(past: Ground) -> None:
    (job,) = past.ids("--task", "deep")
    told = past.shop("failed", "show", job).out
    for bad in ("s3cret", "\x1b", "bob:pw"):
        assert bad not in told
    assert 'path = "cat.png"' in told
    assert "token = ***" in told
    assert "http://bob:***@h/" in told
    assert "\\x1b[31m[bold]" in told
    at = told.index("What happened")
    for words in (
        "accepted",
        "attempt 1 began on ",
        "attempt 1 raised",
        "ConnectionError",
        "(the traceback is that of attempt 2)",
        "waits to run again",
        "attempt 2 began",
        "attempt 2 raised",
        "more lines: --full",
        "ConnectionError",
        "the job failed (error)",
    ):
        at = told.index(words, at)
    full = past.shop("jobs", "show", job.upper(), "--full").out
    assert full.count("Traceback (most recent call last)") == 2
    assert "s3cret" not in full
    document = past.shop("failed", "show", job, "--json").document
    assert [attempt["cause"] for attempt in document["attempts"]] == ["raised", "raised"]
    assert document["args"] == {"path": "cat.png", "token": "***"}
    assert set(document["attempts"][0]) == {
        "id", "number", "cause", "state", "reason", "begun_at", "ended_at", "next_run_at",
        "worker", "code", "error_type", "error_message", "traceback", "evidence",
    }  # fmt: skip


def test_the_stories_of_a_death_a_doubt_and_a_success(past: Ground) -> None:
    poison = past.shop("failed", "show", past.ids("--task", "poison")[0]).out
    assert ": its process was killed by signal 9 (SIGKILL)" in poison
    charge = past.shop("jobs", "show", past.ids("--task", "charge")[0]).out
    assert 'effect sent: done: {"to": "bob"}' in charge
    assert "effect charged: begun, and not known to have happened" in charge
    good = past.ids("--task", "good")[0]
    assert 'result      {"n": 7}' in past.shop("jobs", "show", good).out
    assert past.shop("jobs", "show", good, "--json").document["result"] == {"n": 7}


def test_a_job_that_is_not_there(past: Ground) -> None:
    ran = past.shop("failed", "show", UNKNOWN)
    assert ran.complaint == f"no job {UNKNOWN} is in sqlite:///jobs.db"
    assert ran.code == 1


# -- what is said of a group


def test_a_group_is_resolved_ignored_and_opened_again(ground: Ground) -> None:
    boom, deep = (
        ground.shop("failed", "--task", task, "--json").document[0]["fingerprint"]
        for task in ("boom", "deep")
    )
    ran = ground.shop("failed", "resolve", boom[:-2], "--note", "fixed in v2", "--actor", "ann")
    assert (ran.code, ran.out) == (0, f"{boom}  resolved: boom: ValueError, 3 failed jobs\n")
    ran = ground.shop("failed", "ignore", deep, "1-nothing", deep, "--json")
    assert (ran.code, ran.document) == (
        1,
        [
            {"fingerprint": deep, "done": True, "state": "ignored"},
            {"fingerprint": "1-nothing", "done": False, "state": None},
        ],
    )
    told = ground.shop("failed")
    assert boom not in told.out
    assert told.err == (
        "not shown: 1 group resolved (3 jobs), 1 group ignored (1 job); see --state\n"
    )
    assert ground.shop("failed", "--fingerprint", boom).out.count(boom) == 1
    assert ground.shop("failed", "--state", "all").out.count("\n") == 5
    (ignored,) = ground.shop("failed", "--state", "ignored", "--json").document
    assert (ignored["fingerprint"], ignored["count"]) == (deep, 1)
    told = ground.shop("failed", "show", boom[:-2]).out
    assert "ann, fixed in v2)" in told
    assert "  tasks       boom\n" in told
    assert "raise ValueError" in told
    assert ground.shop("failed", "reopen", boom, deep).code == 0
    assert ground.shop("failed", "show", boom, "--json").document["state"] == "open"
    assert ground.shop("failed").err == ""


def test_no_such_group(past: Ground) -> None:
    ran = past.shop("failed", "resolve", "1-nothing")
    assert (ran.code, ran.out) == (1, "1-nothing  refused: no failed job has it\n")
    ran = past.shop("failed", "show", "1-nothing")
    assert (ran.code, ran.complaint) == (1, "no failed job has the fingerprint 1-nothing")
    assert past.shop("failed", "--state", "resolved").out == "no group is resolved\n"


# -- acting


def test_retry_by_ids_has_an_outcome_for_each_refused(ground: Ground) -> None:
    boom = ground.ids("--task", "boom")
    good = ground.ids("--task", "good")[0]
    ran = ground.shop("failed", "retry", boom[0], boom[0], good, UNKNOWN)
    assert ran.code == 1
    assert ran.out.splitlines() == [
        f"{good}  refused: not failed but succeeded",
        f"{UNKNOWN}  refused: not found",
        "retried 1 failed job, 2 refused",
    ]
    assert ground.ids("--state", "pending") == [boom[0]]
    told = ground.shop("jobs", "show", boom[0]).out
    assert "retried by a person" in told
    assert "waits for a worker" in told
    ran = ground.shop("failed", "retry", "--json", boom[1], "--task", "deep")
    assert (ran.code, ran.document["retried"]) == (1, 0)
    assert ran.document["refused"] == {boom[1]: "left out by a filter or --limit"}


def test_retry_by_filter(ground: Ground) -> None:
    dry = ground.shop("failed", "retry", "--task", "boom", "--dry-run")
    assert (dry.code, dry.out) == (0, "would retry 3 failed jobs\n")
    dry = ground.shop("failed", "discard", "--all", "--limit", "2", "--dry-run", "--json")
    assert dry.document == {"action": "discard", "dry_run": True, "matched": 2, "refused": {}}
    assert ground.shop("failed", "list", "--json").document["total"] == 6
    ran = ground.shop("failed", "retry", "--task", "boom", "--limit", "2", "--yes")
    assert (ran.code, ran.out) == (0, "retried 2 failed jobs\n")
    ran = ground.shop("failed", "--task", "boom", "retry", "--json")
    said = ran.document
    (operation,) = said.pop("operations")
    assert said == {"action": "retry", "dry_run": False, "retried": 1, "refused": {}}
    assert ground.shop("operations", "show", operation, "--json").document["total"] == 1
    none = ground.shop("failed", "retry", "--task", "nothing")
    assert (none.code, none.out) == (0, "retried 0 failed jobs\n")
    again = ground.shop("worker", "--drain", "--queue", "images", "--queue", "default")
    assert again.code == 0
    assert ground.shop("failed", "list", "--task", "boom", "--json").document["total"] == 3
    told = ground.shop("jobs", "show", ground.ids("--task", "boom")[0]).out
    assert told.index("retried by a person") < told.index("attempt 2 began")


def test_discard(ground: Ground) -> None:
    ran = ground.shop("failed", "discard", "--all")
    assert (ran.code, ran.out) == (0, "discarded 6 failed jobs\n")
    assert ground.shop("failed").out == "no failed jobs\n"
    job = ground.ids("--reason", "by_operator", "--task", "poison")[0]
    told = ground.shop("jobs", "show", job).out
    assert "discarded by a person" in told
    assert "retried by a person" not in told
    assert ground.shop("failed", "retry", job).out.startswith(
        f"{job}  refused: not failed but discarded\n"
    )


def test_a_doubt_is_settled_by_a_person(ground: Ground) -> None:
    """A10: no retry before it is known whether the effect happened."""
    (charge,) = ground.ids("--task", "charge")
    ran = ground.shop("failed", "retry", charge)
    assert ran.code == 1
    assert "an effect of it is in doubt" in ran.out
    for words in ([], ["--happened", "--did-not"], ["--did-not", "--result", "1"]):
        assert ground.shop("failed", "confirm", charge, *words).code == 2
    assert ground.shop("failed", "confirm", charge, "--happened", "--result", "{").code == 2
    ran = ground.shop("failed", "confirm", charge, "--happened", "--effect", "sent")
    assert (ran.code, "no effect 'sent' is in doubt" in ran.complaint) == (1, True)
    ran = ground.shop(
        "failed", "confirm", charge, "--happened", "--result", "5", "--actor", "ann", "--retry"
    )
    assert ran.code == 0
    assert ran.out == f"the effect 'charged' happened, says ann; job {charge} is pending\n"
    assert ground.shop("worker", "--drain", "--processes", "1").code == 0
    story = ground.shop("jobs", "show", charge).out
    assert "effect charged: done: 5" in story
    assert ground.shop("jobs", "show", charge, "--json").document["state"] == "succeeded"
    ran = ground.shop("failed", "confirm", charge, "--happened")
    assert ran.complaint == f"nothing of job {charge} can be confirmed: not failed but succeeded"


def test_progress_and_failed_items_are_told(ground: Ground) -> None:
    """B8: partial results are said so."""
    number = ground.shop("enqueue", "list_of", "[0, 1, 2]").out.split()[0]
    assert ground.shop("worker", "--drain", "--processes", "1").code == 0
    story = ground.shop("jobs", "show", number).out
    assert "failed (partial)" in story
    assert "progress    2 of 3 done, 1 failed" in story
    assert "failed      0: ZeroDivisionError: integer division or modulo by zero" in story
    document = ground.shop("jobs", "show", number, "--json").document
    assert (document["progress"]["done"], document["progress"]["total"]) == (2, 3)
    assert [item["key"] for item in document["failed_items"]] == ["0"]


def test_a_job_is_edited_and_retried(ground: Ground) -> None:
    """Issue 5, item 5: in a shell; off by default, and never by half."""
    first, second, _ = ground.ids("--task", "boom")
    ran = ground.shop("jobs", "retry", first, "--set", "n=9")
    assert (ran.code, "allow_edit=True" in ran.out) == (1, True)
    shop = (ground.folder / "shop.py").read_text("utf-8")
    ground.write("shop.py", shop.replace("failbetter.App()", "failbetter.App(allow_edit=True)"))
    for words in (
        ["--set", "m=9"],
        ["--set", "n=text"],
        ["--set", "n"],
        ["--set", "n=1", "--set", "n=2"],
        ["--unset", "n"],
        ["--note", "why"],
    ):
        ran = ground.shop("jobs", "retry", first, *words)
        assert (ran.code, ran.out) == (2, ""), words
        assert ran.complaint
    assert ground.shop("jobs", "show", first, "--json").document["state"] == "failed"
    ran = ground.shop(
        "jobs",
        "retry",
        first,
        UNKNOWN,
        "--set",
        "n=9",
        "--note",
        "typo",
        "--actor",
        "ann",
        "--json",
    )
    done, unknown = ran.document
    assert (ran.code, unknown["outcome"]) == (1, "not found")
    made = done["outcome"].split()[1]
    assert done["outcome"] == f"discarded; {made} runs in its place"
    old, new = (ground.shop("jobs", "show", number).out for number in (first, made))
    assert f"as {made}, other n" in old
    assert "by ann: typo" in old
    assert f"from {first}, other n" in new
    assert "n = 9" in new
    assert ground.shop("jobs", "retry", first, "--set", "n=9").out == (
        f"{first}  refused: not failed but discarded\n"
    )
    assert ground.shop("jobs", "show", second, "--json").document["state"] == "failed"


def test_effects_are_not_repeated_by_an_edit_without_a_word(ground: Ground) -> None:
    """A10: what the failed job has done, another would not know of."""
    shop = (ground.folder / "shop.py").read_text("utf-8")
    shop = shop.replace("failbetter.App()", "failbetter.App(allow_edit=True)")
    ground.write("shop.py", shop.replace("def charge() ->", "def charge(n: int = 0) ->"))
    (charge,) = ground.ids("--task", "charge")
    ran = ground.shop("jobs", "retry", charge, "--set", "n=1")
    assert (ran.code, "1 of 2 effects done" in ran.out) == (1, True)
    ran = ground.shop("jobs", "retry", charge, "--set", "n=1", "--yes")
    assert (ran.code, "runs in its place" in ran.out) == (0, True)


def test_jobs_cancel_and_retry(ground: Ground) -> None:
    waiting = ground.shop("enqueue", "good", "1").out.strip()
    boom = ground.ids("--task", "boom")[0]
    ran = ground.shop("jobs", "cancel", waiting, boom, UNKNOWN)
    assert ran.code == 1
    assert ran.out.splitlines() == [
        f"{waiting}  cancelled",
        f"{boom}  refused: it is failed",
        f"{UNKNOWN}  refused: not found",
    ]
    ran = ground.shop("jobs", "retry", "--json", boom)
    assert ran.code == 0
    assert ran.document == [{"id": boom, "done": True, "outcome": "waits to run again"}]
    ran = ground.shop("jobs", "retry", "--json", boom, waiting)
    assert ran.code == 1
    assert [each["outcome"] for each in ran.document] == [
        "not failed but pending",
        "not failed but discarded",
    ]


def test_enqueue(ground: Ground) -> None:
    ran = ground.shop("enqueue", "good", "--", "-5")
    assert (ran.code, ran.err) == (0, "")
    assert ground.ids(ran.out.strip()) == [ran.out.strip()]
    document = ground.shop(
        "enqueue", "when", "2026-01-31T09:00:00Z", "1", "2", "a=b", 'c="5"',
        "--queue", "slow", "--priority", "-3", "--run-after", "2999-01-01T00:00", "--json",
    ).document  # fmt: skip
    assert document["created"] is True
    assert document["state"] == "pending"
    assert (document["queue"], document["priority"]) == ("slow", -3)
    assert document["run_at"] == "2999-01-01T00:00:00.000Z"
    assert document["args"]["at"] == "2026-01-31T09:00:00Z"
    assert document["args"]["rest"] == [1, 2]
    assert document["args"]["named"] == {"a": "b", "c": "5"}
    told = ground.shop("jobs", "show", document["id"]).out
    assert "waits for its time, 2999-01-01" in told


def test_enqueue_of_a_unique_key(ground: Ground) -> None:
    first = ground.shop("enqueue", "only", "a")
    second = ground.shop("enqueue", "only", "key=a")
    assert first.out == second.out
    assert first.err == ""
    assert "a live job of this unique key" in second.err
    assert ground.shop("enqueue", "only", "a", "--json").document["created"] is False


# -- a worker


def test_a_worker_is_another_program_and_stops_gracefully(ground: Ground) -> None:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("failbetter"), "-A", "shop:app", "worker"],
        cwd=ground.folder,
        env={**os.environ, "FAILBETTER_URL": "sqlite:///jobs.db", "FAILBETTER_PROCESSES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "ledger sqlite:///jobs.db" in process.stderr.readline()
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert b"failbetter.worker" in command
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "shop" not in loaded
        document = ground.shop("health", "--json").document
        assert document["status"] == "pass"
        job = ground.shop("enqueue", "good", "3").out.strip()
        until = time.monotonic() + 20
        while ground.shop("jobs", "show", job, "--json").document["state"] != "succeeded":
            assert time.monotonic() < until
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(("level", "quiet"), [("info", False), ("error", True)])
def test_the_log_level_holds_for_what_bodies_say(ground: Ground, level: str, quiet: bool) -> None:
    ground.shop("enqueue", "talk")
    ran = ground.shop("worker", "--drain", "--log-level", level)
    assert ran.code == 0
    assert "[talk] in earnest" in ran.err
    assert ("[talk] in passing" in ran.err) is not quiet


# -- a terminal


def typed(ground: Ground, answer: str, *words: str, columns: int = 100) -> tuple[int, str]:
    """Run the command on a terminal with somebody who types `answer`."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("failbetter"), *words],
        cwd=ground.folder,
        env={
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "FAILBETTER_APP": "shop:app",
            "FAILBETTER_URL": "sqlite:///jobs.db",
        },
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    os.write(leader, answer.encode())
    shown = b""
    try:
        while piece := os.read(leader, 65536):
            shown += piece
    except OSError:  # how Linux says that nobody holds the other end any more
        pass
    os.close(leader)
    return process.wait(timeout=60), shown.decode()


def test_a_person_is_asked(ground: Ground) -> None:
    code, shown = typed(ground, "n\n", "failed", "discard", "--all")
    assert "discard 6 failed jobs? [y/N]" in shown
    assert "nothing was done" in shown
    assert code == 1
    assert ground.shop("failed", "list", "--json").document["total"] == 6
    code, shown = typed(ground, "y\n", "failed", "retry", "--task", "boom")
    assert "retried 3 failed jobs" in shown
    assert code == 0
    code, shown = typed(ground, "", "failed", "discard", "--all", "--yes")
    assert "?" not in shown
    assert "discarded 3 failed jobs" in shown


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_shows_whole_ids_and_no_line_too_long(past: Ground, columns: int) -> None:
    for words in (("jobs", "list"), ("failed", "list")):
        _, shown = typed(past, "", *words, columns=columns)
        plain = [_plain(line) for line in shown.replace("\r", "").splitlines()]
        assert all(
            any(line.startswith(job) for line in plain) for job in past.ids("--state", "failed")
        )
        if columns >= 80:
            assert max(map(len, plain)) <= columns
    _, shown = typed(past, "", "failed", columns=columns)
    plain = [_plain(line) for line in shown.replace("\r", "").splitlines()]
    assert any(re.match(r" +3  .* boom", line) for line in plain)
    if columns >= 80:
        assert max(map(len, plain)) <= columns


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", line)


# -- deleting, and writing to a file


def test_export_to_a_file_and_to_stdout(ground: Ground) -> None:
    done = ground.shop("failed", "export", "failed.jsonl", "--task", "boom")
    assert (done.code, done.out) == (0, "wrote 3 failed jobs to failed.jsonl\n")
    lines = (ground.folder / "failed.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["task"] for line in lines} == {"boom"}
    streamed = ground.shop("failed", "export", "-", "--task", "boom")
    assert streamed.out.splitlines() == lines
    again = ground.shop("failed", "export", "failed.jsonl")
    assert (again.code, again.complaint) == (
        2,
        "there is a file failed.jsonl already; --force replaces it",
    )
    forced = ground.shop("failed", "export", "failed.jsonl", "--force", "--json").document
    assert forced == {"action": "export", "exported": 6, "file": "failed.jsonl"}
    whole = (ground.folder / "failed.jsonl").read_text("utf-8")
    assert "s3cret" not in whole
    assert "bob:pw" not in whole
    assert ground.shop("failed", "export", "nowhere/failed.jsonl").code == 74


@pytest.mark.parametrize("words", [(), ("--older-than", "0")])
def test_prune_of_everything_must_be_meant(ground: Ground, words: tuple[str, ...]) -> None:
    refused = ground.shop("failed", "prune", *words, "--yes")
    assert refused.code == 2
    assert "--all" in refused.complaint
    assert len(ground.ids()) == 7


def test_prune_by_filters(ground: Ground) -> None:
    words = ("failed", "prune", "--task", "boom")
    assert ground.shop(*words, "--older-than", "1h").out == "deleted 0 failed jobs\n"
    assert ground.shop(*words, "--dry-run").out == "would delete 3 failed jobs\n"
    assert len(ground.ids()) == 7
    done = ground.shop(*words, "--yes", "--json", "--export", "boom.jsonl").document
    assert done == {"action": "prune", "dry_run": False, "pruned": 3, "kept": {}}
    assert len((ground.folder / "boom.jsonl").read_text().splitlines()) == 3
    assert len(ground.ids()) == 4
    again = ground.shop("failed", "prune", "--all", "--yes", "--export", "boom.jsonl")
    assert (again.code, len(ground.ids())) == (2, 4)
    assert "boom.jsonl" in again.complaint
    assert ground.shop("failed", "prune", "--all", "--older-than", "0", "--yes").code == 0
    assert ground.shop("failed").out == "no failed jobs\n"
    assert len(ground.ids()) == 1


@pytest.mark.parametrize(
    "words", [("--older-than", "old"), ("--since", "x"), ("--all", "--task", "boom")]
)
def test_prune_that_cannot_be_changes_nothing(ground: Ground, words: tuple[str, ...]) -> None:
    refused = ground.shop("failed", "prune", "--yes", *words)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert len(ground.ids()) == 7
