"""What the contract says becomes of a job: no SQL, and none of failbetter's own code.

Written from the promises, not from the code, and for one backoff (10 s, no jitter). Times are
microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = 1_000_000
BACKOFF = 10 * SECOND
MAX_HAND_BACKS = 100

LIVE = ("pending", "running")


class Broken(AssertionError):
    """The ledger did what the promises do not allow."""


@dataclass
class Limits:
    """A job's budgets."""

    max_attempts: int = 5
    max_crashes: int = 3
    max_losses: int = 10
    on_lost: str = "retry"
    release_within: int = 100 * SECOND


@dataclass
class Told:
    """An ended attempt, as history keeps it."""

    number: int
    cause: str
    state: str
    reason: str | None


@dataclass
class ModelJob:
    """A job as it should be."""

    limits: Limits
    run_at: int
    priority: int
    expires_at: int | None
    unique: str | None
    exclusive: str | None
    state: str = "pending"
    reason: str | None = None
    worker: int | None = None
    holder: int | None = None
    """The attempt that owns the job now; None: nobody does."""
    cancel: bool = False
    suspect: bool = False
    released_since: int | None = None
    starts: int = 0
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    hand_backs: int = 0
    history: list[Told] = field(default_factory=list)
    effects: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """name -> (the attempt that began it, whether it has happened)"""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def waiting(self) -> bool:
        return self.state == "pending" and self.holder is None

    @property
    def in_doubt(self) -> bool:
        return any(not done for _, done in self.effects.values())

    # -- moves

    def give_back(self) -> None:
        self.holder = self.worker = None
        if self.cancel:
            self._over("discarded", "cancelled")

    def again(self, at: int) -> None:
        """Wait for another attempt, or heed a cancellation that came meanwhile."""
        self.state, self.reason, self.run_at = "pending", None, at
        self.give_back()

    def _over(self, state: str, reason: str | None) -> None:
        self.state, self.reason = state, reason
        self.holder = self.worker = None
        self.cancel = self.suspect = False
        self.released_since = None

    def end(
        self,
        cause: str,
        now: int,
        *,
        begun: bool = True,
        alone: bool = True,
        verdict: str = "retry",
        delay: int | None = None,
    ) -> None:
        """An attempt of this job has ended; it was the current one."""
        doubt = begun and self.in_doubt
        self._decide(cause, now, begun, alone, verdict, delay, doubt)
        if begun:
            self.starts += 1
            told = ("pending", None) if self._wanted_again else (self.state, self.reason)
            self.history.append(Told(self.starts, cause, *told))

    _wanted_again: bool = False

    def _decide(
        self,
        cause: str,
        now: int,
        begun: bool,
        alone: bool,
        verdict: str,
        delay: int | None,
        doubt: bool,
    ) -> None:
        self._wanted_again = False
        counts_attempt = cause in ("raised", "timed_out")
        if doubt:
            self.attempts += counts_attempt
            self.crashes += cause == "crashed"
            self.losses += cause == "lost"
            self._over("failed", "uncertain")
        elif cause == "returned":
            self._clear()
            self._over("succeeded", None)
        elif cause == "cancelled":
            self._over("discarded", "cancelled")
        elif cause == "refused":
            self.expire()
        elif cause == "discarded_by_task" or verdict == "discard":
            self._over("discarded", "by_task")
        elif cause == "failed_by_task":
            self.attempts += 1
            self._over("failed", "by_task")
        elif cause == "released":
            self._release(now, delay or 0)
        elif not begun:
            self._retry(now)
        elif counts_attempt:
            self._charge(cause, now, verdict, delay)
        elif cause == "crashed":
            self._crash(now, alone)
        elif cause == "lost":
            self.losses += 1
            if self.limits.on_lost == "fail" or self.losses >= self.limits.max_losses:
                self._over("failed", "lost")
            else:
                self._retry(now)
        elif cause in ("interrupted", "bystander"):
            if self.limits.on_lost == "fail":
                self._over("failed", "lost")
            elif self.hand_backs + 1 >= MAX_HAND_BACKS:
                self._over("failed", "gave_up")
            else:
                self.hand_backs += 1
                self._retry(now)
        else:
            raise AssertionError(cause)

    def _retry(self, at: int) -> None:
        self._wanted_again = True
        self.again(at)

    def _clear(self) -> None:
        """A suspect ran alone and killed nobody."""
        if self.suspect:
            self.crashes -= 1
            self.suspect = False

    def _charge(self, cause: str, now: int, verdict: str, delay: int | None) -> None:
        self.attempts += 1
        reason = "error" if cause == "raised" else "timeout"
        final = verdict == "fail" and cause == "raised"
        unknown = cause == "timed_out" and self.limits.on_lost == "fail"
        if final or unknown or self.attempts >= self.limits.max_attempts:
            self._over("failed", reason)
        else:
            at = now + (BACKOFF if delay is None else delay)
            if self.expires_at is not None and at >= self.expires_at:
                self._over("failed", "expired")
                return
            self._clear()
            self.released_since = None
            self._retry(at)

    def _release(self, now: int, delay: int) -> None:
        since = now if self.released_since is None else self.released_since
        if now + delay - since > self.limits.release_within:
            self._over("failed", "gave_up")
        elif self.expires_at is not None and now + delay >= self.expires_at:
            self._over("failed", "expired")
        else:
            self._clear()
            self.released_since = since
            self._retry(now + delay)

    def _crash(self, now: int, alone: bool) -> None:
        if self.limits.on_lost == "fail":
            self.crashes += 1
            self._over("failed", "crashed")
        elif not alone:
            self.crashes += not self.suspect
            self.suspect = True
            self._retry(now)
        else:
            self.crashes += 1
            self.suspect = False
            if self.crashes >= self.limits.max_crashes:
                self._over("failed", "crashed")
            else:
                self._retry(now)

    def expire(self) -> None:
        """Its time of waiting is over."""
        if self.starts:
            self._over("failed", "expired")
        else:
            self._over("discarded", "expired")

    # -- a person's acts

    def ask_to_cancel(self) -> bool:
        """Whether there was anything to cancel."""
        if not self.live:
            return False
        if self.holder is None:
            self._over("discarded", "cancelled")
        else:
            self.cancel = True
        return True

    def retry(self, now: int) -> None:
        """Fresh budgets, now."""
        self.attempts = self.crashes = self.losses = self.hand_backs = 0
        self.again(now)

    def discard(self) -> None:
        """Put aside."""
        self._over("discarded", "by_operator")


def check_all(jobs: dict[int, ModelJob]) -> None:
    """What must hold of all jobs together, at any moment."""
    for what, holds in (
        ("unique", lambda job: job.live and job.unique),
        ("exclusive", lambda job: job.holder is not None and job.exclusive),
    ):
        keys = [getattr(job, what) for job in jobs.values() if holds(job)]
        if len(keys) != len(set(keys)):
            raise Broken(f"two jobs share one {what} key")
