"""Failures by cause, and what people say of a cause: that it is dealt with, that it may be."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ledger
from failbetter.durations import to_datetime
from failbetter.errors import Refused
from failbetter.job import Job
from failbetter.limits import KEY_LENGTH

if TYPE_CHECKING:
    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.groups import GroupRow, Said
    from failbetter.ledger.kinds import Tx

OPEN, RESOLVED, IGNORED = STATES = ("open", "resolved", "ignored")

# So much of a message tells two groups of one task and type apart.
_TITLE = 80
_LONGEST_NOTE = 4_000


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Failed jobs of one cause, as far as they were asked for. Changed by its verbs alone.

    `fingerprint`: of the cause; None: nothing is known of it, and the jobs share a task, a reason
    and an error's type. `count`: how many there are; `first_seen`, `last_seen`: when they ended.
    `sample`: the newest of them, and `task`, `reason`, `error_type` and `message` are of it.
    `tasks`, `queues`, `code_versions`: of all of them, in alphabetical order.

    `state`: `open`, `resolved` or `ignored`. A resolved cause of which a job has failed since is
    `open` again, `reopened`, and `recurred` counts those jobs. `actor`, `note` and `changed_at`
    are of what was said last; None when nothing was.
    """

    fingerprint: str | None
    title: str
    task: str
    reason: str | None
    error_type: str | None
    message: str | None
    count: int
    first_seen: datetime | None
    last_seen: datetime | None
    sample: Job
    tasks: tuple[str, ...]
    queues: tuple[str, ...]
    code_versions: tuple[str, ...]
    state: str = OPEN
    reopened: bool = False
    recurred: int = 0
    actor: str | None = None
    note: str | None = None
    changed_at: datetime | None = None
    database: Any = None
    """The ledger that it is in."""

    def __repr__(self) -> str:
        return f"<Group {self.fingerprint} {self.title!r}: {self.count}, {self.state}>"

    def resolve(self, *, note: str | None = None, actor: str | None = None) -> Group:
        """Say that the cause is dealt with. What fails of it from now on opens the group again.

        Returns the group as it is then. Raises Refused for one without a fingerprint.
        """
        return self._say(RESOLVED, note, actor)

    def ignore(self, *, note: str | None = None, actor: str | None = None) -> Group:
        """Say that the cause needs no attention, also if it recurs. It is still counted.

        Returns the group as it is then. Raises Refused for one without a fingerprint.
        """
        return self._say(IGNORED, note, actor)

    def reopen(self, *, note: str | None = None, actor: str | None = None) -> Group:
        """Say that the cause needs attention, whatever was said before.

        Returns the group as it is then. Raises Refused for one without a fingerprint.
        """
        return self._say(OPEN, note, actor)

    def _say(self, state: str, note: str | None, actor: str | None) -> Group:
        if self.fingerprint is None:
            raise Refused(f"{self.title}: these jobs have no fingerprint that a state could be of")
        for name, text, most in (("note", note, _LONGEST_NOTE), ("actor", actor, KEY_LENGTH)):
            if text is not None and len(text) > most:
                raise ValueError(f"{name}: at most {most} characters, not {len(text)}")
        at = self.database.transact(partial(_said, self.fingerprint, state, actor, note))
        return msgspec.structs.replace(
            self,
            state=state,
            reopened=False,
            recurred=0,
            actor=actor,
            note=note,
            changed_at=to_datetime(at),
        )


def _said(fingerprint: str, state: str, actor: str | None, note: str | None, tx: Tx) -> int:
    at = tx.now()
    ledger.groups.say(tx, fingerprint, state, at, actor, note)
    return at


def groups(database: Database, filters: Filters, state: str | None) -> list[Group]:
    """Matching jobs by cause, the largest group first; of all groups, or those of a state."""
    if state is not None and state not in STATES:
        raise ValueError(f"{state!r} is no state of a group; there are: {', '.join(STATES)}")
    rows = ledger.groups.found(database, filters)
    said = ledger.groups.all_said(database) if rows else {}
    known = [None if row.fingerprint is None else said.get(row.fingerprint) for row in rows]
    wanted = [
        (row, one) for row, one in zip(rows, known, strict=True) if state in (None, _state(one))
    ]
    samples = ledger.reads.jobs_of(database, [row.sample for row, _ in wanted])
    # One whose newest job was deleted this very moment has become another group.
    there = [
        (row, one, Job(database, row.sample, row=samples[row.sample]))
        for row, one in wanted
        if row.sample in samples
    ]
    alike = Counter(_title(job) for _, _, job in there)
    return [_group(row, one, job, database, alike[_title(job)] > 1) for row, one, job in there]


def _state(said: Said | None) -> str:
    if said is None or (said.state == RESOLVED and said.since):
        return OPEN
    return said.state


def _title(sample: Job) -> str:
    return f"{sample.task}: {sample.error_type or sample.reason or sample.state}"


def _group(row: GroupRow, said: Said | None, sample: Job, database: Database, alike: bool) -> Group:
    """`alike`: whether another group has the same task and type, so that the message tells more."""
    title, message = _title(sample), " ".join((sample.error_message or "").split())
    return Group(
        fingerprint=row.fingerprint,
        title=f"{title}: {message[:_TITLE]}" if alike and message else title,
        task=sample.task,
        reason=sample.reason,
        error_type=sample.error_type,
        message=sample.error_message,
        count=row.count,
        first_seen=to_datetime(row.first_at),
        last_seen=to_datetime(row.last_at),
        sample=sample,
        tasks=tuple(row.tasks),
        queues=tuple(row.queues),
        code_versions=tuple(row.codes),
        state=_state(said),
        reopened=said is not None and said.state == RESOLVED and said.since > 0,
        recurred=0 if said is None else said.since,
        actor=None if said is None else said.actor,
        note=None if said is None else said.note,
        changed_at=to_datetime(None if said is None else said.at),
        database=database,
    )
