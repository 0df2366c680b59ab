"""What a recovery found and did, in the words users read."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Became = Literal["handed_back", "ended", "refused"]
RecoveryOutcome = Literal["recovered", "nothing", "partial", "skipped", "timed_out", "locked"]


class RecoveredJob(msgspec.Struct, frozen=True, gc=False):
    """What became of one job.

    `became`: it waits again (`handed_back`), has come to its end with `state` and `reason`
    (`ended`), or could not be moved (`refused`), with `why`: of all three, in words.
    """

    id: str
    task: str
    became: Became
    state: str
    reason: str | None
    why: str


class GoneWorker(msgspec.Struct, frozen=True):
    """A worker that is no more. `why`: how that is known. `last_heard`: None if not on record."""

    name: str
    host: str | None
    why: str
    last_heard: datetime | None


class WatchedWorker(msgspec.Struct, frozen=True):
    """A worker whose lease has run out by the ledger's clock, which alone is not believed.

    Whoever has watched it for a whole lease (a worker, `failbetter maintain`) hands back its
    `jobs`, unless it is heard of. `lease` in seconds.
    """

    name: str
    host: str
    last_heard: datetime
    lease: float
    jobs: int


class RecoveryReport(msgspec.Struct, frozen=True):
    """What `App.recover` found and did.

    `outcome`: `recovered`; there was `nothing`; `partial`: some jobs were refused; `skipped`,
    because another one ended within `skip_window`; `timed_out`, with `left` jobs that were found
    and not moved; `locked`: another one, `by` whom is said, went on for all of `timeout`.
    `jobs`: each job that was found. `leased`: how many are under a live lease, and left alone.
    `dry_run`: nothing was changed, and the rest says what would have been. `seconds` it took.
    """

    outcome: RecoveryOutcome
    jobs: list[RecoveredJob] = []
    handed_back: int = 0
    ended: int = 0
    expired: int = 0
    """How many of the jobs that ended had waited too long."""
    refused: int = 0
    gone: list[GoneWorker] = []
    watched: list[WatchedWorker] = []
    leased: int = 0
    left: int = 0
    by: str | None = None
    dry_run: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all is well: nothing that could have been recovered was left behind."""
        return self.outcome in ("recovered", "nothing", "skipped")


class RecoveryProgress(msgspec.Struct, frozen=True):
    """How far a recovery has come: jobs moved so far, of so many found so far.

    `waits_for`: what keeps it from going on, in words.
    """

    done: int
    total: int
    waits_for: str | None = None


class RecoveryCounts(msgspec.Struct, frozen=True):
    """What was done: workers found gone, and what became of jobs."""

    gone: int = 0
    handed_back: int = 0
    ended: int = 0
    expired: int = 0
    refused: int = 0


class RecoveryStatus(msgspec.Struct, frozen=True):
    """Recovery as the ledger has it.

    `in_progress`: whether an `App.recover` is at it, and `by` whom: `host:pid`; else who was last.
    `last_at`, `last_outcome`, `last`: of the last one that was done; None if there was none.
    `swept_at`: when a worker or `failbetter maintain` last looked for interrupted jobs and could;
    None if nobody does. `swept`: all that such sweeps have ever done.
    """

    in_progress: bool
    by: str | None
    last_at: datetime | None
    last_outcome: str | None
    last: RecoveryCounts | None
    swept_at: datetime | None
    swept: RecoveryCounts
