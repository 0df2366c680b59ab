"""The health document: findings about the figures, each pass, warn or fail."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from failbetter.errors import FailbetterError
from failbetter.health.figures import look

if TYPE_CHECKING:
    from failbetter.health.figures import Figures
    from failbetter.ledger.adopted import Followed
    from failbetter.ledger.database import Database
    from failbetter.ledger.registry import Worker
    from failbetter.ledger.sending import Carrying
    from failbetter.retention import Pruned

Status = Literal["pass", "warn", "fail"]
_ORDER: list[Status] = ["pass", "warn", "fail"]
# Seconds within which a mirrored row follows its job.
_MIRROR_BOUND = 5.0
_SEND_BOUND = 15.0
# Seconds from one sweep of a worker to its next.
_SWEEP = 1.0
# Seconds for which the word of a sweeper counts that is no worker.
_UNTOLD = 30.0
# Seconds past its time for which a job may be there: workers look now and then, and in turns.
_PRUNED_LATE = 3600.0
# Seconds within which the rows of an engine's own jobs follow.
_FOLLOWED_BOUND = 60.0
# Of many workers, so many are named.
_NAMED = 5


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
        return health(judge(look(database)))
    except FailbetterError as error:
        return health([unknown(str(error))])


def unknown(why: str) -> Finding:
    """Of a ledger that could not be asked."""
    return Finding("ledger", "fail", None, why)


def health(findings: list[Finding]) -> Health:
    """The document of these findings."""
    worst = max((finding.status for finding in findings), key=_ORDER.index)
    return Health(worst, findings)


def judge(figures: Figures) -> list[Finding]:
    """What is to be thought of the figures."""
    found = [
        Finding("ledger", "pass", figures.ledger),
        _workers(figures),
        _jobs(figures),
        Finding("oldest_waiting_seconds", "pass", age(figures, figures.oldest) or 0.0),
        _stranded(figures),
        _sweeps(figures),
        _recovered(figures),
    ]
    if figures.silent:
        names = _names([worker.name for worker in figures.silent])
        text = f"lease expired: {names}; their jobs are handed back by the next sweep"
        found.append(Finding("leases", "warn", len(figures.silent), text))
    if figures.outdated:
        found.append(_old_code(figures.outdated))
    if failed := [worker for worker in figures.alive if worker.restart_error is not None]:
        found.append(_restarts(failed))
    if figures.mirrored.count:
        found.append(_mirror(figures))
    if figures.holds:
        found.append(_holds(figures))
    if figures.carrying is not None:
        found.append(_engine(figures, figures.carrying))
    found += [_followed(figures, one) for one in figures.followed]
    if figures.pruned is not None:
        found.append(_retention(figures.pruned))
    return found


def _workers(figures: Figures) -> Finding:
    """An engine's workers are here only while they run jobs: when they do not, nothing is said."""
    alive = len(figures.alive)
    if alive:
        return Finding("workers", "pass", alive)
    if figures.carrying is not None:
        text = f"none is at work; jobs run in the workers of {figures.carrying.engine}"
        return Finding("workers", "pass", 0, text)
    return Finding("workers", "warn", 0, "no worker is alive: jobs are accepted, but none will run")


def _engine(figures: Figures, carrying: Carrying) -> Finding:
    """Whether what is due is sent: by a maintainer, to an engine that answers."""
    lag = age(figures, carrying.since) or 0.0
    observed: dict[str, Any] = {
        "engine": carrying.engine,
        "unsent": min(carrying.unsent, figures.most),
    }
    if carrying.unsent:
        observed["oldest_seconds"] = lag
    if lag <= _SEND_BOUND:
        return Finding("engine", "pass", observed)
    text = (
        f"jobs are due and not sent to {carrying.engine}: does it answer, and is"
        " `failbetter maintain` at work? They wait in the ledger"
    )
    return Finding("engine", "warn", observed, text)


def _old_code(outdated: list[Worker]) -> Finding:
    """Workers that run older code than others do, or than is on their disk."""
    names = _names([f"{worker.name} (code {worker.code or '-'})" for worker in outdated])
    text = f"they run older code than is there, which `failbetter restart` has them load: {names}"
    return Finding("old_code", "warn", len(outdated), text)


def _restarts(failed: list[Worker]) -> Finding:
    """Workers that could not load the code that is on disk."""
    told = _names([f"{worker.name} (code {worker.code or '-'})" for worker in failed])
    text = f"could not load the new code, and go on with the old: {told}: {failed[0].restart_error}"
    return Finding("restarts", "warn", len(failed), text)


def age(figures: Figures, moment: int | None) -> float | None:
    """Seconds since a moment."""
    return None if moment is None else max(figures.now - moment, 0) / 1e6


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _jobs(figures: Figures) -> Finding:
    most = figures.most
    many = [state for state, number in figures.counts.items() if number > most]
    shown = {state: min(number, most) for state, number in figures.counts.items()}
    text = f"more than {most:,} are {' and '.join(many)}" if many else None
    return Finding("jobs", "pass", shown, text)


