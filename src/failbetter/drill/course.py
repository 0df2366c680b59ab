"""The course of a drill: what is struck, when, and what is seen of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from failbetter.app import App
from failbetter.drill.book import Book, Entry
from failbetter.drill.processes import PROCESSES, Worker, environment, run
from failbetter.drill.tasks import HELD_EFFECT, effect_name, held_at
from failbetter.drill.verify import AttemptSeen, Blow, Check, JobSeen, Seen, Strike, verify
from failbetter.job import Job
from failbetter.limits import DRILL

T = TypeVar("T")

FEWEST = 8
"""So many jobs it takes at least: one for each thing that is struck."""

ITEMS = 20
_PAUSE = 0.02
_LOOK_EVERY = 0.1
_HELD_KINDS = frozenset({"list", "pages", "sleep"})


class Stuck(Exception):
    """Something did not happen that had to."""


class Course:
    """One drill's jobs, workers and blows. `tell` is given each check as it is made."""

    def __init__(
        self, app: App, queue: str, folder: Path, deadline: float, tell: Callable[[Check], None]
    ) -> None:
        self.checks: list[Check] = []
        self._app = app
        self._queue = queue
        self._folder = folder
        self._deadline = deadline
        self._tell = tell
        self._book = Book(folder)
        self._env = environment(app, folder)
        self._workers: list[Worker] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self._jobs: dict[str, Job] = {}
        self._kinds: dict[str, tuple[str, int]] = {}
        self._strikes: list[Strike] = []
        self._delays: list[tuple[str, float]] = []
        self._samples: dict[str, list[int]] = defaultdict(list)
        self._looked = 0.0

    def run(self, jobs: int) -> None:
        """All of it. Raises Stuck, or LedgerError when the ledger cannot do its part."""
        self._enqueue(jobs)
        worker = self._start("a worker of 4 processes runs them")
        self._kill_a_child(worker)
        self._kill_the_worker(worker)
        self._kill_a_recovery()
        self._recover()
        self._stop_a_worker()
        self._drain()
        for check in verify(self._seen()):
            self.add(check)

    def end(self) -> None:
        """Have nothing run any more."""
        for worker in self._workers:
            worker.end()
        for other in self._others:
            other.kill()
            other.wait()
            if other.stdout is not None:
                other.stdout.close()

    # -- the jobs

    def _enqueue(self, count: int) -> None:
        """The first four are those that run first, and are struck first."""
        self._fragile = self._one("fragile", 1, 9)
        self._list = self._one("list", ITEMS, 8)
        self._before = self._one("effects", ITEMS, 7, "before")
        self._after = self._one("effects", ITEMS, 7, "after")
        self._one("pages", ITEMS, 6)
        self._one("sleep", 1, 6)
        kinds = itertools.cycle(("list", "pages", "effects"))
        for kind in itertools.islice(kinds, count - len(self._jobs)):
            self._one(kind, ITEMS, 0)
        self.add(Check("jobs accepted", f"{len(self._jobs)} on queue {self._queue}"))

    def _one(self, kind: str, items: int, priority: int, *more: object) -> Job:
        call = self._app.tasks[DRILL + kind].using(queue=self._queue, priority=priority)
        sized = (items,) if kind not in ("fragile", "sleep") else ()
        job = call.enqueue(*sized, *more)
        self._jobs[job.id] = job
        self._kinds[job.id] = (kind, items)
        return job

    # -- what happens to them

    def _start(self, name: str, *, drain: bool = False) -> Worker:
        log = self._folder / f"worker-{len(self._workers)}.log"
        began = time.monotonic()
        worker = Worker(self._queue, self._env, log, drain=drain)
        self._workers.append(worker)
        if not drain:
            self._wait(lambda: self._running() or None, "a body to begin", worker)
            self.add(Check(name, f"the first body began after {time.monotonic() - began:.1f} s"))
        return worker

    def _kill_a_child(self, worker: Worker) -> None:
        victim = self._wait(lambda: self._held(self._list, 1), "a list to be under way", worker)
        struck = time.monotonic()
        if not worker.kill_child(victim.pid):
            raise Stuck(f"process {victim.pid}, which runs a body, is no child of the worker")
        self._struck("child killed", [victim])
        on_record = "the killed child's job to be on record"
        self._wait(lambda: self._list.attempts or None, on_record, worker)
        self._delays.append(("a child's", time.monotonic() - struck))
        self._wait(lambda: self._held(self._list, 2), "the killed child's job to go on", worker)
        self.add(
            Check(
                "a child killed (kill -9)",
                f"its job went on {time.monotonic() - struck:.1f} s later, after the"
                f" {victim.item} items that were done",
            )
        )

    def _kill_the_worker(self, worker: Worker) -> None:
        """With one job in each thing that a death can come amid: see `_enqueue`."""
        victims = self._wait(self._all_amid, "four bodies to be amid their work", worker)
        worker.kill()
        self._struck("worker killed", victims)
        self.add(Check("a worker killed (kill -9)", f"with {len(victims)} bodies running"))

    def _all_amid(self) -> list[Entry] | None:
        found = [
            self._last(self._fragile),
            self._held(self._list, 2),
            self._last(self._before),
            self._last(self._after),
        ]
        key = f"failbetter-{self._after.id}-{effect_name(HELD_EFFECT)}"
        if key not in self._book.effects() or not self._is_intended(self._before):
            return None
        return None if None in found else [entry for entry in found if entry is not None]

    @staticmethod
    def _is_intended(job: Job) -> bool:
        return any(effect.name == effect_name(HELD_EFFECT) for effect in job.effects)

    def _kill_a_recovery(self) -> None:
        process = run(["-m", "failbetter.drill.struck"], self._env, self._folder / "struck.log")
        self._others.append(process)
        code = self._wait(process.poll, "a recovery to be killed")
        if code == 0:
            seen = "another sweep of this ledger was faster; there was nothing to do for it"
        elif code == -9:
            seen = "it had the lock, and was about to hand back"
        else:
            raise Stuck(f"a recovery ended with {code}: {_tail(self._folder / 'struck.log')}")
        self.add(Check("a recovery killed (kill -9)", seen))

    def _recover(self) -> None:
        log = self._folder / "recover.log"
        began = time.monotonic()
        words = ["-m", "failbetter", "recover", "--json", "--force", "--timeout", "20"]
        process = run(words, self._env, log)
        self._others.append(process)
        victims = next(one for one in self._strikes if one.blow == "worker killed").victims
        moved: float | None = None
        while (code := process.poll()) is None:
            if moved is None and self._moved(victims):
                moved = time.monotonic() - began
            self._pause("`failbetter recover` to end")
        if moved is None and self._moved(victims):
            moved = time.monotonic() - began
        assert process.stdout is not None
        self.add(_recovery(code, process.stdout.read(), victims, moved, log))
        if moved is not None:
            self._delays.append(("a worker's, from the start of a recovery,", moved))

    def _moved(self, victims: frozenset[tuple[str, int]]) -> bool:
        return all(
            number in {attempt.number for attempt in self._jobs[job].attempts}
            for job, number in victims
        )

    def _stop_a_worker(self) -> None:
        worker = self._start("another worker takes over")
        victims = self._wait(self._all_held, "four bodies to be amid their work", worker)
        worker.stop()
        code = self._wait(lambda: worker.code, "the stopped worker to end")
        self._struck("worker stopped", victims)
        wrong = [] if code == 0 else [f"it ended with {code}: {worker.last_words()}"]
        self.add(
            Check(
                "a worker stopped (SIGTERM)",
                f"with {len(victims)} bodies running; exit {code}",
                tuple(wrong),
                "a deploy would look like a crash; see the log",
            )
        )

    def _all_held(self) -> list[Entry] | None:
        running = self._running()
        held = [entry for entry in running if self._kinds[entry.job][0] in _HELD_KINDS]
        full = len(held) == PROCESSES and any(entry.job == self._list.id for entry in held)
        return held if full and all(self._is_stopped(entry) for entry in held) else None

    def _is_stopped(self, entry: Entry) -> bool:
        kind, items = self._kinds[entry.job]
        return kind == "sleep" or entry.item >= held_at(entry.attempt, items)

    def _drain(self) -> None:
        self._book.go()
        began = time.monotonic()
        worker = self._start("", drain=True)
        code = self._wait(lambda: worker.code, "a worker with --drain to end")
        wrong = [] if code == 0 else [f"it ended with {code}: {worker.last_words()}"]
        self.add(
            Check(
                "a worker drained the queue",
                f"{time.monotonic() - began:.1f} s; exit {code}",
                tuple(wrong),
                "a worker with --drain must end with 0 when nothing is left; see the log",
            )
        )

    # -- what is seen

    def _struck(self, blow: Blow, victims: list[Entry]) -> None:
        self._strikes.append(Strike(blow, frozenset((one.job, one.attempt) for one in victims)))

    def _running(self) -> list[Entry]:
        """The items that bodies are at now, as far as they were not struck."""
        struck = {victim for strike in self._strikes for victim in strike.victims}
        last = {(entry.job, entry.attempt): entry for entry in self._book.entries()}
        return [entry for key, entry in last.items() if entry.what == "begin" and key not in struck]

    def _last(self, job: Job) -> Entry | None:
        """The item that a body of the job is at, where it is one to be held."""
        running = [entry for entry in self._running() if entry.job == job.id]
        wanted = HELD_EFFECT if self._kinds[job.id][0] == "effects" else 0
        return next((entry for entry in running if entry.item == wanted), None)

    def _held(self, job: Job, attempt: int) -> Entry | None:
        found = [one for one in self._running() if (one.job, one.attempt) == (job.id, attempt)]
        return next((one for one in found if self._is_stopped(one)), None)

    def _look(self) -> None:
        """Read how far the jobs have come, now and then."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        for name, job in itertools.islice(self._jobs.items(), FEWEST):
            found = job.progress
            if found is not None:
                self._samples[name].append(found.done)
        self._looked = time.monotonic()

    def _pause(self, what: str, worker: Worker | None = None) -> None:
        if time.monotonic() > self._deadline:
            said = "" if worker is None else f"; the worker said: {worker.last_words()}"
            raise Stuck(f"waited in vain for {what}: the time of --timeout is over{said}")
        self._look()
        time.sleep(_PAUSE)

    def _wait(self, until: Callable[[], T | None], what: str, worker: Worker | None = None) -> T:
        """Wait until there is something, with an eye on the worker that is to do it."""
        while True:
            found = until()
            if found is not None:
                return found
            if worker is not None and worker.code is not None:
                raise Stuck(
                    f"waited for {what}, but the worker ended with {worker.code}:"
                    f" {worker.last_words()}"
                )
            self._pause(what, worker)

    def add(self, check: Check) -> None:
        """Keep a check, and tell of it."""
        self.checks.append(check)
        self._tell(check)

    def _seen(self) -> Seen:
        jobs = [self._job_seen(job.refresh()) for job in self._jobs.values()]
        return Seen(
            jobs,
            self._strikes,
            self._book.entries(),
            self._book.effects(),
            self._samples,
            self._delays,
        )

    def _job_seen(self, job: Job) -> JobSeen:
        kind, items = self._kinds[job.id]
        progress = job.progress
        return JobSeen(
            job.id,
            kind,
            items,
            job.state,
            job.reason,
            tuple(AttemptSeen(one.number, one.cause, one.evidence) for one in job.attempts),
            {effect.name: effect.done_at is not None for effect in job.effects},
            None if progress is None else progress.done,
            0 if progress is None else progress.failed,
            None if progress is None else progress.total,
        )


def _recovery(
    code: int,
    out: bytes,
    victims: frozenset[tuple[str, int]],
    moved: float | None,
    log: Path,
) -> Check:
    """What `failbetter recover` said, held against what it had to do."""
    try:
        report = json.loads(out)
    except ValueError:
        report = {}
    told = {job["id"] for job in report.get("jobs", [])}
    by_it = sum(job in told for job, _ in victims)
    wrong = []
    if code != 0 or not report.get("ok"):
        wrong.append(f"it ended with {code}, {report.get('outcome')}: {_tail(log)}")
    if moved is None:
        wrong.append("a killed worker's jobs are not handed back")
    others = len(victims) - by_it
    seen = f"{report.get('outcome')}: {by_it} of {len(victims)} interrupted jobs by it"
    return Check(
        "`failbetter recover`",
        seen + (f", {others} by another sweep of this ledger" if others and moved else ""),
        tuple(wrong),
        "what is interrupted stays so until a worker sweeps; run `failbetter recover` by hand and"
        " read what it says",
    )


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])
