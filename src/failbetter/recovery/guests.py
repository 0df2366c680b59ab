"""How it is known that a process of an engine's is gone which ran bodies as a guest there.

It has no supervisor of ours: it is its own worker, with a lock file that its death sets free. What
watches over it is the engine's process, its *keeper*. If that lives on, the death was the body's
own, and is charged to it as a crash; if it is gone as well, somebody has ended both, and it counts
as a loss. Elsewhere only the engine can tell: the lease of a process whose body keeps it busy runs
out, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import fleet
from failbetter.engine import Keeper
from failbetter.ledger.registry import Worker
from failbetter.lifecycle.states import Cause
from failbetter.recovery.deciding import Gone, gone

if TYPE_CHECKING:
    from failbetter.fleet import Fleet

Vouch = Callable[[Worker], str | None]

SUPERVISOR_DIED = "its supervisor died"
# A keeper that tells of deaths itself knows more of them: the signal. So long it is waited for (s).
_KEEPERS_TIME = 1.5
# How the stacks begin that a process leaves when it is ended for what its body did not heed. The
# first is what faulthandler writes.
LAST_WORDS = {
    "Timeout (": Cause.TIMED_OUT,
    "Stalled (": Cause.STALLED,
    "Cancelled (": Cause.CANCELLED,
}
_MOST = 60_000


def keeper_of(worker: Worker) -> Keeper | None:
    """What is on record of the process that a guest runs in."""
    if worker.keeper is None:
        return None
    try:
        return msgspec.json.decode(worker.keeper, type=Keeper)
    except msgspec.MsgspecError:
        return None


def kept_here(workers: Sequence[Worker], pid: int) -> list[Worker]:
    """The guests in the process `pid` that this process is the keeper of."""
    ours = (os.getpid(), fleet.pid_space())
    return [
        worker
        for worker in workers
        if worker.pid == pid
        and (keeper := keeper_of(worker)) is not None
        and (keeper.pid, keeper.space) == ours
    ]


def gone_here(at: Fleet, worker: Worker, seconds: float) -> Gone | None:
    """A worker that is seen to be dead from this host; None: its keeper is about to tell of it.

    `seconds`: for how long it has been seen.
    """
    keeper = keeper_of(worker)
    if keeper is not None and keeper.tells and seconds < _KEEPERS_TIME and _lives(keeper):
        return None
    return known_dead(at, worker)


def known_dead(at: Fleet, worker: Worker) -> Gone:
    """A worker that is seen to be dead from this host, whoever may still tell of it."""
    if worker.engine is None:
        return gone(worker, SUPERVISOR_DIED)
    return dead_guest(at, worker, lives=_lives(keeper_of(worker)))


def dead_guest(
    at: Fleet, worker: Worker, *, lives: bool, told: str | None = None, **evidence: Any
) -> Gone:
    """What became of a guest whose process is dead. `lives`: its keeper does, for certain.

    `told`: how the process ended, where somebody saw it, with its `evidence`.
    """
    found = gone(worker, SUPERVISOR_DIED)
    stacks = _stacks(at, worker)
    if stacks is not None:
        evidence = {**evidence, "stacks": stacks}
    last = _last_words(stacks)
    if last is not None:
        cause, why = last, "it ended itself, because a body did not stop when it was asked to"
    elif told is not None:
        cause, why = Cause.CRASHED, f"the job's process was {told}"
    elif lives:
        cause, why = Cause.CRASHED, "the job's process died, and its worker lived on"
    else:
        cause, why = Cause.LOST, "its process died, and nothing watched over it"
    return msgspec.structs.replace(found, why=why, cause=cause, evidence=evidence)


def _lives(keeper: Keeper | None) -> bool:
    if keeper is None or keeper.pid is None:
        return False
    return bool(fleet.is_running(keeper.pid, keeper.born, keeper.space))


def _last_words(stacks: str | None) -> Cause | None:
    for line in (stacks or "").splitlines():
        for words, cause in LAST_WORDS.items():
            if line.startswith(words):
                return cause
    return None


def _stacks(at: Fleet, worker: Worker) -> str | None:
    try:
        text = at.stacks_path(worker.id).read_text(errors="replace")
    except OSError:
        return None
    return text[:_MOST] or None
