"""examples/mirror, run as its README says, and killed at random while it mirrors 40 repositories.

Everything is real: git, the web server, its worker, the entrypoint. The seed of the kills is
printed, and FAILBETTER_TEST_SEED replays the same choices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from tests.docs.pages import agrees, blocks, commands
from tests.faults.harness import PATIENCE, ROOT, wait_until

import failbetter

EXAMPLE = ROOT / "examples" / "mirror"
OWNERS = ("ada", "grace")
AT_ONCE = 4  # repositories of a job
GIT = shutil.which("git") or "git"

# Of the two runs: when the mirrors are made, and when they are updated.
KILLS = {
    "sqlite": (["child", "child", "supervisor", "all", "all"], ["child", "supervisor", "all"]),
    "postgresql": (["child", "all"], ["supervisor"]),
}

# Stands before git, and makes one in five slow. An independent witness of what works on a mirror:
# the lock is inherited by all that git starts, and is free when the last of it is dead.
WITNESS = """#!/bin/sh
case "$*" in
    *"clone --mirror"* | *"remote update"*) ;;
    *) exec {git} "$@" ;;
esac
name=$(printf %s "$*" | grep -oE '[a-z]+/paper-[0-9]+' | tail -n 1 | tr / -)
exec 9>>"{folder}/$name.witness"
flock -n 9 || echo "twice $name" >>"{folder}/git.log"
echo "begin $name" >>"{folder}/git.log"
case $name in *[05]) sleep {long} ;; *) sleep {pause} ;; esac
exec {git} "$@"
"""
# Sends the first half of what git fetches, so that kills strike in the middle of a transfer.
SLOW_PACK = """#!/bin/sh
"$@" | {{ dd bs=8192 count=2 iflag=fullblock 2>/dev/null; sleep {pause}; cat; }}
"""


class Example:
    """The example in a folder of its own; started as often as need be, on one socket."""

    def __init__(self, folder: Path, url: str | None = None, pause: float = 0.0) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.url = url or f"sqlite:///{self.home / 'jobs.db'}"
        self.git_log = folder / "git.log"
        self.git_log.touch()
        self.output = folder / "site.log"
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.app = failbetter.App(self.url)
        self.process: subprocess.Popen[bytes] | None = None
        self._put_before_git(pause)

    def _put_before_git(self, pause: float) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        fill = {"git": GIT, "folder": self.folder, "pause": pause, "long": 20 * pause}
        for name, text in (("git", WITNESS), ("slow-pack", SLOW_PACK)):
            (programs / name).write_text(text.format(**fill))
            (programs / name).chmod(0o755)
        settings = f"[uploadpack]\n packObjectsHook = {programs / 'slow-pack'}\n"
        (self.folder / "gitconfig").write_text(settings if pause else "")

    def environment(self) -> dict[str, str]:
        """As the example is started with."""
        python = Path(sys.executable).parent
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{python}:{os.environ['PATH']}",
            "PYTHONPATH": f"{EXAMPLE}:{ROOT / 'src'}",
            "MIRROR_HOME": str(self.home),
            "COLUMNS": "100",
            "FAILBETTER_URL": self.url,
            "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
        }

    def run(self, *command: str) -> str:
        """Run a command of the example to its good end; what it printed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make(self, *arguments: str) -> str:
        """Run make_repositories.py."""
        return self.run("python", str(EXAMPLE / "make_repositories.py"), *arguments)

    def start(self) -> None:
        """Start it. A request may be sent at once: it waits on the socket."""
        with self.output.open("ab") as sink:
            self.process = subprocess.Popen(
                [str(EXAMPLE / "run.sh"), "--fd", str(self.listening.fileno())],
                env=self.environment(),
                pass_fds=[self.listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    # -- asked as a browser would

    def get(self, path: str) -> requests.Response:
        """Ask for a path, of which only the answer counts."""
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE)

    def press(self, action: str) -> int:
        """Press a button; the status of the page that follows."""
        url = f"http://127.0.0.1:{self.port}{action}"
        return requests.post(url, timeout=PATIENCE).status_code

    def mirror_all(self) -> None:
        """Press the button of every owner."""
        for owner in OWNERS:
            assert self.press(f"/mirror/{owner}") == 200

    # -- its processes

    def supervisor(self) -> psutil.Process | None:
        """The worker of the site, if it lives."""
        assert self.process is not None
        return next(iter(_children(self.process.pid, "failbetter.worker")), None)

    def children(self) -> list[psutil.Process]:
        """The worker's children."""
        found = self.supervisor()
        return [] if found is None else _children(found.pid, "failbetter.worker.child")

    def stop(self) -> int:
        """SIGTERM, as a container's end; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Kill all that is left of it."""
        mine = str(self.home)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MIRROR_HOME") == mine and process.pid != os.getpid():
                    process.kill()
        if self.process is not None:
            self.process.wait(PATIENCE)
        self.listening.close()
        self.app.close()

    # -- what must be so

    def live(self) -> bool:
        """Whether a job is."""
        return any(not job.over for job in self.app.jobs)

    def begun(self, *, slow: bool = False) -> int:
        """How many gits have begun so far; or only those that take their time."""
        last = "[05]" if slow else "."
        return len(re.findall(f"^begin .*{last}$", self.git_log.read_text(), re.MULTILINE))

    def sources(self) -> list[Path]:
        """What is to be mirrored."""
        return sorted((self.home / "sources").glob("*/*.git"))

    def mirror_of(self, source: Path) -> Path:
        """Where its mirror is."""
        return self.home / "mirrors" / source.parent.name / source.name

    def check_mirrors(self) -> None:
        """Every repository is mirrored, whole and as it is, and nothing else lies about."""
        for source in self.sources():
            mirror = self.mirror_of(source)
            assert refs(mirror) == refs(source), source
            fsck = subprocess.run(
                [GIT, "-C", str(mirror), "fsck", "--full", "--strict", "--no-dangling"],
                capture_output=True,
                text=True,
            )
            assert (fsck.returncode, fsck.stdout + fsck.stderr) == (0, ""), mirror
            assert list(mirror.rglob("*.lock")) == []
        mirrors = self.home / "mirrors"
        assert sorted(mirrors.glob("*/*.git")) == [self.mirror_of(one) for one in self.sources()]
        assert list(mirrors.glob("*/*.partial")) == []


def _children(pid: int, module: str = "") -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                living = process.status() != psutil.STATUS_ZOMBIE
                if living and (not module or module in process.cmdline()):
                    found.append(process)
    return found


def refs(repository: Path) -> str:
    """All refs and what they are."""
    command = [GIT, "-C", str(repository), "for-each-ref", "--format=%(refname) %(objectname)"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "refs/heads/main" in said
    return said


class Visitor(threading.Thread):
    """Looks at the page and the endpoints all the time."""

    ROW = re.compile(r'<tr id="(\w+)"><td>(\w+)</td>.*?</tr>', re.DOTALL)
    BAR = re.compile(r'<progress value="(\d+)" max="(\d+)"></progress> \1 of \2')

    def __init__(self, example: Example) -> None:
        super().__init__(daemon=True)
        self.example = example
        self.rng = random.Random(0)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.seen: dict[str, int] = {}
        self.steps = 0
        self.wrong: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            for path in ("/", self.rng.choice(["/health", "/readyz", "/livez"])):
                try:
                    answer = self.example.get(path)
                except requests.ConnectionError:
                    continue  # whoever was to answer was killed
                self.answers[path, answer.status_code] += 1
                if path == "/" and answer.status_code == 200:
                    self._compare(answer.text)

    def _compare(self, page: str) -> None:
        for job, done, _ in self.progress(page):
            before = self.seen.get(job, 0)
            if done < before:
                self.wrong.append(f"job {job} went from {before} back to {done}")
            self.steps += done > before
            self.seen[job] = max(done, before)

    @classmethod
    def progress(cls, page: str) -> list[tuple[str, int, int]]:
        """Each job on the page that has begun, how many are done, and of how many."""
        found = []
        for row in cls.ROW.finditer(page):
            if bar := cls.BAR.search(row[0]):
                found.append((row[1], int(bar[1]), int(bar[2])))
        return found

    def end(self) -> None:
        """No more visits."""
        self._over.set()
        self.join(PATIENCE)


class Murderer:
    """Kills what it is told to, always while some git works."""

    def __init__(self, example: Example, rng: random.Random) -> None:
        self.example = example
        self.rng = rng
        self.done: Counter[str] = Counter()

    def strike(self, whom: str) -> None:
        """Wait for a slow git to begin, for a moment more, and kill: what then is left of it would
        live for longer than its job takes to be handed back.
        """
        seen = self.example.begun(slow=True)

        def is_at_work() -> bool:
            if not self.example.live():
                self.example.mirror_all()
            return self.example.begun(slow=True) > seen and bool(self._victims(whom))

        wait_until(is_at_work, f"git to be at work for {whom}")
        time.sleep(self.rng.uniform(0, 0.5))
        for victim in self._victims(whom):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                self.done[whom] += 1
        if whom == "all":
            assert self.example.process is not None
            self.example.process.wait(PATIENCE)
            self.example.start()

    def _victims(self, whom: str) -> list[psutil.Process]:
        """Never git itself: those that an attempt leaves behind are for the recovery to find."""
        supervisor, children = self.example.supervisor(), self.example.children()
        if supervisor is None or not children:
            return []
        if whom == "child":
            busy = [child for child in children if _children(child.pid)]
            return [self.rng.choice(busy)] if busy else []
        if whom == "supervisor":
            return [supervisor]
        assert self.example.process is not None
        found = [psutil.Process(self.example.process.pid), supervisor, *children]
        self.rng.shuffle(found)
        return found


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 repositories, made once."""
    folder = tmp_path_factory.mktemp("forty")
    maker = Example(folder)
    said = maker.make("--kilobytes", "40")
    maker.close()
    assert said.startswith("made 40 repositories in ")
    return maker.home / "sources"


@pytest.fixture
def start(tmp_path: Path, forty: Path) -> Iterator[Callable[..., Example]]:
    """Starts the example on copies of so many of the repositories."""
    made = []

    def begin(count: int, url: str | None = None, pause: float = 0.0) -> Example:
        example = Example(tmp_path, url, pause)
        made.append(example)
        for owner in OWNERS:
            for source in sorted((forty / owner).iterdir())[: count // len(OWNERS)]:
                shutil.copytree(source, example.home / "sources" / owner / source.name)
        return example

    yield begin
    for each in made:
        each.close()


@pytest.mark.timeout(240)
def test_it_is_killed_at_random_and_every_repository_is_mirrored(
    new_ledger: Callable[[Path], str], tmp_path: Path, start: Callable[..., Example]
) -> None:
    seed = int(os.environ.get("FAILBETTER_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"FAILBETTER_TEST_SEED={seed}")
    rng = random.Random(seed)
    example = start(40, new_ledger(tmp_path), pause=0.1)
    example.start()
    visitor = Visitor(example)
    visitor.start()
    murderer = Murderer(example, rng)
    for whom in KILLS[example.url.partition(":")[0].partition("+")[0]]:
        if murderer.done:  # the mirrors are made; now they are updated
            assert example.make("--change").startswith("changed 40 repositories")
        example.mirror_all()
        for one in rng.sample(whom, len(whom)):
            murderer.strike(one)
        wait_until(lambda: not example.live(), "the jobs to end", 60)
        example.check_mirrors()
    page = example.get("/").text
    visitor.end()
    print(f"{dict(murderer.done)}; visits {dict(visitor.answers)}; {visitor.steps} steps")
    check_jobs(example, visitor, page)
    assert example.stop() in (0, -signal.SIGTERM)  # uvicorn has its ways of ending


def check_jobs(example: Example, visitor: Visitor, page: str) -> None:
    """What must be so after any kills."""
    jobs = list(example.app.jobs)
    assert [(job.state, job.reason) for job in jobs] == [("succeeded", None)] * len(jobs)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    causes = Counter(attempt.cause for attempt in attempts)
    print(f"{len(jobs)} jobs, attempts {dict(causes)}, {example.begun()} gits")
    # The example's own lock was never found taken, nor the witness's.
    assert set(causes) <= {"returned", "crashed", "lost", "interrupted"}
    assert "twice" not in example.git_log.read_text()
    # What was interrupted went on where it was: a death costs what was under way, and no more.
    deaths = len(attempts) - causes["returned"]
    assert deaths >= 2
    assert 20 * len(jobs) <= example.begun() <= 20 * len(jobs) + AT_ONCE * deaths
    # What a visitor saw meanwhile.
    assert visitor.wrong == []
    assert visitor.steps > 40
    statuses = {path: {code for seen, code in visitor.answers if seen == path} for path in "/"}
    assert statuses == {"/": {200}}
    for path, codes in (("/health", {200}), ("/livez", {200}), ("/readyz", {200, 503})):
        assert {code for seen, code in visitor.answers if seen == path} <= codes
        assert visitor.answers[path, 200] > 10
    # And at the end.
    assert sorted(Visitor.progress(page)) == sorted((job.id, 20, 20) for job in jobs[:20])


def test_one_bad_repository_is_named_and_the_others_are_mirrored(
    start: Callable[..., Example],
) -> None:
    example = start(6)
    example.start()
    bad = example.sources()[1]
    bad.joinpath("HEAD").rename(bad / "aside")
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    (job,) = example.app.failed
    assert (job.reason, job.args) == ("partial", {"owner": "ada"})
    page = example.get("/").text
    assert sorted(done for _, done, _ in Visitor.progress(page)) == [2, 3]
    assert f"2 of 3, 1 failed<small>{bad.name}: fatal: " in page
    bad.joinpath("aside").rename(bad / "HEAD")
    assert f'action="/retry/{job.id}"' in page
    before = example.begun()
    assert example.press(f"/retry/{job.id}") == 200
    assert job.result(PATIENCE) == 3
    assert example.begun() == before + 1  # the one that had failed
    example.check_mirrors()


def test_what_a_killed_git_left_behind_is_cleared_away(start: Callable[..., Example]) -> None:
    example = start(4)
    example.start()
    whole, half, *_ = example.sources()
    partial = example.mirror_of(half).with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "HEAD").write_text("nonsense")
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    example.make("--change")
    for name in ("packed-refs.lock", "refs/heads/main.lock", "HEAD.lock", "config.lock"):
        (example.mirror_of(whole) / name).parent.mkdir(parents=True, exist_ok=True)
        (example.mirror_of(whole) / name).touch()
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    assert example.app.failed.count() == 0
    example.check_mirrors()


def test_a_mirror_that_is_in_use_is_left_alone(start: Callable[..., Example]) -> None:
    example = start(2)
    source, _ = example.sources()
    mirror = example.mirror_of(source)
    mirror.parent.mkdir(parents=True)
    example.start()
    with mirror.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        example.press("/mirror/ada")
        (job,) = example.app.jobs
        wait_until(lambda: job.attempts, "an attempt")
        assert [attempt.cause for attempt in job.attempts] == ["released"]
        assert "another git works on" in (job.refresh().error_message or "")
        assert "ada" not in example.git_log.read_text()


def test_what_is_asked_for_in_vain_is_said(start: Callable[..., Example]) -> None:
    example = start(2)
    example.start()
    assert example.press("/mirror/eve") == 404
    assert example.press("/retry/nonsense") == 404
    assert example.press(f"/retry/{'0' * 13}") == 404
    example.press("/mirror/ada")
    (job,) = example.app.jobs
    assert job.result(PATIENCE) == 1
    assert example.press(f"/retry/{job.id}") == 409
    unknown = example.app.job(_enqueue(example, "../../etc"))
    wait_until(lambda: unknown.refresh().over, "its end")
    assert (unknown.state, unknown.reason) == ("failed", "by_task")
    assert "no owner &#x27;../../etc&#x27;" in example.get("/").text


def _enqueue(example: Example, owner: str) -> str:
    return example.run("failbetter", "-A", "tasks", "enqueue", "mirror_owner", owner).strip()


def test_its_readme_is_true(tmp_path: Path) -> None:
    """Its commands as they stand there, but for the port, and where all of it is kept."""
    example = Example(tmp_path)
    programs = f"{Path(sys.executable).parent}/"
    text = (EXAMPLE / "README.md").read_text("utf-8")
    found = [
        command
        for block in blocks(text)
        if block.language == "console" and not block.skipped
        for command in commands(block)
    ]
    exported = ""
    try:
        for command in found:
            typed = command.text.replace(".venv/bin/", programs)
            if typed == "examples/mirror/run.sh":
                example.start()
                wait_until(lambda: example.get("/readyz").status_code == 200, "the site")
                printed = example.output.read_text()
            elif typed.startswith("export "):
                exported = f"{typed} && "
                continue
            else:
                printed = example.run("bash", "-c", exported + typed)
            assert agrees(command.output, printed), (command.text, printed)
    finally:
        example.close()
    assert len(found) == 7
    for name in ("tasks.py", "web.py", "run.sh", "make_repositories.py"):
        assert f"`{name}`" in text
        assert (EXAMPLE / name).is_file()
