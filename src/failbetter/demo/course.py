"""The course of one demo: back up, let Murphy do his worst, triage, retry, prove."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from rich import filesize

import failbetter
from failbetter.demo.corpus import Corpus
from failbetter.demo.faults import Plan
from failbetter.demo.murphy import Deed, Murphy, Strike
from failbetter.demo.processes import StoreProcess, WorkerProcess
from failbetter.demo.proof import Check, Evidence, prove, story
from failbetter.demo.screen import Event, FailedGroup, Frame, Silence, counted

PROCESSES = 2
TICK_SECONDS = 0.05
GROUPS_EVERY = 0.5
RESTART_SECONDS = 0.5
OUTAGE_SECONDS = 5.0
ENOUGH_VICTIMS = 10
MOST_STARTS = 5
LONGEST_SECONDS = 100.0
STATES = ("pending", "running", "succeeded", "failed", "discarded")


class Stuck(Exception):
    """The jobs did not come to their ends in time, or no worker stays alive."""


class Course:
    """One demo, in its own folder `place`. Used once, as a context: its end ends every process."""

    def __init__(self, corpus: Corpus, plan: Plan, place: Path, screen: Silence, seed: int) -> None:
        self.corpus = corpus
        self.plan = plan
        self.place = place
        self.screen = screen
        self.seed = seed
        self.events: list[Event] = []
        self.checks: list[Check] = []
        self.failed_before_retry: list[FailedGroup] = []
        self.failed_at_end: list[FailedGroup] = []
        self.retried: list[str] = []
        self.worker_starts = 0
        self._log = place / "worker.log"
        self._began = time.monotonic()
        self._seconds = 0.0
        self._stack = contextlib.ExitStack()
        self._status: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._groups: list[FailedGroup] = []
        self._groups_at = 0.0
        self._worker_ended_at: float | None = None
        self._poison_runs = 0
        self._out_since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def proven(self) -> bool:
        """Whether the proof was made and holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def run(self, before_proof: Callable[[Path], None] | None = None) -> None:
        """Everything, from the first file to the proof. Raises `Stuck` or `DidNotStart`."""
        files = counted(len(self.corpus.files), "file")
        what = f"{files}, {filesize.decimal(self.corpus.size)} of {self.corpus.title}"
        self.screen.heading("failbetter demo", f"{what}, seed {self.seed}")
        self._start()
        self._until(self._drained, "backing up")
        self.failed_before_retry = self._failed_groups()
        self._until(lambda: not self._status["out"], "waiting")
        self.screen.groups("failed, grouped by cause", self.failed_before_retry)
        self._retry()
        self._until(self._drained, "retrying")
        self.failed_at_end = self._failed_groups()
        self.screen.groups("still failed: kept, with their evidence", self.failed_at_end)
        exit_code = self._worker.stop()
        if before_proof is not None:
            before_proof(self.place)
        self._prove(exit_code)

    # Beginning

    def _start(self) -> None:
        self._store = StoreProcess(self.place / "store", self.plan.store, self.place / "store.log")
        self._stack.callback(self._store.stop)
        environment = {
            "FAILBETTER_URL": f"sqlite:///{self.place / 'ledger.db'}",
            "DEMO_FOLDER": str(self.corpus.folder),
            "DEMO_OBJECTS": self._store.objects.address,
            "DEMO_OFFICE": self._store.office.address,
            "DEMO_POISON": self.plan.poison or "",
            "TMPDIR": str(self.place / "tmp"),  # whatever the killed leave goes with the rest
        }
        (self.place / "tmp").mkdir()
        tasks = _import_tasks(environment)
        self._app: failbetter.App = tasks.app
        self._stack.callback(self._app.close)
        names = self._order()
        jobs = tasks.backup.enqueue_many([(name,) for name in names])
        self._jobs: dict[str, failbetter.Job] = dict(zip(names, jobs, strict=True))
        self._names = {job.id: name for name, job in self._jobs.items()}
        self._tell("demo", f"{counted(len(names), 'job')} accepted")
        self._worker = WorkerProcess(environment, PROCESSES, self._log)
        self._stack.callback(self._worker.sweep)
        self._start_worker()
        deeds = [
            (self.plan.kill_child_after, Deed.KILL_CHILD),
            (self.plan.kill_worker_after, Deed.KILL_WORKER),
        ]
        self._murphy = Murphy(self._worker, self._store.office, deeds)

    def _order(self) -> list[str]:
        """The files by name, but the poison early: all its crashes shall be seen."""
        names = list(self.corpus.files)
        if self.plan.poison is not None:
            names.remove(self.plan.poison)
            names.insert(len(names) // 12, self.plan.poison)
        return names

    def _start_worker(self) -> None:
        if self.worker_starts == MOST_STARTS:
            raise Stuck(f"the worker ended {MOST_STARTS} times")
        pid = self._worker.start()
        self.worker_starts += 1
        self._tell("worker", f"started, process {pid} with {PROCESSES} children")

    # Going on

    def _until(self, done: Callable[[], bool], phase: str) -> None:
        self._tick(phase)
        while not done():
            if time.monotonic() - self._began > LONGEST_SECONDS:
                raise Stuck(f"not done after {LONGEST_SECONDS:.0f} s: {self._counts}")
            time.sleep(TICK_SECONDS)
            self._tick(phase)
        self._groups_at = 0.0
        self._tick(phase)

    def _drained(self) -> bool:
        return self._counts["pending"] + self._counts["running"] == 0

    def _tick(self, phase: str) -> None:
        self._watch_store()
        self._keep_worker()
        strike = self._murphy.tick(self._status)
        if strike is not None:
            self._tell("murphy", _sentence(strike))
        self._watch_poison()
        jobs = self._app.jobs
        self._counts = {state: jobs.where(state=state).count() for state in STATES}
        if time.monotonic() - self._groups_at > GROUPS_EVERY:
            self._groups_at = time.monotonic()
            self._groups = self._failed_groups()
        moment = self._now()
        total = len(self.corpus.files)
        self.screen.frame(Frame(moment, phase, total, self._counts, self._status, self._groups))

    def _watch_store(self) -> None:
        before, self._status = self._status, self._store.office.status()
        now = self._status
        if now["limited"] and not before.get("limited"):
            self._tell("store", "429, Retry-After: 1 s; more will follow, no attempt is charged")
        if now["refused"] and not before.get("refused"):
            self._tell("store", "refuses a file for good; more will follow")
        if now["out"] and not before.get("out"):
            self._out_since = time.monotonic()
            self._tell("store", "gone: nobody listens on its port")
        if now["out"] and self._is_time_to_repair():
            self._store.office.repair()
        if before.get("out") and not now["out"]:
            self._tell("store", f"well again after {now['outages'][-1]['seconds']:.1f} s")

    def _is_time_to_repair(self) -> bool:
        """An outage lasts some seconds, and until it has claimed victims, however slow we are."""
        if time.monotonic() - self._out_since < OUTAGE_SECONDS:
            return False
        return self._drained() or self._victims().count() >= ENOUGH_VICTIMS

    def _victims(self) -> failbetter.Jobs:
        """The jobs that failed for good because the store was out."""
        return self._app.failed.where(task="backup", error="StoreDown")

    def _keep_worker(self) -> None:
        """Restart a worker that ended, a moment later, as systemd would."""
        code = self._worker.ended()
        if code is None:
            return
        if self._worker_ended_at is None:
            self._worker_ended_at = time.monotonic()
        elif time.monotonic() - self._worker_ended_at >= RESTART_SECONDS:
            self._worker_ended_at = None
            self._start_worker()

    def _watch_poison(self) -> None:
        if self.plan.poison is None or self._poison_runs < 0:
            return
        told = story(self._jobs[self.plan.poison].refresh())
        name = Path(self.plan.poison).name
        runs = told.causes.count("crashed")
        if runs > self._poison_runs:
            self._tell("murphy", f"the poison file killed its process, run {runs}: {name}")
        self._poison_runs = runs if told.state != "failed" else -1
        if told.state == "failed":
            self._tell(
                "worker", f"gives the poison file up after {runs} runs, failed ({told.reason})"
            )

    def _failed_groups(self) -> list[FailedGroup]:
        groups = [
            FailedGroup(
                count=group.count,
                reason=str(group.reason),
                title=_title(group.sample),
                sample=self._names.get(group.sample.id, ""),
            )
            for group in self._app.failed.groups()
        ]
        return sorted(groups, key=lambda group: -group.count)

    # Ending

    def _retry(self) -> None:
        """Once the store is well, retry what failed because it was not; nothing else."""
        victims = self._victims()
        self.retried = [self._names[job.id] for job in victims]
        if self.retried:
            moved = victims.retry().moved
            self._tell("demo", f"failed retry --error StoreDown: {counted(moved, 'job')}")

    def _prove(self, worker_exit: int | None) -> None:
        self._tell("demo", "proving: reading everything back")
        office = self._store.office
        self._counts = {s: self._app.jobs.where(state=s).count() for s in STATES}
        self._status = office.status()
        evidence = Evidence(
            corpus=self.corpus,
            plan=self.plan,
            stories={name: story(job.refresh()) for name, job in self._jobs.items()},
            counts=self._counts,
            deliveries=office.deliveries(),
            receipts=office.receipts(),
            status=self._status,
            strikes=self._murphy.strikes,
            retried=self.retried,
            worker_exit=worker_exit,
            objects=self._store.objects,
        )
        self.checks = prove(evidence)
        self._seconds = self._now()
        verdict = "nothing was lost" if self.proven else "NOT PROVEN"
        self.screen.proof(self.checks, f"{verdict}, in {self._seconds:.0f} s")

    # Telling

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 2)

    def _tell(self, who: str, what: str) -> None:
        event = Event(self._now(), who, what)
        self.events.append(event)
        self.screen.event(event)

    def log_tail(self) -> list[str]:
        """The last lines of the worker's log, for when something went wrong."""
        try:
            return self._log.read_text(errors="replace").splitlines()[-15:]
        except OSError:
            return []

    def document(self) -> dict[str, object]:
        """All figures, for `--json`."""
        store = {name: value for name, value in self._status.items() if name not in ("held", "out")}
        return {
            "ok": self.proven,
            "seed": self.seed,
            "seconds": self._seconds,
            "folder": str(self.corpus.folder),
            "files": {
                "found": self.corpus.seen,
                "chosen": len(self.corpus.files),
                "bytes": self.corpus.size,
                "poison": self.plan.poison,
                "refused": sorted(self.plan.refused),
            },
            "jobs": self._counts,
            "store": store,
            "murphy": [
                {"deed": strike.deed.value, "pid": strike.pid, "victims": list(strike.victims)}
                for strike in self._murphy.strikes
            ],
            "worker_starts": self.worker_starts,
            "failed_before_retry": [group.to_dict() for group in self.failed_before_retry],
            "retried": len(self.retried),
            "failed_at_end": [group.to_dict() for group in self.failed_at_end],
            "events": [event.__dict__ for event in self.events],
            "proof": [check.to_dict() for check in self.checks],
        }


def _sentence(strike: Strike) -> str:
    files = " and ".join(Path(name).name for name in strike.victims)
    if strike.deed is Deed.KILL_CHILD:
        return f"SIGKILL to child {strike.pid}, uploading {files}"
    return f"SIGKILL to the whole worker, uploading {files}"


def _title(job: failbetter.Job) -> str:
    """What the job says for itself; with the error's type where an error ended it."""
    kind = (job.error_type or "").rpartition(".")[2] if job.reason == "error" else ""
    return ": ".join(part for part in (kind, job.error_message) if part)


def _import_tasks(environment: dict[str, str]) -> ModuleType:
    """Import the demo's application afresh: each demo has a ledger, and so an app, of its own."""
    name = f"{__package__}.tasks"
    sys.modules.pop(name, None)
    with _environment({"FAILBETTER_URL": environment["FAILBETTER_URL"]}):
        return importlib.import_module(name)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
