"""The proof: what the ledger says, what the store has, and what lies in the folder must agree.

Every check is made from outside: objects are read back from the store and unpacked, receipts are
counted in the store's own book, and each job is looked up in the ledger by its id.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import failbetter
from failbetter.demo.client import Objects, StoreDown, StoreError
from failbetter.demo.corpus import Corpus
from failbetter.demo.faults import Plan
from failbetter.demo.murphy import Deed, Strike

if TYPE_CHECKING:
    import failbetter

CRASHES_OF_POISON = 3


@dataclass(frozen=True)
class Check:
    """One claim. It holds when `problems` is empty; `figure` says what was counted."""

    claim: str
    figure: str
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the claim."""
        return not self.problems

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "claim": self.claim,
            "holds": self.holds,
            "figure": self.figure,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Story:
    """A job as the ledger tells it; `causes` says how each attempt ended, oldest first."""

    state: str
    reason: str | None
    causes: tuple[str, ...]
    messages: tuple[str, ...]


@dataclass
class Evidence:
    """Everything the proof looks at. `stories` maps each file to its job's story."""

    corpus: Corpus
    plan: Plan
    stories: Mapping[str, Story]
    counts: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, Any]]
    receipts: Sequence[Mapping[str, Any]]
    status: Mapping[str, Any]
    strikes: Sequence[Strike]
    retried: Sequence[str]
    worker_exit: int | None
    objects: Objects
    unpacked: int = field(default=0)

    @property
    def expected(self) -> list[str]:
        """The files that must be in the store."""
        return self.plan.expected(list(self.corpus.files))


def story(job: failbetter.Job) -> Story:
    """What the ledger has kept of a job and its attempts."""
    attempts = list(job.attempts)
    return Story(
        state=str(job.state),
        reason=str(job.reason) if job.reason is not None else None,
        causes=tuple(str(attempt.cause) for attempt in attempts),
        messages=tuple(attempt.error_message or "" for attempt in attempts),
    )


def prove(evidence: Evidence) -> list[Check]:
    """Every check, in the order in which they are shown."""
    checks = [
        _bytes(evidence),
        _stored_once(evidence),
        _receipts_once(evidence),
        _retried(evidence),
        _refused(evidence),
        _poison(evidence),
        _interrupted(evidence),
        _nothing_lost(evidence),
    ]
    if evidence.plan.complete:
        checks.append(_faults_struck(evidence))
    return checks


def _check(claim: str, figure: str, problems: Iterable[str]) -> Check:
    return Check(claim, figure, tuple(problems))


def _bytes(evidence: Evidence) -> Check:
    problems = []
    total = 0
    for name in evidence.expected:
        problem = _difference(evidence, name)
        if problem is None:
            total += evidence.corpus.files[name]
        else:
            problems.append(f"{name}: {problem}")
    evidence.unpacked = total
    good = len(evidence.expected) - len(problems)
    figure = f"{good} of {len(evidence.expected)} files, {total:,} bytes read back and unpacked"
    return _check("every file's bytes in the store equal the source's", figure, problems)


