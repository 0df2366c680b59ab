"""Events: whoever writes that jobs have failed or are discarded makes their hooks' jobs with it.

In the same transaction, so that there is neither an ending without its event nor an event twice.
Where no hook is registered, that costs one look at an empty table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import select

from failbetter import ids
from failbetter.durations import to_datetime
from failbetter.ledger import enqueue, groups
from failbetter.ledger.enqueue import NewJob
from failbetter.ledger.prepared import Prepared, b, listing
from failbetter.ledger.schema import hooks, jobs
from failbetter.lifecycle.events import DISCARDED, FAILED, GROUP_OPENED, Event, Hook
from failbetter.lifecycle.policy import from_json
from failbetter.lifecycle.states import Reason, State
from failbetter.limits import DRILL, bounded_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from failbetter.ledger.kinds import Tx
    from failbetter.lifecycle.events import EventKind

STATES = frozenset({State.FAILED, State.DISCARDED})
"""The ends that are events."""


class _Row(NamedTuple):
    """A job as it was just written."""

    id: int
    fence: int
    state: str
    reason: str | None
    ended_at: int
    task: str
    queue: str
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    starts: int
    subject: str | None
    tags: str | None
    policy: str


_columns = [jobs.c[name] for name in _Row._fields]
ROWS = Prepared(
    lambda kind: select(*_columns).where(kind.numbered(jobs.c.id, b("ids"))).order_by(jobs.c.id),
    "ids",
)
_tasks = msgspec.json.Decoder(tuple[str, ...])
HOOKS = Prepared(select(*(hooks.c[name] for name in Hook.__struct_fields__)))


def registered(tx: Tx) -> list[Hook]:
    """All hooks."""
    return [_hook(*row) for row in tx.rows(HOOKS)]


def _hook(*values: Any) -> Hook:
    only = values[-1]
    decoded = [*values[:-1], None if only is None else _tasks.decode(only)]
    return Hook(*decoded)


def ended(tx: Tx, numbers: Sequence[int], cancelled_at: int | None = None) -> None:
    """Make the hooks' jobs for those of the jobs that have failed or are discarded.

    Called in the transaction that has written so, once for each ending. `cancelled_at`: only for
    those that were cancelled at that moment.
    """
    if not numbers:
        return
    known = registered(tx)
    if not known:
        return
    found = [_Row(*row) for row in tx.rows(ROWS, listing(numbers))]
    rows = [row for row in found if _is_told(row)]
    if cancelled_at is not None:
        rows = [
            row for row in rows if (row.reason, row.ended_at) == (Reason.CANCELLED, cancelled_at)
        ]
    told = [_event(row, FAILED if row.state == State.FAILED else DISCARDED) for row in rows]
    if any(hook.event == GROUP_OPENED for hook in known):
        told += _groups_opened(tx, [row for row in rows if row.state == State.FAILED])
    now = tx.now()
    enqueue.insert_new(
        tx, [_job(hook, event, now) for event in told for hook in known if hook.means(event)]
    )


def _is_told(row: _Row) -> bool:
    """A drill's jobs fail on purpose; those of hooks must not call hooks for ever."""
    if row.state not in STATES or row.task.startswith(DRILL):
        return False
    return not from_json(row.policy).silent


def _event(row: _Row, kind: EventKind, *, reopened: bool = False) -> Event:
    at = to_datetime(row.ended_at)
    assert at is not None
    number = ids.to_text(row.id)
    return Event(
        id=f"{number}.{row.fence}.{kind}",
        kind=kind,
        at=at,
        job=number,
        task=row.task,
        queue=row.queue,
        reason=row.reason,
        error_type=row.error_type,
        error_message=row.error_message,
        fingerprint=row.fingerprint,
        attempts=row.starts,
        subject=row.subject,
        tags=() if row.tags is None else tuple(msgspec.json.decode(row.tags, type=list[str])),
        reopened=reopened,
    )


def _groups_opened(tx: Tx, failed: Iterable[_Row]) -> list[Event]:
    by_cause: dict[str, list[_Row]] = {}
    for row in failed:
        if row.fingerprint is not None:
            by_cause.setdefault(row.fingerprint, []).append(row)
    told = []
    # In one order everywhere, so that two workers do not each wait for the other's row.
    for cause, rows in sorted(by_cause.items()):
        first = rows[0]
        how = groups.opened(tx, cause, first.ended_at, len(rows))
        if how is not None:
            told.append(_event(first, GROUP_OPENED, reopened=how == groups.REOPENED))
    return told


def _job(hook: Hook, event: Event, now: int) -> NewJob:
    return NewJob(
        task=hook.task,
        queue=hook.queue,
        priority=hook.priority,
        run_at=now,
        created_at=now,
        expires_at=None if hook.expires_after is None else now + hook.expires_after,
        payload=msgspec.json.encode({hook.parameter: event}).decode(),
        policy=hook.policy,
        unique_key=bounded_key(f"{hook.task}:{event.id}"),
        tags=hook.tags,
    )
