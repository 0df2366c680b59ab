"""`app.jobs` and `app.failed`: jobs by what is known of them, one act for all that match."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import IO, TYPE_CHECKING

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, micros, moment, seconds, to_datetime
from failbetter.job import Job
from failbetter.lifecycle.ramp import Options
from failbetter.lifecycle.states import Reason, State
from failbetter.triage import operations, preview
from failbetter.triage.export import to_file, to_stream
from failbetter.triage.prune import PruneReport, prune_matching
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.ledger.database import Database
    from failbetter.ledger.reads import Filters, GroupRow
    from failbetter.triage.operations import Operation
    from failbetter.triage.preview import Decoders, Preview


class Group(msgspec.Struct, frozen=True):
    """Failed jobs that share a task, a reason and a cause."""

    fingerprint: str | None
    title: str
    task: str
    reason: str | None
    error_type: str | None
    count: int
    first_seen: datetime | None
    last_seen: datetime | None
    sample: Job


class Jobs:
    """A selection of jobs, newest first. Nothing is read until it is asked for."""

    def __init__(
        self,
        database: Database,
        filters: Filters | None = None,
        limit: int | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        self._database = database
        self._decoders = decoders or {}
        self._filters = filters or ledger.reads.Filters()
        self._limit = limit

    def where(
        self,
        *,
        ids: list[str] | None = None,
        task: str | None = None,
        queue: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        message: str | None = None,
        tag: str | None = None,
        fingerprint: str | None = None,
        since: Duration | datetime | None = None,
        until: Duration | datetime | None = None,
    ) -> Jobs:
        """The jobs among these that match all that is given.

        `error`: a type's full name, or without a dot its last part; it, `task` and `message` may
        hold `*`. `since`, `until`: an aware datetime, or a duration back from now; they bound the
        end of a job, of a live one its making. Raises ValueError for what cannot be.
        """
        now = time.time()
        filters = ledger.reads.Filters(
            ids=None if ids is None else tuple(_number(text) for text in ids),
            task=task,
            queue=queue,
            states=None if state is None else (_word(State, "state", state),),
            reason=None if reason is None else _word(Reason, "reason", reason),
            error=error,
            message=message,
            tag=tag,
            fingerprint=fingerprint,
            since=_past(since, now),
            until=_past(until, now),
            also=self._filters,
        )
        return Jobs(self._database, filters, self._limit, self._decoders)

    def limit(self, count: int) -> Jobs:
        """At most `count` of them: the newest."""
        if count < 0:
            raise ValueError(f"a limit is a number of jobs from 0, not {count}")
        return Jobs(self._database, self._filters, count, self._decoders)

    def __iter__(self) -> Iterator[Job]:
        for page in ledger.reads.pages(self._database, self._filters, self._limit):
            for row in page:
                yield Job(self._database, row.id, row=row)

    def count(self) -> int:
        """How many there are (the limit aside)."""
        return ledger.reads.count(self._database, self._filters)

    def groups(self) -> list[Group]:
        """The jobs by cause, the largest group first."""
        return [
            _group(self._database, row)
            for row in ledger.reads.groups(self._database, self._filters)
        ]

    def preview(self) -> Preview:
        """Keep the list of these jobs as they are now, each with what a retry would make of it."""
        return preview.select(self._database, self._filters, self._limit, self._decoders)

    apreview = twin(preview)

    def export(self, to: str | os.PathLike[str] | IO[bytes], *, force: bool = False) -> int:
        """Write them, newest first, to a file of JSON lines or a binary stream; how many it were.

        A line has the job, its arguments, error and fingerprint, its attempts with tracebacks and
        its effects; what is redacted stays so. The file is there once it is whole. Raises
        FileExistsError, unless `force` has it replaced, and OSError.
        """
        if isinstance(to, (str, os.PathLike)):
            return to_file(self._database, self._filters, self._limit, to, force=force)
        return to_stream(self._database, self._filters, self._limit, to)

    aexport = twin(export)

    def prune(
        self,
        *,
        older_than: Duration | None = None,
        all: bool = False,
        dry_run: bool = False,
        export: str | os.PathLike[str] | None = None,
    ) -> PruneReport:
        """Delete those that have ended, with all that is kept of them; live jobs are left alone.

        `older_than`: only what ended longer ago. `dry_run`: counts, and deletes nothing. `export`:
        a new file to which each job is written, as by `export`, before it is deleted. A job whose
        mirrored row does not say yet how it ended is kept. Raises ValueError without a filter and
        an age, unless `all` says that every ended job is meant; FileExistsError.
        """
        aged = older_than is not None and seconds(older_than) > 0
        if not (self._filters.narrow or self._limit is not None or aged or all):
            raise ValueError("prune without a filter or an age means every ended job: say all=True")
        return prune_matching(
            self._database,
            self._filters,
            self._limit,
            older_than=older_than,
            dry_run=dry_run,
            export=export,
        )

    aprune = twin(prune)

    def retry(
        self,
        *,
        all: bool = False,
        rate: float | None = None,
        canary: int | None = None,
        note: str | None = None,
        actor: str | None = None,
        confirm: bool = False,
    ) -> Operation:
        """Make the failed ones wait again with fresh budgets: preview and retry in one.

        Acts on the jobs that match when it starts; without `rate` and `canary` at once. See
        `Preview.retry`. Raises ValueError without a filter, unless `all` says that every failed
        job is meant.
        """
        options = operations.checked_options(
            rate=rate, canary=canary, tolerate=0.2, within=600, confirm=confirm
        )
        self._must_be_meant("retry", everything=all)
        found = self.preview()
        return operations.begin(
            self._database, ids.from_text(found.token), "retry", options, actor=actor, note=note
        )

    aretry = twin(retry)

    def discard(
        self, *, all: bool = False, note: str | None = None, actor: str | None = None
    ) -> Operation:
        """Put the failed ones aside for good. As for `retry`, no filter needs `all`."""
        self._must_be_meant("discard", everything=all)
        return self.preview().discard(note=note, actor=actor)

    adiscard = twin(discard)

    def restore(
        self, *, all: bool = False, note: str | None = None, actor: str | None = None
    ) -> Operation:
        """Make those that a person has discarded failed again, as they were.

        Of `app.jobs`, such as `app.jobs.where(reason="by_operator")`. As for `retry`, no filter
        needs `all`.
        """
        self._must_be_meant("restore", everything=all)
        found = preview.select(self._database, self._filters, self._limit, {}, restoring=True)
        return operations.begin(
            self._database,
            ids.from_text(found.token),
            "restore",
            Options(),
            actor=actor,
            note=note,
        )

    arestore = twin(restore)

    def _must_be_meant(self, verb: str, *, everything: bool) -> None:
        if not self._filters.narrow and self._limit is None and not everything:
            raise ValueError(f"{verb} without a filter means every such job: say all=True")


def _word(words: type[State] | type[Reason], what: str, text: str) -> str:
    known = [word.value for word in words]
    if text not in known:
        raise ValueError(f"{text!r} is no {what}; there are: {', '.join(known)}")
    return text


def _number(text: str) -> int:
    return ids.from_text(text)


def _past(value: Duration | datetime | None, now: float) -> int | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return micros(moment(value, now))
    return micros(now - seconds(value))


def _group(database: Database, row: GroupRow) -> Group:
    what = row.error_type or row.reason or "failed"
    return Group(
        row.fingerprint,
        f"{row.task}: {what}",
        row.task,
        row.reason,
        row.error_type,
        row.count,
        to_datetime(row.first_at),
        to_datetime(row.last_at),
        Job(database, row.sample),
    )
