"""Alerts: rules that workers watch, and people who are told when one is so, and when it ended.

What an alert is told by is a job. Its payload holds what is said and to which alert it belongs;
addresses, which hold secrets, are in your code alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from failbetter import ledger
from failbetter.durations import Duration, seconds, to_datetime
from failbetter.errors import ConfigurationError, Fail, LedgerError
from failbetter.lifecycle.alerting import RuleKind, Standing, Watched, lasts, step
from failbetter.lifecycle.states import State
from failbetter.limits import KEY_LENGTH

if TYPE_CHECKING:
    from failbetter.ledger.alerts import Grown
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_logger = logging.getLogger("failbetter.alerts")

TELL = "failbetter.alert"
"""The task whose jobs tell of alerts."""

_EVERY = 10_000_000
"""Microseconds between two looks at an alert, whoever looks."""
# Seconds to wait for a turn to write.
_TURN = 5.0
# Groups that are named in one message.
_NAMED = 10


class FailureRate(msgspec.Struct, frozen=True):
    """Of the jobs that ended `within` a time (a duration), a larger share than `over` (0 to 1)
    failed, and at least `at_least` ended. Discarded jobs do not count, nor do attempts."""

    over: float
    within: Duration = "10m"
    at_least: int = 20


class OldestWaiting(msgspec.Struct, frozen=True):
    """A job has waited for a worker for longer than `age` (a duration) since it fell due.

    `queue`: of that queue; None: of any. What is held on purpose does not count, nor what waits for
    a rate limit.
    """

    age: Duration
    queue: str | None = None


class Depth(msgspec.Struct, frozen=True):
    """More than `count` jobs wait for a worker, and are due. `queue`: in that queue; None: in all.

    Those of a paused queue count, those of a task or group that is held do not.
    """

    count: int
    queue: str | None = None


class NewGroup(msgspec.Struct, frozen=True):
    """Jobs failed of a cause of which none had failed, or of one that had been resolved."""


class GrowingGroup(msgspec.Struct, frozen=True):
    """At least `by` jobs failed of one cause `within` a time (a duration)."""

    by: int
    within: Duration = "10m"


Rule: TypeAlias = FailureRate | OldestWaiting | Depth | NewGroup | GrowingGroup


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of an alert: `title` in a line, `text` in a few. `recovered`: it has ended."""

    alert: str
    title: str
    text: str
    recovered: bool
    at: datetime


To: TypeAlias = str | Sequence[str] | Callable[[Notice], object]


class Alert:
    """An alert of an app: what is watched, and who is told."""

    def __init__(self, watched: Watched, to: To) -> None:
        """Raises TypeError for what is no address, ConfigurationError without the extra."""
        self.watched = watched
        self._to = to if callable(to) else _addresses(watched.name, to)

    def __repr__(self) -> str:
        return f"<Alert {self.watched.name}>"

    def tell(self, notice: Notice) -> None:
        """Tell it. Raises when that is to be tried again, Fail when it never can be."""
        if callable(self._to):
            self._to(notice)
        else:
            _send(notice, self._to)


def watched(
    name: str, when: Rule, *, quiet: Duration, policy: str, told_on: str = "default"
) -> Watched:
    """An alert of that rule, checked. Raises TypeError or ValueError for what cannot be."""
    if not 0 < len(str(name).strip()) <= KEY_LENGTH:
        raise ValueError(f"an alert's name is a text of 1 to {KEY_LENGTH} characters, not {name!r}")
    kind, over = _kind_of(when)
    within = seconds(getattr(when, "within", 1))
    at_least = getattr(when, "at_least", 1)
    impossible = not math.isfinite(over) or over < 0 or (kind == "failure_rate" and over >= 1)
    if impossible or (kind == "growing_group" and over < 1):
        raise ValueError(f"alert {name!r}: {when!r} cannot be watched")
    if within <= 0 or isinstance(at_least, bool) or at_least < 1:
        raise ValueError(f"alert {name!r}: within is more than 0 s, and at_least 1 or more")
    return Watched(
        name=name,
        kind=kind,
        over=over,
        quiet=seconds(quiet),
        policy=policy,
        within=within,
        at_least=at_least,
        queue=getattr(when, "queue", None),
        told_on=told_on,
    )


