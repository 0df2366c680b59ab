"""What an engine is to failbetter: it carries ids of jobs to where they run, and tells of them.

The ledger is the truth. A job is accepted when its row is written; then its id is sent. An id that
is lost on its way is sent again, and one that arrives twice does no harm, because only a claim in
the ledger starts a job. What an engine cannot do is said in its `Capabilities`, nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """What is sent of a job. `fence` and `sent_at` (µs since the epoch; None: never) tell one
    sending from another; `timeout` in seconds, None for none."""

    id: int
    fence: int
    task: str
    queue: str
    priority: int
    timeout: float | None
    sent_at: int | None = None


class Keeper(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is on record of a process that runs bodies for an engine.

    `name`: of the engine's worker. `pid`, `born` (clock ticks since the boot) and `space` (which
    boot and pid namespace): of the process that watches over it and outlives its death, if there
    is one. `tells`: that process writes into the ledger how it died. `job`: what the engine calls
    the job that it runs, if it keeps a process for each.
    """

    name: str
    pid: int | None = None
    born: int | None = None
    space: str = ""
    tells: bool = False
    job: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can deliver. The table in the docs is made from these.

    Each is a sentence's half: `limits` says in words what is not delivered, by the field's name.
    """

    queues: bool = True
    """A worker can be told which queues it serves."""
    priorities: bool = False
    """Of jobs of one queue, those of higher priority begin first."""
    delays: bool = False
    """It keeps a delay itself; else `failbetter maintain` sends a job when it is due."""
    knows_what_it_holds: bool = False
    """It can say whether a job's id is still on its way: only what is lost is sent again."""
    timeouts: Literal["always", "unless stuck in C", "none"] = "none"
    """Whether a body that runs longer than its `timeout` is ended."""
    cause_of_crashes: bool = False
    """A crash is told with its signal or exit code."""
    charges_crashes: bool = False
    """A body that kills its process is told from a worker that was lost with it."""
    cancels_running: bool = False
    """A running body can be cancelled."""
    limits: dict[str, str] = {}


class Engine(Protocol):
    """What there is to know of an engine. Every method may be called from any thread.

    Each raises `EngineUnavailable` when the engine cannot be reached.
    """

    name: str
    """Short, such as "rq": what a worker's row calls it."""
    capabilities: Capabilities

    def send(self, tickets: Sequence[Ticket]) -> None:
        """Put ids on their way. After an error some of them may be on it all the same."""

    def missing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Of what was sent a while ago and waits still: what is not on its way any more."""

    def is_gone(self, keeper: Keeper) -> str | None:
        """Why a process is believed to be gone that has not renewed its lease; None: it is not
        known to be. Its silence alone says nothing: a body may keep the whole process busy."""

    def close(self) -> None:
        """Close its connections. They open again when they are needed."""
