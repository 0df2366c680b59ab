"""The example of examples/mirror as processes: served, visited, killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import requests
from tests.faults.harness import PATIENCE, ROOT, wait_until

import failbetter

EXAMPLE = ROOT / "examples" / "mirror"
OWNERS = ("ada", "grace")
GIT = shutil.which("git") or "git"

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

    def leftovers(self) -> list[psutil.Process]:
        """All living processes of it, whatever their parents."""
        mine = str(self.home)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MIRROR_HOME") == mine:
                    found.append(process)
        return found

    def close(self) -> None:
        """Kill all that is left of it."""
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
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

        def at_work() -> list[psutil.Process]:
            if not self.example.live():
                self.example.mirror_all()
            return self._found(whom) if self.example.begun(slow=True) > seen else []

        wait_until(at_work, f"git to be at work for {whom}")
        time.sleep(self.rng.uniform(0, 0.5))
        victims = wait_until(at_work, f"git to be at work for {whom}")
        self.rng.shuffle(victims)
        for victim in victims[:1] if whom == "child" else victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                self.done[whom] += 1
        if whom == "all":
            assert self.example.process is not None
            self.example.process.wait(PATIENCE)
            self.example.start()

    def _found(self, whom: str) -> list[psutil.Process]:
        """Never git itself: what an attempt leaves behind is for the recovery to find."""
        supervisor, children = self.example.supervisor(), self.example.children()
        if supervisor is None or not children:
            return []
        if whom == "child":
            return [child for child in children if _children(child.pid)]
        if whom == "supervisor":
            return [supervisor]
        assert self.example.process is not None
        return [psutil.Process(self.example.process.pid), supervisor, *children]
