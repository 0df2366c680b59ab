"""Findings about the ledger and its workers. It finds; others print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from failbetter import ledger
from failbetter.errors import FailbetterError
from failbetter.lifecycle.states import State

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.outbox import Waiting

Status = Literal["pass", "warn", "fail"]
_ORDER: list[Status] = ["pass", "warn", "fail"]
_COUNTED = [State.PENDING, State.RUNNING, State.FAILED]
# Counting costs what there is to count, and a health check must stay cheap when things go badly.
_MOST = 1_000
# Seconds within which a mirrored row follows its job.
_MIRROR_BOUND = 5.0


class Finding(msgspec.Struct, frozen=True):
    """One check: `status` pass, warn or fail, and what was seen."""

    name: str
    status: Status
    observed: Any
    output: str | None = None


class Health(msgspec.Struct, frozen=True):
    """The health document. `status` is the worst of the findings."""

    status: Status
    findings: list[Finding]

    def as_dict(self) -> dict[str, Any]:
        """The document as `application/health+json` has it."""
        return {
            "status": self.status,
            "checks": {
                finding.name: {
                    "status": finding.status,
                    "observedValue": finding.observed,
                    **({"output": finding.output} if finding.output else {}),
                }
                for finding in self.findings
            },
        }


def check(database: Database) -> Health:
    """Look at the ledger; a ledger that cannot be asked is `fail`, never assumed to be well."""
    try:
        if not database.exists():
            text = "there is no such database; the first job or worker makes it"
            return Health("fail", [Finding("ledger", "fail", database.name, text)])
        findings = _findings(database)
    except FailbetterError as error:
        findings = [Finding("ledger", "fail", None, str(error))]
    worst = max((finding.status for finding in findings), key=_ORDER.index)
    return Health(worst, findings)


def _jobs(counts: dict[str, int]) -> Finding:
    many = [state for state, number in counts.items() if number > _MOST]
    if not many:
        return Finding("jobs", "pass", counts)
    shown = {state: min(number, _MOST) for state, number in counts.items()}
    return Finding("jobs", "pass", shown, f"more than {_MOST:,} are {' and '.join(many)}")


def _findings(database: Database) -> list[Finding]:
    with database.look() as tx:
        now = tx.now()
        workers = ledger.registry.all_workers(tx)
        counts = ledger.reads.counts_by(tx, _COUNTED, _MOST + 1)
        oldest = ledger.reads.oldest_due(tx, now)
        outbox = ledger.outbox.waiting(tx, _MOST + 1)
    silent = [
        worker
        for worker in workers
        if worker.lease_expired(now) or database.sees_dead(worker.id, worker.fleet)
    ]
    alive = len(workers) - len(silent)
    found = [
        Finding("ledger", "pass", database.name),
        Finding(
            "workers",
            "pass" if alive else "warn",
            alive,
            None if alive else "no worker is alive: jobs are accepted, but none will run",
        ),
        _jobs(counts),
        Finding("oldest_waiting_seconds", "pass", 0.0 if oldest is None else (now - oldest) / 1e6),
    ]
    if silent:
        names = ", ".join(worker.name for worker in silent)
        found.append(
            Finding(
                "leases",
                "warn",
                len(silent),
                f"lease expired: {names}; their jobs are handed back by the next sweep",
            )
        )
    if outbox.count:
        found.append(_mirror(outbox, now))
    return found


def _mirror(outbox: Waiting, now: int) -> Finding:
    age = 0.0 if outbox.since is None else max(now - outbox.since, 0) / 1e6
    more = f"more than {_MOST:,} " if outbox.count > _MOST else ""
    why = "" if outbox.error is None else f"; the last error: {outbox.error}"
    return Finding(
        "mirror",
        "warn" if age > _MIRROR_BOUND else "pass",
        {"waiting": min(outbox.count, _MOST), "oldest_seconds": age},
        f"{more}mirrored rows that do not say yet what their job does{why}",
    )