def _stranded(figures: Figures) -> Finding:
    count = min(figures.stranded, figures.most)
    if not count:
        return Finding("needs_recovery", "pass", 0)
    more = "more than " if figures.stranded > figures.most else ""
    then = (
        "the next sweep hands them back"
        if figures.alive
        else "start a worker, or run `failbetter recover`"
    )
    jobs = "jobs belong to workers" if figures.stranded > 1 else "job belongs to a worker"
    gone = "are" if figures.stranded > 1 else "is"
    text = f"{more}{count:,} {jobs} that {gone} gone; {then}"
    return Finding("needs_recovery", "warn", count, text)


def _recovered(figures: Figures) -> Finding:
    """The last recovery at one go: `failbetter recover` or a serving application's."""
    known = figures.recovery
    last = None if known.last_at is None else _stamp(_moment(known.last_at))
    observed = {"last": last, "outcome": known.last_outcome}
    under_way = f"under way, by {known.by}" if known.in_progress else None
    return Finding("recovery", "pass", observed, under_way)


def _sweeps(figures: Figures) -> Finding:
    """Whether interrupted jobs are being looked for. What cannot be known is null."""
    swept = figures.recovery.swept
    done = {"handed_back": swept.handed_back, "ended": swept.ended, "refused": swept.refused}
    at = figures.recovery.swept_at
    last = None if at is None else _moment(at)
    allowed = max((worker.lease for worker in figures.alive), default=round(_UNTOLD * 1e6))
    # A worker that has just started has not had the time; it tells of its sweeps now and then.
    known = [last, *(worker.started_at for worker in figures.alive)]
    since = max((moment for moment in known if moment is not None), default=None)
    if since is None or (not figures.alive and figures.now - since > allowed):
        observed = {"last": _stamp(last), "next": None, **done}
        return Finding("sweeps", "warn", observed, "nobody looks for interrupted jobs")
    following = max(figures.now, (last or figures.now) + round(_SWEEP * 1e6))
    observed = {"last": _stamp(last), "next": _stamp(following), **done}
    if figures.now - since <= allowed:
        return Finding("sweeps", "pass", observed)
    text = (
        f"no worker could look for interrupted jobs for {(figures.now - since) / 1e6:.0f} s, so"
        " that none is handed back; their logs say why"
    )
    return Finding("sweeps", "warn", observed, text)


def _moment(at: dt.datetime) -> int:
    return round(at.timestamp() * 1e6)


def _stamp(moment: int | None) -> str | None:
    if moment is None:
        return None
    made = dt.datetime.fromtimestamp(moment / 1e6, dt.UTC)
    return made.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _holds(figures: Figures) -> Finding:
    """What a person keeps waiting is as they want it; what a breaker does is an outage."""
    active = [hold for hold in figures.holds if hold.active]
    names = _names([f"{hold.kind} {hold.name}" for hold in active or figures.holds])
    text = f"kept waiting: {names}" if active else f"being let go of: {names}"
    is_outage = any(hold.probe_every is not None for hold in active)
    return Finding("holds", "warn" if is_outage else "pass", len(active), text)


def _mirror(figures: Figures) -> Finding:
    waiting = figures.mirrored
    lag = age(figures, waiting.since) or 0.0
    more = f"more than {figures.most:,} " if waiting.count > figures.most else ""
    why = "" if waiting.error is None else f"; the last error: {waiting.error}"
    return Finding(
        "mirror",
        "warn" if lag > _MIRROR_BOUND else "pass",
        {"waiting": min(waiting.count, figures.most), "oldest_seconds": lag},
        f"{more}mirrored rows that do not say yet what their job does{why}",
    )


def _followed(figures: Figures, followed: Followed) -> Finding:
    """Whether an engine's own jobs are followed, so that their rows tell the truth."""
    lag = age(figures, followed.at)
    late = lag is None or lag > _FOLLOWED_BOUND
    observed = {"last": _stamp(followed.at), "lag_seconds": lag}
    name = f"following_{followed.engine}"
    if not late and followed.error is None:
        return Finding(name, "pass", observed)
    why = "run `failbetter maintain -A …`" if followed.error is None else followed.error
    since = "never" if lag is None else f"{lag:.0f} s ago"
    text = f"jobs of {followed.engine}'s own were last compared {since}: {why}"
    return Finding(name, "warn", observed, text)


def _retention(pruned: Pruned) -> Finding:
    """Whether what is past its time is deleted as fast as it comes."""
    worst = max(pruned.behind, key=lambda state: pruned.behind[state], default=None)
    behind = 0.0 if worst is None else pruned.behind[worst]
    observed = {
        "last": None if pruned.at is None else _stamp(_moment(pruned.at)),
        "succeeded": pruned.succeeded,
        "discarded": pruned.discarded,
        "failed": pruned.failed,
        "behind_seconds": behind,
    }
    if behind <= _PRUNED_LATE:
        return Finding("retention", "pass", observed)
    text = (
        f"{worst} jobs are there {behind / 3600:,.1f} hours past their time: no worker is there to"
        " delete them, or more come than it can delete"
    )
    return Finding("retention", "warn", observed, text)
