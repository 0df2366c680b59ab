"""`app.jobs` and `app.failed`: jobs by what is known of them, one act for all that match."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Unpack

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, seconds
from failbetter.job import Job
from failbetter.lifecycle.ramp import Options
from failbetter.triage import filters as wanted
from failbetter.triage import operations, preview
from failbetter.triage.export import to_file, to_stream
from failbetter.triage.groups import Group, groups
from failbetter.triage.prune import PruneReport, prune_matching
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.job import Editor
    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.triage.filters import Wanted
    from failbetter.triage.operations import Operation
    from failbetter.triage.preview import Decoders, Missing, Preview


class Jobs:
    """A selection of jobs, newest first: the last accepted first. Read only when it is asked."""

    def __init__(
        self,
        database: Database,
        filters: Filters | None = None,
        limit: int | None = None,
        decoders: Decoders | None = None,
        missing: Missing | None = None,
        editor: Editor | None = None,
    ) -> None:
        self._database = database
        self._decoders = decoders or {}
        self._missing = missing
        self._editor = editor
        self._filters = filters or ledger.filters.Filters()
        self._limit = limit

    def where(self, **filters: Unpack[Wanted]) -> Jobs:
        """The jobs among these that match all that is given; of a list of values, any.

        `task`, `message`, `fingerprint`, `worker`, `code`: texts in which `*` stands for anything.
        `error`: a type's full name, or without a dot its last part, and whatever derives from it;
        with `*` only the types so named. `queue`, `tag`, `reason`, `state`: words. `worker`,
        `code`: of the last ended attempt. `ids`: job ids. `args`: by a parameter's name, further
        in with dots, what the argument is: a text, in which `*` stands for anything, or another
        value. `attempts`: a number, a comparison such as ">=3", or a pair: from, to.

        `since` (from then on), `until` (before then): an aware datetime; a date, which means its
        beginning; a duration back from now; or text, also "today" and "yesterday", in this
        machine's zone where it names none. They bound the end of a job, of a live one its making.

        Raises TypeError for an unknown filter or a wrong type, ValueError for what cannot be.
        """
        read = wanted.read(filters, self._database.now)
        return self._with(msgspec.structs.replace(read, also=self._filters), self._limit)

    def exclude(self, **filters: Unpack[Wanted]) -> Jobs:
        """The jobs among these that do not match all that is given, which is as for `where`.

        What has no such thing, as a job without an error has no message, does not match and stays.
        To leave out what matches any of several, exclude them one after the other.
        """
        read = wanted.read(filters, self._database.now)
        if not read.narrow and read.states is None:
            raise ValueError("exclude() without a filter would leave nothing; say which")
        left_out = msgspec.structs.replace(read, negated=True, also=self._filters)
        return self._with(ledger.filters.Filters(also=left_out), self._limit)

    def limit(self, count: int) -> Jobs:
        """At most `count` of them: the newest."""
        if count < 0:
            raise ValueError(f"a limit is a number of jobs from 0, not {count}")
        return self._with(self._filters, count)

    def _with(self, filters: Filters, limit: int | None) -> Jobs:
        return Jobs(self._database, filters, limit, self._decoders, self._missing, self._editor)

    def __iter__(self) -> Iterator[Job]:
        for page in ledger.reads.pages(self._database, self._filters, self._limit):
            for row in page:
                yield Job(self._database, row.id, row=row, editor=self._editor)

    def count(self) -> int:
        """How many there are (the limit aside)."""
        return ledger.reads.count(self._database, self._filters)

    def groups(self, state: str | None = None) -> list[Group]:
        """The jobs by cause, the largest group first, of equal ones that of the newest job.

        `state`: only the groups that are `open`, `resolved` or `ignored`; None: all, whose counts
        add up to `count()`. Raises ValueError for another word.
        """
        return groups(self._database, self._filters, state)

    def preview(self) -> Preview:
        """Keep the list of these jobs as they are now, each with what a retry would make of it."""
        return preview.select(
            self._database,
            self._filters,
            self._limit,
            self._decoders,
            missing=self._missing,
        )

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
        options = operations.checked_options(rate=rate, canary=canary, confirm=confirm)
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
