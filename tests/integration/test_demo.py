"""The demo: its store alone, its proof alone, then the whole of it with real processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from failbetter.demo import corpus, faults
from failbetter.demo.client import Objects, RateLimited, Refused, StoreDown, StoreError
from failbetter.demo.faults import StoreFaults
from failbetter.demo.murphy import Deed, Murphy, Strike
from failbetter.demo.processes import StoreProcess, hermetic
from failbetter.demo.proof import Check, Evidence, Story, prove
from failbetter.demo.run import run_demo
from failbetter.demo.screen import Event, FailedGroup, Frame, Lively, Plain

StartStore = Callable[[StoreFaults], StoreProcess]


@pytest.fixture
def start_store(tmp_path: Path) -> Iterator[StartStore]:
    started: list[StoreProcess] = []

    def start(faults: StoreFaults) -> StoreProcess:
        started.append(StoreProcess(tmp_path / "store", faults, tmp_path / "store.log"))
        return started[-1]

    yield start
    for store in started:
        store.stop()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put(objects: Objects, name: str, body: bytes, key: str | None = None) -> bool:
    return objects.put(name, body, sha256(body), key or f"upload {name}")


# The store


def test_the_store_keeps_what_it_is_given(start_store: StartStore, tmp_path: Path) -> None:
    objects = start_store(StoreFaults()).objects

    assert put(objects, "folder/a file.py", b"body")

    assert objects.get("folder/a file.py") == b"body"
    assert objects.head("folder/a file.py") == sha256(b"body")
    assert objects.listing("folder/") == [
        {"name": "folder/a file.py", "size": 4, "sha256": sha256(b"body")}
    ]
    assert objects.listing("elsewhere") == []
    assert (tmp_path / "store/objects/folder/a file.py").read_bytes() == b"body"
    with pytest.raises(StoreError, match="404"):
        objects.get("never stored")


def test_the_store_refuses_bytes_that_do_not_match_their_hash(start_store: StartStore) -> None:
    objects = start_store(StoreFaults()).objects

    with pytest.raises(StoreError, match="400 X-Content-SHA256"):
        objects.put("a", b"body", sha256(b"other"), "key")

    assert objects.listing() == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "nul\0"])
def test_no_name_leads_out_of_the_stores_folder(
    start_store: StartStore, tmp_path: Path, name: str
) -> None:
    objects = start_store(StoreFaults()).objects

    with pytest.raises(StoreError, match="400 not an object name"):
        put(objects, name, b"body")

    assert not list(tmp_path.rglob("outside"))


def test_a_repeated_upload_is_known_by_its_key(start_store: StartStore) -> None:
    store = start_store(StoreFaults())

    assert put(store.objects, "a", b"body", "key")
    assert not put(store.objects, "a", b"body", "key")
    with pytest.raises(StoreError, match="409"):
        put(store.objects, "a", b"other body", "key")

    assert store.objects.get("a") == b"body"
    assert store.office.deliveries() == {
        "key": {"name": "a", "sha256": sha256(b"body"), "stored": 1, "repeated": 1}
    }


def test_a_receipt_given_twice_shows(start_store: StartStore, tmp_path: Path) -> None:
    office = start_store(StoreFaults()).office

    office.receipt("a", "hash", "key")
    office.receipt("a", "hash", "key")

    twice = [{"key": "key", "name": "a", "sha256": "hash"}] * 2
    assert office.receipts() == twice
    lines = (tmp_path / "store/receipts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == twice


def test_the_store_refuses_and_limits_as_planned(start_store: StartStore) -> None:
    store = start_store(
        StoreFaults(limited_share=1.0, retry_after=7, refused={"bad": (422, "looks bad")})
    )

    with pytest.raises(RateLimited) as limited:
        put(store.objects, "good", b"body")
    assert limited.value.retry_after == 7
    assert put(store.objects, "good", b"body"), "only the first upload is limited"
    for _ in range(2):
        with pytest.raises(Refused, match="422 looks bad"):
            put(store.objects, "bad", b"body")

    status = store.office.status()
    assert (status["limited"], status["refused"], status["stored"]) == (1, 2, 1)


def test_the_same_seed_limits_the_same_objects() -> None:
    names = [f"file {number}" for number in range(1000)]

    def limited(seed: int) -> list[str]:
        return [name for name in names if StoreFaults(seed, limited_share=0.1).limits(name)]

    assert limited(1) == limited(1)
    assert limited(1) != limited(2)
    assert 60 < len(limited(1)) < 140


@pytest.mark.parametrize(
    ("kind", "words"), [("closed", "connection refused"), ("unavailable", "503")]
)
def test_the_store_goes_away_and_comes_back(start_store: StartStore, kind: str, words: str) -> None:
    store = start_store(StoreFaults(outage_after=2, outage_seconds=0.6, outage_kind=kind))
    for name in ("a", "b"):
        put(store.objects, name, b"body")

    went = came_back = False
    until = time.monotonic() + 10
    while not came_back and time.monotonic() < until:
        try:
            put(store.objects, "a", b"body")
            came_back = went
        except StoreDown as error:
            went = went or words in str(error)
        store.office.status()  # the office is never out

    assert went
    assert came_back
    status = store.office.status()
    assert not status["out"]
    assert [outage["after"] for outage in status["outages"]] == [2]
    assert status["outages"][0]["seconds"] >= 0.6
    assert len(store.objects.listing()) == 2


def test_an_outage_ends_when_the_store_is_repaired(start_store: StartStore) -> None:
    store = start_store(StoreFaults(outage_after=1, outage_seconds=3600))
    put(store.objects, "a", b"body")
    wait_until(lambda: store.office.status()["out"])
    with pytest.raises(StoreDown):
        while True:  # what was connecting when the door shut may have slipped in
            store.objects.get("a")

    store.office.repair()

    wait_until(lambda: not store.office.status()["out"])
    assert store.objects.get("a") == b"body"


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_held_upload_is_stored_but_not_answered(start_store: StartStore) -> None:
    store = start_store(StoreFaults())
    store.office.hold()
    script = (
        "import sys; from failbetter.demo.client import Objects;"
        f"Objects(sys.argv[1]).put('a', b'body', {sha256(b'body')!r}, 'key')"
    )
    command = [sys.executable, "-c", script, store.objects.address]
    with subprocess.Popen(command) as client:
        until = time.monotonic() + 20
        while not (held := store.office.status()["held"]) and time.monotonic() < until:
            time.sleep(0.01)
        assert held == [{"name": "a", "pid": client.pid}]
        assert store.objects.get("a") == b"body"
        client.send_signal(signal.SIGKILL)  # as Murphy does
    store.office.release()

    assert not put(store.objects, "a", b"body", "key"), "the repeat is known by its key"


def test_the_store_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from failbetter.demo.processes import StoreProcess;"
        "from failbetter.demo.faults import StoreFaults; here = Path(sys.argv[1]);"
        "store = StoreProcess(here / 'store', StoreFaults(), here / 'log');"
        "print(store._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    wait_for_end(int(done.stdout))


def wait_for_end(pid: int) -> None:
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        pass


# The choice of files and faults


def test_the_same_seed_chooses_the_same_files_and_faults() -> None:
    first, second, other = (corpus.choose(None, seed) for seed in (1, 1, 2))

    assert first == second
    assert list(first.files) != list(other.files)
    assert 40 <= len(first.files) <= corpus.MOST_FILES
    assert 0 < first.size <= corpus.MOST_BYTES
    names = list(first.files)
    assert faults.plan(names, 1) == faults.plan(names, 1)
    plan = faults.plan(names, 1)
    assert plan.complete
    assert plan.poison not in plan.refused
    assert len(plan.expected(names)) == len(names) - 1 - len(plan.refused)
    assert StoreFaults.from_json(plan.store.to_json()) == plan.store


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_few_files_are_planned_for_too(count: int) -> None:
    names = [str(number) for number in range(count)]
    plan = faults.plan(names, 1)
    assert not plan.complete
    assert plan.expected(names)


def test_files_that_cannot_be_taken_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/good").write_bytes(b"good")
    (tmp_path / "link").symlink_to("sub/good")
    (tmp_path / ".hidden").write_bytes(b"hidden")
    (tmp_path / "large").write_bytes(bytes(corpus.LARGEST_FILE + 1))
    (tmp_path / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"oddly named")

    assert corpus.choose(tmp_path, 1).files == {"sub/good": 4}


def test_nothing_to_back_up_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(tmp_path / "missing", seed=1, json=True, keep=None) == 66
    assert run_demo(tmp_path, seed=1, json=False, keep=None) == 66

    said = capsys.readouterr()
    assert said.out == ""
    assert "no such folder" in said.err
    assert "no readable file" in said.err


def test_a_folder_with_something_in_it_is_not_kept_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    assert run_demo(None, seed=1, json=False, keep=tmp_path) == 73

    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_workers_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILBETTER_URL", "postgresql://production")
    monkeypatch.setenv("FAILBETTER_FAULT", "after_claim:1")
    monkeypatch.setenv("DEMO_POISON", "everything")

    environment = hermetic({"FAILBETTER_URL": "sqlite:///here.db"})

    assert environment["FAILBETTER_URL"] == "sqlite:///here.db"
    assert "FAILBETTER_FAULT" not in environment
    assert "DEMO_POISON" not in environment
    assert environment["PATH"] == os.environ["PATH"]


# The proof


@pytest.fixture
def evidence(start_store: StartStore, tmp_path: Path) -> Evidence:
    """What a demo that went well leaves: seven good files, one refused, one poison."""
    source = tmp_path / "source"
    source.mkdir()
    names = [f"f{number}" for number in range(9)]
    for name in names:
        (source / name).write_bytes(name.encode() * 100)
    plan = faults.plan(names, 1)
    assert plan.poison is not None
    chosen = corpus.choose(source, 1)
    store = start_store(StoreFaults())
    stories = {}
    for name in plan.expected(names):
        body = zlib.compress(chosen.read(name))
        put(store.objects, name, body)
        store.office.receipt(name, sha256(body), name)
        stories[name] = Story("succeeded", None, ("returned",), ("",))
    for name, (status, words) in plan.store.refused.items():
        said = f"refused by the store: {status} {words}"
        stories[name] = Story("failed", "by_task", ("failed_by_task",), (said,))
    killed = ("killed by signal 9 (SIGKILL)",) * 3
    stories[plan.poison] = Story("failed", "crashed", ("crashed",) * 3, killed)
    child, worker = plan.expected(names)[:2]
    stories[child] = Story("succeeded", None, ("crashed", "returned"), (killed[0], ""))
    stories[worker] = Story("succeeded", None, ("lost", "returned"), ("worker died", ""))
    return Evidence(
        corpus=chosen,
        plan=plan,
        stories=stories,
        counts={"pending": 0, "running": 0, "succeeded": 7, "failed": 2, "discarded": 0},
        deliveries=store.office.deliveries(),
        receipts=store.office.receipts(),
        status=store.office.status(),
        strikes=[
            Strike(Deed.KILL_CHILD, 1, 1, (child,)),
            Strike(Deed.KILL_WORKER, 2, 2, (worker,)),
        ],
        retried=[child],
        worker_exit=0,
        objects=store.objects,
    )


def failing(checks: list[Check]) -> list[str]:
    return [check.claim.split(":")[0].split(",")[0] for check in checks if not check.holds]


def test_a_good_demo_is_proven(evidence: Evidence) -> None:
    checks = prove(evidence)
    assert failing(checks) == []
    assert len(checks) == 8


def test_one_wrong_byte_is_found(evidence: Evidence, tmp_path: Path) -> None:
    name = evidence.expected[3]
    (tmp_path / "store/objects" / name).write_bytes(zlib.compress(b"wrong"))
    [check] = [check for check in prove(evidence) if not check.holds]
    assert check.problems == (f"{name}: the bytes differ",)


@pytest.mark.parametrize("damage", [b"", b"not zlib at all"])
def test_a_damaged_object_is_found(evidence: Evidence, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "store/objects" / evidence.expected[0]).write_bytes(damage)
    assert failing(prove(evidence)) == ["every file's bytes in the store equal the source's"]


def test_a_missing_object_is_found(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "store/objects" / evidence.expected[0]).unlink()
    assert failing(prove(evidence)) == ["every file's bytes in the store equal the source's"]


def test_an_effect_that_happened_twice_or_never_is_found(evidence: Evidence) -> None:
    once = evidence.receipts
    for receipts in ([*once, once[0]], once[1:]):
        evidence.receipts = receipts
        assert failing(prove(evidence)) == ["each effect once"]


def test_an_object_stored_under_two_keys_is_found(evidence: Evidence) -> None:
    again = {"name": evidence.expected[0], "sha256": "", "stored": 1, "repeated": 0}
    evidence.deliveries = {**evidence.deliveries, "another key": again}
    assert failing(prove(evidence)) == ["each object stored once"]


def test_a_job_without_its_evidence_is_found(evidence: Evidence) -> None:
    poison, [refused] = str(evidence.plan.poison), evidence.plan.refused
    good = dict(evidence.stories)
    wrong = {
        poison: [
            Story("failed", "error", ("crashed",) * 3, ("killed by signal 9",) * 3),
            Story("failed", "crashed", ("crashed",) * 4, ("killed by signal 9",) * 4),
            Story("failed", "crashed", ("crashed",) * 3, ("too many attempts",) * 3),
            Story("failed", "crashed", (), ()),
            Story("running", None, ("crashed",), ("killed by signal 9",)),
        ],
        refused: [
            Story("failed", "error", good[refused].causes, good[refused].messages),
            Story("failed", "by_task", good[refused].causes, ("failed",)),
            Story("failed", "by_task", ("failed_by_task",) * 2, good[refused].messages * 2),
            Story("failed", "by_task", (), ()),
        ],
        evidence.expected[0]: [
            Story("failed", "crashed", ("crashed",), ("killed by signal 9",)),
        ],
        evidence.expected[1]: [
            Story("succeeded", None, ("returned",), ("",)),  # where is the worker's death?
        ],
    }
    for name, stories in wrong.items():
        for told in stories:
            evidence.stories = {**good, name: told}
            assert failing(prove(evidence)), told


@pytest.mark.parametrize(
    "counts",
    [
        {"pending": 1, "succeeded": 6, "failed": 2},
        {"running": 1, "succeeded": 6, "failed": 2},
        {"succeeded": 6, "failed": 2},
        {"succeeded": 7, "failed": 2, "discarded": 1},
    ],
)
def test_a_job_that_is_left_or_lost_is_found(evidence: Evidence, counts: dict[str, int]) -> None:
    evidence.counts = counts
    assert failing(prove(evidence)) == ["nothing running"]


def test_a_worker_that_did_not_stop_gracefully_is_found(evidence: Evidence) -> None:
    for code in (None, 1, -signal.SIGKILL):
        evidence.worker_exit = code
        assert failing(prove(evidence)) == ["nothing running"]


# Murphy


class Office:
    def __init__(self) -> None:
        self.said: list[str] = []

    def hold(self) -> None:
        self.said.append("hold")

    def release(self) -> None:
        self.said.append("release")


class Worker:
    processes = 2

    def __init__(self) -> None:
        self.killed: list[str | int] = []

    def ended(self) -> int | None:
        return None

    def children(self) -> set[int]:
        return {11, 12}

    def kill(self) -> int:
        self.killed.append("worker")
        return 1

    def kill_child(self, pid: int) -> bool:
        self.killed.append(pid)
        return True


def held(*pids: int) -> dict[str, Any]:
    return {"stored": 9, "out": False, "held": [{"pid": pid, "name": f"f{pid}"} for pid in pids]}


def make_murphy(deed: Deed) -> tuple[Murphy, Worker, Office, list[float]]:
    worker, office, now = Worker(), Office(), [0.0]
    murphy = Murphy(worker, office, [(5, deed)], clock=lambda: now[0])  # type: ignore[arg-type]
    return murphy, worker, office, now


def test_murphy_waits_for_the_worst_moment() -> None:
    murphy, worker, office, _ = make_murphy(Deed.KILL_WORKER)

    assert murphy.tick({**held(), "stored": 4}) is None
    assert murphy.tick({**held(), "out": True}) is None
    assert office.said == []
    assert murphy.tick(held()) is None
    assert office.said == ["hold"]
    assert murphy.tick(held(11)) is None
    assert worker.killed == []
    assert murphy.tick(held(11, 12)) == Strike(Deed.KILL_WORKER, 1, 9, ("f11", "f12"))
    assert (worker.killed, office.said) == (["worker"], ["hold", "release"])
    assert murphy.tick(held(11, 12)) is None, "once is enough"


def test_murphy_kills_none_but_the_workers_own() -> None:
    murphy, worker, office, now = make_murphy(Deed.KILL_CHILD)
    murphy.tick(held())

    assert murphy.tick(held(4711)) is None
    now[0] = 60.0  # out of patience
    assert murphy.tick(held(4711)) is None
    assert (worker.killed, office.said) == ([], ["hold", "release"])

    murphy.tick(held())
    assert murphy.tick(held(4711, 12)) == Strike(Deed.KILL_CHILD, 12, 9, ("f12",))
    assert worker.killed == [12]


# The screen


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [40, 120])
def test_the_screen_shows_what_happens(terminal: bool, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None)
    screen = Lively(console) if terminal else Plain(console)
    group = FailedGroup(7, "error", "[/b] StoreDown: markup is no markup here", "a/b.py")
    store = {"out": True, "stored": 1, "limited": 2, "refused": 3, "repeated": 4}

    screen.heading("failbetter demo", "8 files")
    screen.event(Event(1.0, "murphy", "SIGKILL [/x] to all"))
    screen.frame(Frame(1.5, "backing up", 8, {"succeeded": 1, "failed": 7}, store, [group]))
    screen.groups("failed", [group])
    screen.groups("still failed", [])
    screen.proof([Check("all is well", "1 of 2", ("something is wrong",) * 9)], "NOT PROVEN")
    screen.close()
    screen.close()

    shown = out.getvalue()
    for words in ("failbetter demo", "SIGKILL [/x]", "backing up", "[/b]", "NOT PROVEN"):
        assert words in shown
    assert "still failed: nothing" in shown
    assert shown.count("something is wrong") == 5
    assert "and 4 more" in shown


# The whole demo


def demo_processes(place: Path) -> list[psutil.Process]:
    """Every process that works for a demo in `place`, found by its environment or arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(place) in word for word in words):
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_the_whole_demo_on_the_standard_library(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "failbetter.demo", "--json", "--seed", "7"]
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, check=False
    )
    took = time.monotonic() - began

    document = json.loads(done.stdout)
    assert [check for check in document["proof"] if not check["holds"]] == []
    assert (done.returncode, done.stderr, document["ok"]) == (0, b"", True)
    assert took < 60

    chosen, refused = document["files"]["chosen"], len(document["files"]["refused"])
    good = chosen - refused - 1
    assert chosen == corpus.MOST_FILES
    assert refused == 5
    assert document["jobs"] == {
        "pending": 0, "running": 0, "succeeded": good, "failed": refused + 1, "discarded": 0,
    }  # fmt: skip
    store = document["store"]
    assert store["stored"] == store["receipts"] == good
    assert store["repeated"] >= 2  # both of Murphy's kills came between the deed and its record
    assert store["limited"] > 5
    assert store["outages"][0]["seconds"] >= 4
    assert [strike["deed"] for strike in document["murphy"]] == ["kill child", "kill worker"]
    assert document["worker_starts"] == 2
    assert document["retried"] >= 3

    def jobs_by_reason(groups: list[dict[str, Any]]) -> Counter[str]:
        return sum((Counter({group["reason"]: group["count"]}) for group in groups), Counter())

    before = jobs_by_reason(document["failed_before_retry"])
    assert before["error"] == document["retried"]
    assert before["crashed"] == 1
    assert 1 <= before["by_task"] <= refused  # the others met the outage first
    assert jobs_by_reason(document["failed_at_end"]) == {"by_task": refused, "crashed": 1}

    assert list(tmp_path.iterdir()) == []
    assert demo_processes(tmp_path) == []


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(48):
        (folder / f"file {number:02}.txt").write_text(f"{number}\n" * 500)
    return folder


@pytest.mark.slow
@pytest.mark.alone
def test_the_proof_of_a_whole_demo_can_fail(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered: list[str] = []

    def tamper(place: Path) -> None:
        victim = min((place / "store/objects").iterdir())
        victim.write_bytes(zlib.compress(b"something else"))
        tampered.append(victim.name)

    keep = tmp_path / "kept"
    code = run_demo(small_folder, seed=3, json=True, keep=keep, before_proof=tamper)

    assert code == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"]
    [check] = [check for check in document["proof"] if not check["holds"]]
    assert check["problems"] == [f"{tampered[0]}: the bytes differ"]
    assert (keep / "ledger.db").is_file()
    assert demo_processes(keep) == []


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(
    small_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "failbetter.demo", str(small_folder)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if "SIGKILL to child" in line:
                break
        assert len(demo_processes(temporary)) >= 3  # store, supervisor, children
        demo.send_signal(number)
        rest, said = demo.communicate(timeout=30)

    assert demo.returncode == 128 + number
    assert f"stopped by {number.name}" in said
    assert "the proof" not in rest
    assert list(temporary.iterdir()) == []
    assert demo_processes(temporary) == []
