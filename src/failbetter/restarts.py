"""New code for running workers: asking them to load it, and seeing what came of that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from failbetter import ledger

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.registry import Worker

RestartState = Literal["asked", "done", "failed", "gone", "not_ours"]
# Seconds between two looks what the workers have done.
_LOOK = 0.2


class WorkerRestart(msgspec.Struct, frozen=True):
    """A worker that was asked to finish what it runs and to go on with the code that is on disk.

    `worker` its name, `code` the version of the code that it runs, `error` why it could not load
    the new one. `state`: "asked" (not done yet), "done", "failed" (it goes on with the code that it
    has), "gone" (it has ended since), "not_ours" (it runs in the process of another system, whose
    restart is that system's).
    """

    worker: str
    state: RestartState
    code: str | None
    error: str | None = None


def restart(database: Database, timeout: float | None) -> list[WorkerRestart]:
    """Ask every living worker; wait up to `timeout` s for what comes of it. See App."""
    workers, asked = database.transact(_ask)
    limit = time.monotonic() + (timeout or 0.0)
    while True:
        found = [_seen(database, worker, asked) for worker in workers]
        waited_for = any(one.state == "asked" for one in found)
        if not waited_for or timeout is None or time.monotonic() >= limit:
            return found
        time.sleep(_LOOK)


def _ask(tx: Tx) -> tuple[list[Worker], dict[int, int]]:
    now = tx.now()
    workers = [
        worker
        for worker in ledger.registry.all_workers(tx)
        if not worker.lease_expired(now) and not worker.stopping
    ]
    ours = [worker.id for worker in workers if worker.engine is None]
    return workers, {number: ledger.restarts.ask(tx, number) for number in ours}


def _seen(database: Database, worker: Worker, asked: dict[int, int]) -> WorkerRestart:
    if worker.id not in asked:
        return WorkerRestart(worker.name, "not_ours", worker.code)
    with database.look() as tx:
        now = ledger.registry.one(tx, worker.id)
    if now is None:
        return WorkerRestart(worker.name, "gone", worker.code)
    if now.restart_at == asked[worker.id]:
        return WorkerRestart(worker.name, "asked", now.code)
    if now.restart_error is not None:
        return WorkerRestart(worker.name, "failed", now.code, now.restart_error)
    return WorkerRestart(worker.name, "done", now.code)
