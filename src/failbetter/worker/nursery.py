"""The children of a worker: started, watched, stopped, mourned, replaced."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from failbetter.ledger.endings import error_of_death
from failbetter.lifecycle.decide import Outcome
from failbetter.lifecycle.states import Cause
from failbetter.worker.evidence import (
    OutOfMemory,
    describe_exit,
    end_text,
    exit_text,
    resident_bytes,
)
from failbetter.worker.judgement import Undecided
from failbetter.worker.process import Child

if TYPE_CHECKING:
    from failbetter.ledger.claims import Claimed
    from failbetter.worker.settings import Settings

_logger = logging.getLogger("failbetter.worker")

GRACE = 1.0
"""Seconds between asking a body to stop and killing its child."""
_LONGEST_PAUSE = 30.0
# A body that runs longer than this has no business with jobs waiting behind it.
_LONG_BODY = 0.025
# How much work a child is handed ahead: enough that it never waits for the supervisor's commit.
_AHEAD = 0.02


class Mourned(msgspec.Struct):
    """What a child's death leaves behind."""

    deaths: list[Undecided]
    unbegun: list[Claimed]


class Nursery:
    """All children of one supervisor."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._memory = OutOfMemory()
        self.children: list[Child] = []
        self.seen = ""
        """The fingerprint of the code that a child has found on disk last."""
        self._vacant: dict[int, float] = {}
        self._quick_deaths = 0

    def fill(self) -> list[Child]:
        """Start a child for every place; the new ones."""
        self._vacant.clear()
        return [self._spawn(index) for index in range(self._settings.processes)]

    def _spawn(self, index: int) -> Child:
        child = self._make(index)
        self.children.append(child)
        return child

    def _make(self, index: int) -> Child:
        settings = self._settings
        return Child(
            index,
            settings.app,
            settings.concurrency,
            settings.log_format,
            settings.log_level,
            self.seen,
        )

    def spare(self) -> Child:
        """Start a child that has no place yet. Raises OSError when there can be no process."""
        return self._make(-1)

    def seat(self, child: Child) -> bool:
        """Give a spare child the place of one that is gone; False when all are taken."""
        if not self._vacant:
            return False
        child.index, _ = self._vacant.popitem()
        self.children.append(child)
        return True

    @property
    def is_full(self) -> bool:
        """Whether there is a child for every place."""
        return not self._vacant

    def respawn(self, now: float) -> list[Child]:
        """Fill the places whose pause is over; the new children. `now` in monotonic s."""
        started = []
        for index, due in list(self._vacant.items()):
            if due > now:
                continue
            try:
                started.append(self._spawn(index))
            except OSError as error:
                # No process, descriptor or disk to be had just now.
                _logger.error("a child cannot be started (%s); trying again", error)
                self._vacant[index] = now + 1.0
            else:
                del self._vacant[index]
        return started

    # -- watching

    def overdue(self, child: Child, now: float) -> None:
        """Enforce what limits a child's bodies in time: ask first, then kill."""
        guilty = set()
        for number, begun_ns in child.begun.items():
            job = child.handed.get(number)
            if job is None:
                continue
            asked = child.interrupted.get(number)
            if asked is not None:
                if now - asked >= GRACE:
                    guilty.add(number)
                continue
            timeout, stalled_after = job.policy.timeout, job.policy.stalled_after
            if timeout is not None and now - begun_ns / 1e9 >= timeout:
                child.timed_out.add(number)
                child.interrupt(job, "timeout")
            elif (
                stalled_after is not None and now - child.quiet_since(number, now) >= stalled_after
            ):
                child.stalled.add(number)
                child.interrupt(job, "stalled")
        if guilty:
            _logger.warning(
                "child %d does not stop a body that it was asked to; killing it", child.pid
            )
            child.kill("overdue", frozenset(guilty))

    def over_memory(self, child: Child) -> None:
        """Enforce `--max-memory`: between jobs quietly, in a body as what it is."""
        limit = self._settings.max_memory
        if limit is None or child.killed_for is not None:
            return
        used = resident_bytes(child.pid)
        if used <= limit:
            return
        if child.begun:
            _logger.warning(
                "child %d uses %d bytes, over --max-memory; killing it", child.pid, used
            )
            child.kill("memory")
        elif not child.closing:
            _logger.info("child %d uses %d bytes, over --max-memory; replacing it", child.pid, used)
            child.close_handouts()

    def behind_long_bodies(self, child: Child, now: float) -> list[Claimed]:
        """Take back what waits in a child behind a body that runs long; no more is meant for it."""
        if not child.begun or len(child.begun) < child.slots:
            return []
        oldest = min(child.begun.values(), default=None)
        if oldest is None or now - oldest / 1e9 < _LONG_BODY:
            return []
        child.window = float(child.slots)
        return child.take_back() if len(child.handed) > len(child.begun) else []

    @staticmethod
    def adapt(child: Child, spent: int, bodies: int) -> None:
        """Set how many jobs the child may be handed ahead, by how long bodies take (µs, summed)."""
        pace = max(spent / bodies, 1.0)
        child.pace = pace if child.pace is None else 0.7 * child.pace + 0.3 * pace
        ahead = child.slots * _AHEAD * 1e6 / child.pace
        child.window = min(max(ahead, child.slots), 480.0)

    # -- dying

    def mourn(self, child: Child, now: float) -> Mourned:
        """Settle a child's death: who is charged, who is handed back, when its place is filled.

        Everything the child has said must have been heard before.
        """
        child.look_at_board()
        unbegun = child.take_back()
        code = child.bury()
        self.children.remove(child)
        evidence = describe_exit(code)
        if child.killed_for == "memory":
            evidence |= {"out_of_memory": True, "known_by": "it used more than --max-memory"}
        elif code == -9 and child.killed_for is None:
            evidence |= self._memory.evidence_of(child.pid)
        if child.peak is not None:
            evidence["peak_memory"] = child.peak
        begun = [
            (job, child.begun[job.id]) for job in child.handed.values() if job.id in child.begun
        ]
        # Taken by the child, but its body had not begun.
        unbegun += [job for job in child.handed.values() if job.id not in child.begun]
        deaths = [
            self._death(child, job, began, evidence, alone=len(begun) == 1) for job, began in begun
        ]
        if not (child.closing and code == 0):
            what = exit_text(evidence)
            _logger.warning("child %d %s while %d bodies ran", child.pid, what, len(begun))
        self._vacate(child, now)
        return Mourned(deaths, unbegun)

    def _vacate(self, child: Child, now: float) -> None:
        quick = not (child.proven or child.begun or child.closing)
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        pause = min(0.1 * 2 ** min(self._quick_deaths, 10), _LONGEST_PAUSE) if quick else 0.0
        self._vacant[child.index] = now + pause

    def _death(
        self, child: Child, job: Claimed, began_ns: int, evidence: dict[str, object], *, alone: bool
    ) -> Undecided:
        number = job.id
        own = dict(evidence)
        if child.stacks_text is not None:
            own["stacks"] = child.stacks_text
        cause = self._cause(child, number)
        if cause is Cause.CRASHED and not alone:
            own["shared_with"] = len(child.begun) - 1
        error = error_of_death(job, cause, f"the job's process was {end_text(own)}", own)
        begun_at = began_ns // 1000 + child.epoch
        outcome = Outcome(cause, alone=alone)
        ended_at = time.monotonic_ns() // 1000 + child.epoch
        return Undecided(job, outcome, begun_at, ended_at, child.code, error, own)

    @staticmethod
    def _cause(child: Child, number: int) -> Cause:
        if child.killed_for is None or child.killed_for == "memory":
            return Cause.CRASHED
        if child.killed_for in ("stop", "lost"):
            return Cause.INTERRUPTED
        if number not in child.guilty:
            return Cause.BYSTANDER
        if number in child.cancelled:
            return Cause.CANCELLED
        if number in child.stalled:
            return Cause.STALLED
        return Cause.TIMED_OUT if number in child.timed_out else Cause.INTERRUPTED