def _kind_of(when: object) -> tuple[RuleKind, float]:
    if isinstance(when, FailureRate):
        return "failure_rate", float(when.over)
    if isinstance(when, OldestWaiting):
        return "oldest_waiting", seconds(when.age)
    if isinstance(when, Depth):
        return "depth", float(when.count)
    if isinstance(when, NewGroup):
        return "new_group", 0.0
    if isinstance(when, GrowingGroup):
        return "growing_group", float(when.by)
    raise TypeError(f"when= is a rule of failbetter.alerts, such as NewGroup(), not {when!r}")


# -- watching


class Looked(msgspec.Struct):
    """What a tick did: alerts that were looked at, and those that are told of now."""

    looked: int = 0
    told: list[str] = []


class Watcher:
    """Looks at alerts; of all who do, one at a time looks at each, every 10 s."""

    def __init__(self, database: Database, alerts: Sequence[Watched]) -> None:
        self._database = database
        self._alerts = alerts

    def tick(self) -> Looked:
        """Look at those that are due. Raises LedgerError when the ledger cannot be asked."""
        done = Looked(told=[])
        for one in self._alerts:
            try:
                self._look(one, done)
            except LedgerError:
                raise
            except Exception:
                # A defect of ours or a spoilt row: the others are watched all the same.
                _logger.exception("alert %r could not be looked at", one.name)
        if done.told:
            self._database.wake(len(done.told))
        return done

    def _look(self, one: Watched, done: Looked) -> None:
        with self._database.look() as tx:
            if not ledger.alerts.due(tx, one.name, tx.now(), _EVERY):
                return
        with self._database.write(durable=False, timeout=_TURN) as tx:
            now = tx.now()
            before = ledger.alerts.take(tx, one.name, now, _EVERY)
        if before is None:
            return
        done.looked += 1
        # Outside a transaction, so that nobody waits while much is counted.
        with self._database.look() as tx:
            said = _FACTS[one.kind](tx, one, before, now)
        stepped = step(before, is_so=said is not None, lasting=lasts(one), quiet=one.quiet, now=now)
        notice = None
        if stepped.tell is not None:
            notice = _notice(one, said, recovered=stepped.tell == "recovered", now=now)
        with self._database.write(timeout=_TURN) as tx:
            if ledger.alerts.save(tx, one.name, stepped.standing, now) and notice is not None:
                _make_job(tx, one, notice, now)
                done.told.append(one.name)


def _notice(one: Watched, said: str | None, *, recovered: bool, now: int) -> Notice:
    at = to_datetime(now)
    assert at is not None
    if recovered:
        title, text = f"recovered: {one.name}", "It is no longer so."
    else:
        title, text = one.name, said or ""
    return Notice(alert=one.name, title=title, text=text, recovered=recovered, at=at)


def _make_job(tx: Tx, one: Watched, notice: Notice, now: int) -> None:
    job = ledger.enqueue.NewJob(
        task=TELL,
        queue=one.told_on,
        priority=0,
        run_at=now,
        created_at=now,
        expires_at=None,
        payload=msgspec.json.encode({"notice": notice}).decode(),
        policy=one.policy,
    )
    ledger.enqueue.insert_new(tx, [job])


# What is to be said if it is so; None: it is not.


def _failure_rate(tx: Tx, one: Watched, before: Standing, now: int) -> str | None:
    after = now - round(one.within * 1_000_000)
    failed = ledger.alerts.ended_since(tx, State.FAILED, after)
    ended = failed + ledger.alerts.ended_since(tx, State.SUCCEEDED, after)
    if ended < one.at_least or failed <= one.over * ended:
        return None
    return f"{failed:,} of {ended:,} jobs that ended in the last {_span(one.within)} failed."


def _oldest_waiting(tx: Tx, one: Watched, before: Standing, now: int) -> str | None:
    due = ledger.reads.oldest_due(tx, now, one.queue)
    if due is None or now - due <= one.over * 1_000_000:
        return None
    return f"A job{_of(one)} has waited for {_span((now - due) / 1_000_000)}."