def _difference(evidence: Evidence, name: str) -> str | None:
    try:
        stored = zlib.decompress(evidence.objects.get(name))
        source = evidence.corpus.read(name)
    except (StoreDown, StoreError, OSError, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return None if stored == source else "the bytes differ"


def _stored_once(evidence: Evidence) -> Check:
    stored: Counter[str] = Counter()
    for delivery in evidence.deliveries.values():
        stored[delivery["name"]] += delivery["stored"]
    repeated = evidence.status["repeated"]
    figure = f"{stored.total()} stored; {repeated} uploads came again and were known by their key"
    return _check("each object stored once", figure, _once(stored, evidence.expected))


def _receipts_once(evidence: Evidence) -> Check:
    given = Counter(receipt["name"] for receipt in evidence.receipts)
    figure = f"receipts: {given.total()}, files: {len(evidence.expected)}"
    return _check("each effect once", figure, _once(given, evidence.expected))


def _once(found: Counter[str], expected: Sequence[str]) -> Iterator[str]:
    for name in expected:
        if found[name] != 1:
            yield f"{name}: {found[name]} times"
    for name in sorted(found.keys() - set(expected)):
        yield f"{name}: must not be there"


def _retried(evidence: Evidence) -> Check:
    # A file that the store refuses may have met the outage first; `_refused` looks at its end.
    good = sorted(set(evidence.retried) - evidence.plan.refused)
    problems = [
        f"{name}: {_told(evidence.stories[name])}"
        for name in good
        if evidence.stories[name].state != "succeeded"
    ]
    figure = f"{len(evidence.retried)} retried, {len(good) - len(problems)} succeeded"
    if others := len(evidence.retried) - len(good):
        figure += f", {others} refused by the store"
    return _check(
        "what failed in the outage was kept, and retried once it was over", figure, problems
    )


def _refused(evidence: Evidence) -> Check:
    problems = []
    for name, (status, words) in evidence.plan.store.refused.items():
        told = evidence.stories[name]
        said = f"refused by the store: {status} {words}"
        if (told.state, told.reason) != ("failed", "by_task"):
            problems.append(f"{name}: {_told(told)}, not failed (by_task)")
        elif said not in told.messages[-1:]:
            problems.append(f"{name}: the store's words are not in the evidence: {told.messages}")
        elif told.causes.count("failed_by_task") != 1:
            problems.append(f"{name}: tried again though it was final: {told.causes}")
    figure = f"{len(evidence.plan.refused) - len(problems)} of {len(evidence.plan.refused)}"
    return _check("refused files: failed at once, with the store's words", figure, problems)


def _poison(evidence: Evidence) -> Check:
    claim = f"the poison file: failed after {CRASHES_OF_POISON} crashes, killed by signal 9"
    if evidence.plan.poison is None:
        return Check(claim, "no poison among so few files")
    told = evidence.stories[evidence.plan.poison]
    crashes = told.causes.count("crashed")
    problems = []
    if (told.state, told.reason) != ("failed", "crashed"):
        problems.append(f"{_told(told)}, not failed (crashed)")
    if crashes != CRASHES_OF_POISON:
        problems.append(f"{crashes} crashes on record")
    if not told.messages or "signal 9" not in told.messages[-1]:
        problems.append(f"its evidence does not name the signal: {told.messages[-1:]}")
    return _check(claim, f"{crashes} runs, {told.messages[-1] if told.messages else '?'}", problems)


def _interrupted(evidence: Evidence) -> Check:
    problems = []
    victims = 0
    for strike in evidence.strikes:
        cause = "crashed" if strike.deed is Deed.KILL_CHILD else "lost"
        for name in strike.victims:
            victims += 1
            told = evidence.stories[name]
            if told.state != "succeeded":
                problems.append(f"{name}: {_told(told)}")
            elif cause not in told.causes:
                problems.append(f"{name}: no attempt ended as {cause}: {told.causes}")
    figure = f"jobs in Murphy's hands: {victims}"
    claim = "jobs whose process was killed: on record, resumed, succeeded"
    return _check(claim, figure, problems)


def _nothing_lost(evidence: Evidence) -> Check:
    counts = evidence.counts
    bad = len(evidence.plan.refused) + (evidence.plan.poison is not None)
    wanted = {"succeeded": len(evidence.expected), "failed": bad}
    problems = [
        f"{state}: {counts.get(state, 0)}, expected {wanted.get(state, 0)}"
        for state in ("pending", "running", "succeeded", "failed", "discarded")
        if counts.get(state, 0) != wanted.get(state, 0)
    ]
    if evidence.worker_exit != 0:
        problems.append(f"the worker did not stop gracefully: exit {evidence.worker_exit}")
    figure = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return _check("nothing running, nothing waiting, nothing lost", figure, problems)


def _faults_struck(evidence: Evidence) -> Check:
    done = Counter(strike.deed for strike in evidence.strikes)
    seconds = sum(outage["seconds"] for outage in evidence.status["outages"])
    happened = {
        "a child killed": done[Deed.KILL_CHILD],
        "the worker killed": done[Deed.KILL_WORKER],
        "an outage": len(evidence.status["outages"]),
        "429s": evidence.status["limited"],
        "refusals": evidence.status["refused"],
        "jobs failed in the outage": len(evidence.retried),
    }
    problems = [f"never happened: {what}" for what, times in happened.items() if not times]
    figure = f"{evidence.status['limited']} times 429, an outage of {seconds:.1f} s, 2 kills"
    return _check("all of it really happened", figure, problems)


def _told(told: Story) -> str:
    return f"{told.state} ({told.reason})" if told.reason else told.state
