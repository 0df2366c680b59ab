"""New code in the ledger: who is asked to load it, what came of that, who ran older code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import null, select, update

from failbetter.ledger.prepared import Prepared, b
from failbetter.ledger.schema import attempts, workers

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

NEWER_CODE = "newer_code"
"""In an attempt's evidence: the version of the code that was on disk when it failed."""

ASK = Prepared(
    update(workers)
    .values(restart_at=b("now"), restart_error=null())
    .where(workers.c.id == b("id")),
    "now id",
)
ASK_ALIKE = Prepared(
    update(workers)
    .values(restart_at=b("now"))
    .where(
        workers.c.fleet == b("fleet"),
        workers.c.code == b("code"),
        workers.c.id != b("id"),
        workers.c.restart_at.is_(None),
        workers.c.restart_error.is_(None),
    ),
    "now fleet code id",
)
ASKED = Prepared(select(workers.c.restart_at).where(workers.c.id == b("id")), "id")
DONE = Prepared(
    update(workers)
    .values(restart_at=null())
    .where(workers.c.id == b("id"), workers.c.restart_at <= b("asked")),
    "id asked",
)
NOTE = Prepared(
    update(workers)
    .values(newer_code=b("newer"), restart_error=b("error"))
    .where(workers.c.id == b("id")),
    "newer error id",
)
EVIDENCE = Prepared(
    select(attempts.c.evidence).where(
        attempts.c.job_id == b("id"),
        attempts.c.code == b("code"),
        attempts.c.evidence.is_not(None),
    ),
    "id code",
)


def ask(tx: Tx, worker: int) -> int:
    """Ask a worker to load the code anew; when that was, by which its answer is known."""
    now = tx.now()
    tx.run(ASK, now, worker)
    return now


def ask_alike(tx: Tx, worker: int, fleet: str, code: str) -> int:
    """Ask those on the same host that run the same code as `worker`; how many there were.

    Not those that were asked already, or could not load what is there.
    """
    return tx.run(ASK_ALIKE, tx.now(), fleet, code, worker)


def asked(tx: Tx, worker: int) -> int | None:
    """When the worker was asked to load the code anew; None: nobody waits for that."""
    found = tx.row(ASKED, worker)
    return None if found is None else found[0]


def done(tx: Tx, worker: int, asked_at: int) -> None:
    """What was asked then is done, or could not be; what was asked later still waits."""
    tx.run(DONE, worker, asked_at)


def note(tx: Tx, worker: int, newer: str | None, error: str | None) -> None:
    """What is on disk, if it is other code than the worker's; why that could not be loaded."""
    tx.run(NOTE, newer, error, worker)


def failed_on_older(tx: Tx, job: int, code: str) -> bool:
    """Whether the job has failed on this code before, when other code was there already."""
    return any(
        NEWER_CODE in msgspec.json.decode(row[0], type=dict[str, object])
        for row in tx.rows(EVIDENCE, job, code)
    )