def _depth(tx: Tx, one: Watched, before: Standing, now: int) -> str | None:
    count = int(one.over)
    if ledger.alerts.waiting(tx, one.queue, now, count + 1) <= count:
        return None
    return f"More than {count:,} jobs{_of(one)} wait."


def _new_group(tx: Tx, one: Watched, before: Standing, now: int) -> str | None:
    found = ledger.alerts.new(tx, before.after, TELL)
    return _groups(tx, "New causes of failure:", found)


def _growing_group(tx: Tx, one: Watched, before: Standing, now: int) -> str | None:
    after = now - round(one.within * 1_000_000)
    found = ledger.alerts.grown(tx, after, int(one.over), TELL)
    return _groups(tx, f"Failed in the last {_span(one.within)}:", found)


def _groups(tx: Tx, head: str, found: list[Grown]) -> str | None:
    if not found:
        return None
    named = ledger.alerts.titled(tx, found[:_NAMED])
    lines = [f"{group.title} ({group.count:,}), {group.fingerprint}" for group in named]
    if len(found) > _NAMED:
        lines.append(f"and {len(found) - _NAMED:,} more")
    return "\n".join([head, *lines])


_FACTS: dict[RuleKind, Callable[[Tx, Watched, Standing, int], str | None]] = {
    "failure_rate": _failure_rate,
    "oldest_waiting": _oldest_waiting,
    "depth": _depth,
    "new_group": _new_group,
    "growing_group": _growing_group,
}


def _of(one: Watched) -> str:
    return "" if one.queue is None else f" of queue {one.queue}"


def _span(value: float) -> str:
    for unit, size in (("h", 3600.0), ("m", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"


# -- telling


def teller(alerts: dict[str, Alert]) -> Callable[[Notice], None]:
    """The body of the task that tells of these."""

    def tell(notice: Notice) -> None:
        """Tell of an alert."""
        found = alerts.get(notice.alert)
        if found is None:
            raise Fail(f"no alert {notice.alert!r} is in the code that this worker runs")
        found.tell(notice)

    return tell


def _addresses(name: str, to: object) -> tuple[str, ...]:
    """Addresses as apprise writes them. What is no address is not repeated: it may be a secret."""
    found = (to,) if isinstance(to, str) else tuple(to) if isinstance(to, Sequence) else ()
    if not found or not all(isinstance(one, str) and "://" in one for one in found):
        raise TypeError(
            f"alert {name!r}: to= is an address such as mailto://…, a list of them, or a callable"
            " that is given the Notice"
        )
    if importlib.util.find_spec("apprise") is None:
        raise ConfigurationError(_NO_EXTRA.format(name))
    return found


_NO_EXTRA = (
    "alert {!r} is told to addresses, which takes the extra `alerts`, and that is not installed:"
    " pip install 'failbetter[alerts]', or give a callable as to="
)


def _send(notice: Notice, addresses: Sequence[str]) -> None:
    """Send to each, and raise if one of them took nothing; then all are tried again."""
    try:
        import apprise
    except ImportError:
        raise Fail(_NO_EXTRA.format(notice.alert)) from None
    kind = apprise.NotifyType.SUCCESS if notice.recovered else apprise.NotifyType.WARNING
    refused, unknown = [], []
    for number, address in enumerate(addresses, 1):
        with _in_silence():
            box = apprise.Apprise()
            if not _succeeds(box.add, address):
                unknown.append(number)
            elif not _succeeds(box.notify, title=notice.title, body=notice.text, notify_type=kind):
                refused.append(number)
    if refused:
        raise ConnectionError(f"{_number(refused, addresses)} of the alert could not be reached")
    if unknown:
        raise Fail(f"{_number(unknown, addresses)} of the alert is none that apprise knows")


def _succeeds(act: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    try:
        return bool(act(*args, **kwargs))
    except Exception:  # its text may hold the address
        return False


def _number(which: Sequence[int], addresses: Sequence[str]) -> str:
    return f"address {', '.join(map(str, which))} of {len(addresses)}"


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Nothing of what libraries log here is let through: it may hold the address."""
    here = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(elsewhere)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(elsewhere)
