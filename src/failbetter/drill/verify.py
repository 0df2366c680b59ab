"""What must be true after a drill: the ledger held against the book, purely.

Each check says what it saw. What is wrong is told job by job, with what it means and what to do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from failbetter.drill.book import Entry
from failbetter.drill.tasks import effect_name

Blow = Literal["child killed", "worker killed", "worker stopped"]
CAUSES: Mapping[Blow, str] = {
    "child killed": "crashed",
    "worker killed": "lost",
    "worker stopped": "interrupted",
}

BOUND = 2.0
"""Within so long (s) of its death an attempt on the same host is moved, as promised."""

# A machine under load, and a process that has to start first, are given so much more (s).
_GRACE = 3.0


@dataclass(frozen=True)
class Check:
    """One claim, and what was seen of it; `wrong`: what speaks against it."""

    name: str
    seen: str
    wrong: tuple[str, ...] = ()
    means: str = ""
    """What it means if something is wrong, and what to do."""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.wrong


@dataclass(frozen=True)
class Strike:
    """Who was struck: attempts, as (job, number)."""

    blow: Blow
    victims: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class AttemptSeen:
    """An ended attempt as the ledger has it; `evidence`: of what killed it."""

    number: int
    cause: str
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSeen:
    """A job as the ledger has it at the end. `kind`: list, pages, effects, sleep or fragile.

    `effects`: by name, whether they are known to have happened. `done`, `failed`, `total`: its
    progress.
    """

    id: str
    kind: str
    items: int
    state: str
    reason: str | None = None
    attempts: tuple[AttemptSeen, ...] = ()
    effects: Mapping[str, bool] = field(default_factory=dict)
    done: int | None = None
    failed: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Seen:
    """All that a drill has seen.

    `samples`: for each job its counts of finished items, as they were read on the way. `delays`:
    what was struck, and after how long (s) the ledger said so.
    """

    jobs: Sequence[JobSeen]
    strikes: Sequence[Strike]
    entries: Sequence[Entry]
    effects: Sequence[str]
    samples: Mapping[str, Sequence[int]]
    delays: Sequence[tuple[str, float]]

    @property
    def struck(self) -> dict[tuple[str, int], Blow]:
        """By which blow an attempt was struck."""
        return {victim: strike.blow for strike in self.strikes for victim in strike.victims}


def verify(seen: Seen) -> list[Check]:
    """Every check, in the order in which they are told."""
    return [
        _ends(seen),
        _on_record(seen),
        _effects_once(seen),
        _items(seen),
        _progress(seen),
        _one_at_a_time(seen),
        _in_time(seen),
    ]


def _ends(seen: Seen) -> Check:
    ends = Counter(_state(job.state, job.reason) for job in seen.jobs)
    wrong = []
    for job in seen.jobs:
        expected = _expected(job, seen)
        if (job.state, job.reason) != expected:
            told = f"is {_state(job.state, job.reason)}, not {_state(*expected)}"
            wrong.append(f"job {job.id} ({job.kind}) {told}")
    return Check(
        "every job has its right end",
        ", ".join(f"{count} {end}" for end, count in sorted(ends.items())),
        tuple(wrong),
        "interrupted work of yours may be lost, or end wrongly; look at the job with"
        " `failbetter jobs show` after `failbetter drill --keep`, and at the workers' log",
    )


def _expected(job: JobSeen, seen: Seen) -> tuple[str, str | None]:
    blows = [blow for (victim, _), blow in seen.struck.items() if victim == job.id]
    if job.kind == "fragile" and blows:
        return "failed", CAUSES[blows[0]]
    return "succeeded", None


def _state(state: str, reason: str | None) -> str:
    return state if reason is None else f"{state}({reason})"


def _on_record(seen: Seen) -> Check:
    struck = seen.struck
    wrong = []
    for job in seen.jobs:
        ended = {attempt.number: attempt for attempt in job.attempts}
        for (victim, number), blow in struck.items():
            if victim == job.id and number not in ended:
                wrong.append(f"job {job.id}: attempt {number}, {blow}, is not on record")
        wrong += [
            f"job {job.id}: attempt {number} {problem}"
            for number, attempt in ended.items()
            if (problem := _misjudged(attempt, struck.get((job.id, number)))) is not None
        ]
    causes = Counter(CAUSES[blow] for blow in struck.values())
    return Check(
        "every interruption is on record with its evidence",
        ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "none",
        tuple(wrong),
        "what interrupts your jobs would be explained wrongly, or charged to the wrong budget;"
        " please report it with the workers' log",
    )


def _misjudged(attempt: AttemptSeen, blow: Blow | None) -> str | None:
    expected = "returned" if blow is None else CAUSES[blow]
    if attempt.cause != expected:
        struck = "nobody struck it" if blow is None else blow
        return f"ended as {attempt.cause}, not {expected} ({struck})"
    if blow == "child killed" and attempt.evidence.get("signal") != 9:
        return f"does not say that signal 9 killed it, but {dict(attempt.evidence)}"
    if blow == "worker killed" and not attempt.evidence:
        return "does not say how its worker was lost"
    return None


def _effects_once(seen: Seen) -> Check:
    happened = Counter(seen.effects)
    wrong = []
    told = 0
    for job in seen.jobs:
        if job.kind != "effects":
            continue
        for item in range(job.items):
            name = effect_name(item)
            times = happened.pop(f"failbetter-{job.id}-{name}", 0)
            if times != 1:
                wrong.append(f"job {job.id}: {name} happened {times} times")
            if name not in job.effects:
                wrong.append(f"job {job.id}: the ledger knows nothing of {name}")
            elif not job.effects[name]:
                wrong.append(f"job {job.id}: {name} is in doubt still")
            told += name in job.effects
    wrong += [f"an effect happened that no job has: {key}" for key in happened]
    return Check(
        "no effect twice, none missing",
        f"{len(seen.effects)} happened, {told} in the ledger",
        tuple(wrong),
        "an effect of yours, such as a payment, could happen twice or never: do not rely on"
        " `job.once` here before this is understood; please report it",
    )


def _items(seen: Seen) -> Check:
    by_job: dict[str, list[Entry]] = defaultdict(list)
    for entry in seen.entries:
        by_job[entry.job].append(entry)
    wrong: list[str] = []
    again = 0
    for job in seen.jobs:
        entries = by_job.pop(job.id, [])
        if job.state == "succeeded":
            finished = {entry.item for entry in entries if entry.what == "done"}
            missing = sorted(set(range(job.items)) - finished)
            wrong += [f"job {job.id}: item {item} was never done" for item in missing]
        begun = Counter(entry.item for entry in entries if entry.what == "begin")
        again += sum(times - 1 for times in begun.values())
        wrong += _repeated(job, entries, seen)
    wrong += [f"job {name} ran and is none of the drill's" for name in by_job]
    return Check(
        "no item lost, none again but what was struck",
        f"{sum(job.items for job in seen.jobs)} items, {again} begun again",
        tuple(wrong),
        "a list that your jobs work through would have gaps, or be done again needlessly;"
        " please report it",
    )


def _repeated(job: JobSeen, entries: Sequence[Entry], seen: Seen) -> Iterator[str]:
    """Items begun again although no blow struck while they ran."""
    last: dict[int, int] = {}  # the item that each attempt began last
    owner: dict[int, int] = {}  # the attempt that began an item last
    for entry in entries:
        if entry.what != "begin":
            continue
        before = owner.get(entry.item)
        if before is not None:
            struck = (job.id, before) in seen.struck and before != entry.attempt
            if not struck or last[before] != entry.item:
                yield f"job {job.id}: item {entry.item} of attempt {before} was done again"
        owner[entry.item] = entry.attempt
        last[entry.attempt] = entry.item


def _progress(seen: Seen) -> Check:
    wrong = []
    counted = 0
    for job in seen.jobs:
        if job.kind not in ("list", "pages", "effects"):
            continue
        counted += job.done or 0
        if job.done != job.items or job.total != job.items or job.failed:
            told = f"{job.done} of {job.total} items, {job.failed} failed"
            wrong.append(f"job {job.id}: its progress says {told}; there are {job.items}")
    for name, samples in seen.samples.items():
        for before, after in pairwise(samples):
            if after < before:
                wrong.append(f"job {name}: its progress went back from {before} to {after}")
    return Check(
        "progress is complete and never went back",
        f"{counted} items counted, {sum(map(len, seen.samples.values()))} looks on the way",
        tuple(wrong),
        "what `jobs show` and your pages say of a job's progress cannot be relied on;"
        " please report it",
    )


def _one_at_a_time(seen: Seen) -> Check:
    latest: dict[str, int] = {}
    wrong = []
    for entry in seen.entries:
        if entry.attempt < latest.get(entry.job, 0):
            wrong.append(
                f"job {entry.job}: attempt {entry.attempt} went on while attempt"
                f" {latest[entry.job]} ran"
            )
        latest[entry.job] = max(latest.get(entry.job, 0), entry.attempt)
    pids = {entry.pid for entry in seen.entries}
    return Check(
        "no job ran twice at once",
        f"{len(pids)} processes ran bodies",
        tuple(dict.fromkeys(wrong)),
        "two workers ran one job: does something keep killed processes alive, or do hosts share"
        " the ledger's folder over a network? See `docs/operate.md`, Files",
    )


def _in_time(seen: Seen) -> Check:
    wrong = [f"{what}: on record after {seconds:.1f} s" for what, seconds in _late(seen.delays)]
    told = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in seen.delays)
    return Check(
        f"deaths noticed within {BOUND:g} s",
        told or "none",
        tuple(wrong),
        "your jobs wait longer than they should after a death; is the machine or the ledger's"
        " database overloaded?",
    )


def _late(delays: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    return ((what, seconds) for what, seconds in delays if seconds > BOUND + _GRACE)
