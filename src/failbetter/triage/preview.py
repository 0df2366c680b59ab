"""A preview: the frozen list of jobs that an act is meant for, each with a verdict."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ids, ledger
from failbetter.durations import Duration, to_datetime
from failbetter.errors import ConfigurationError, OperationNotFound, Refused
from failbetter.job import MASK
from failbetter.lifecycle.policy import from_json
from failbetter.lifecycle.ramp import OperationState, Options
from failbetter.lifecycle.replay import CONFIRMABLE, Facts, Verdict, judge
from failbetter.lifecycle.states import Reason, State
from failbetter.records import Reference, references_in
from failbetter.triage import operations
from failbetter.triage.operations import Operation
from failbetter.twins import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.operations import Row
    from failbetter.ledger.selection import Candidate, Chosen

    Decoders = Mapping[str, Callable[[str], object]]
    """Of each known task, what restores its arguments; raises ValueError when they do not fit.

    What it gives is looked through for references to records if it is (args, kwargs).
    """

    Missing = Callable[[Collection[Reference]], Collection[Reference]]
    """Which of these refer to nothing."""

_PAGE = 1_000
_MISFIT = "its arguments no longer fit its task"


class PreviewedJob(msgspec.Struct, frozen=True):
    """A job of a preview; `why` None: it is ready."""

    id: str
    verdict: str
    why: str | None


class Preview:
    """A stored, frozen list of failed jobs, and what would become of each; newest first.

    What fails later is outside, what moves meanwhile is skipped. It is cleared away after a day.
    """

    def __init__(self, database: Database, row: Row) -> None:
        self._database = database
        self._row = row

    def __repr__(self) -> str:
        return f"<Preview {self.token} of {self.total} jobs>"

    @property
    def token(self) -> str:
        """Names the preview: `app.preview(token)` opens it again, in any process."""
        return ids.to_text(self._row.id)

    @property
    def total(self) -> int:
        """How many jobs were selected."""
        return self._row.total

    def __len__(self) -> int:
        return self.total

    @property
    def created_at(self) -> datetime:
        """When its jobs were selected."""
        found = to_datetime(self._row.created_at)
        assert found is not None
        return found

    @property
    def filters(self) -> dict[str, Any]:
        """By what they were selected."""
        found: dict[str, Any] = msgspec.json.decode(self._row.filters)
        return found

    def counts(self) -> dict[str, int]:
        """How many jobs there are of each verdict that any has; `ready` is always there."""
        found = ledger.selection.by_verdict(self._database, self._row.id)
        return {
            str(word): found.get(word, 0) for word in Verdict if word in found or word is _READY
        }

    def reasons(self, limit: int = 20) -> list[tuple[str, str, int]]:
        """The commonest reasons why jobs are not ready: verdict, why, how many."""
        return ledger.selection.by_reason(self._database, self._row.id, limit)

    def __iter__(self) -> Iterator[PreviewedJob]:
        for entry in ledger.selection.entries(self._database, self._row.id):
            yield PreviewedJob(ids.to_text(entry.job_id), entry.verdict, entry.why)

    def retry(
        self,
        *,
        rate: float | None = None,
        canary: int | None = None,
        note: str | None = None,
        actor: str | None = None,
        confirm: bool = False,
        tolerate: float = 0.2,
        within: Duration = "10m",
        progress: Callable[[int, int], object] | None = None,
    ) -> Operation:
        """Make the jobs that are ready wait again, with fresh budgets.

        `rate`: jobs a second. `canary`: so many first, of each cause; once they were judged, by
        their first attempts and after `within` at the latest, the others follow at a pace that
        doubles, up to `rate`. A cause of which more than the share `tolerate` fails again alike
        is held back; when nothing else is left, the operation pauses. With neither, all are moved
        before this returns. `confirm`: also those that need confirmation. `actor`, `note`: who
        asks for it, and why, to be kept. `progress` is called with how many were dealt with, of
        how many.

        Raises ValueError or TypeError for what cannot be, Refused when the preview was acted on
        already, OperationNotFound when it was cleared away.
        """
        options = operations.checked_options(
            rate=rate, canary=canary, tolerate=tolerate, within=within, confirm=confirm
        )
        return self._act("retry", options, actor=actor, note=note, progress=progress)

    aretry = twin(retry)

    def discard(
        self,
        *,
        note: str | None = None,
        actor: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Operation:
        """Put the jobs aside for good, whatever their verdict. The rest as of `retry`."""
        return self._act("discard", Options(), actor=actor, note=note, progress=progress)

    adiscard = twin(discard)

    def _act(self, verb: str, options: Options, **given: Any) -> Operation:
        return operations.begin(self._database, self._row.id, verb, options, **given)


_READY = Verdict.READY


def find(database: Database, token: str) -> Preview:
    """The preview of that token.

    Raises OperationNotFound, Refused when it was acted on, ValueError when the text is no token.
    """
    row = operations.loaded(database, ids.from_text(token))
    if row.verb is not None:
        raise Refused(f"preview {token} was acted on already: it is an operation, {row.state}")
    if row.state != OperationState.PREVIEWED:
        raise OperationNotFound(f"preview {token} was never completed")
    return Preview(database, row)


def select(
    database: Database,
    filters: Filters,
    limit: int | None,
    decoders: Decoders,
    *,
    missing: Missing | None = None,
    restoring: bool = False,
) -> Preview:
    """Select the jobs that match now, judge each, and keep the list."""
    number = ids.take()
    now = database.now()
    database.transact(
        lambda tx: ledger.operations.create(tx, number, _described(filters, limit), now)
    )
    if limit is None and filters.until is None:
        # What fails while this runs is outside.
        filters = msgspec.structs.replace(filters, until=now)
    with database.look() as tx:
        workers = ledger.registry.all_workers(tx)
    known = {name for one in workers for name in msgspec.json.decode(one.tasks, type=list[str])}
    judged_by = _Judge(database, number, decoders, known | set(decoders), missing, now)
    total = 0
    for page in ledger.selection.candidates(database, filters, limit, _PAGE):
        chosen = [_to_restore(one) for one in page] if restoring else judged_by.page(page)
        _keep(database, number, chosen)
        total += len(chosen)
    row = database.transact(lambda tx: _complete(tx, number, total))
    return Preview(database, row)


def _keep(database: Database, number: int, chosen: list[Chosen]) -> None:
    database.transact(lambda tx: ledger.selection.choose(tx, number, chosen))


def _complete(tx: Tx, number: int, total: int) -> Row:
    row = ledger.operations.lock(tx, number)
    if row is None or row.state != OperationState.SELECTING:
        raise OperationNotFound("the preview was cleared away while it was made")
    row.state = OperationState.PREVIEWED.value
    row.total = total
    ledger.operations.save(tx, row)
    return row


class _Judge:
    """Gives each candidate its verdict, the newest first."""

    def __init__(
        self,
        database: Database,
        number: int,
        decoders: Decoders,
        known: set[str],
        missing: Missing | None,
        now: int,
    ) -> None:
        self._database = database
        self._number = number
        self._decoders = decoders
        self._known = known
        self._missing = missing
        self._now = now

    def page(self, page: list[Candidate]) -> list[Chosen]:
        keys = sorted({one.unique_key for one in page if one.unique_key is not None})
        with self._database.look() as tx:
            taken = ledger.selection.keys_chosen(tx, self._number, keys)
        read = [self._arguments(one) for one in page]
        missing = self._missing_of({each for one in read for each in one.references})
        chosen = []
        for one, arguments in zip(page, read, strict=True):
            verdict, why = judge(self._facts(one, arguments, missing, taken))
            if verdict in CONFIRMABLE and one.unique_key is not None:
                taken.add(one.unique_key)
            chosen.append(
                ledger.selection.Chosen(
                    one.id, one.fence, one.fingerprint, str(verdict), why, one.past
                )
            )
        return chosen

    def _missing_of(self, references: set[Reference]) -> Collection[Reference]:
        return self._missing(references) if self._missing is not None and references else ()

    def _facts(
        self,
        one: Candidate,
        arguments: _Arguments,
        missing: Collection[Reference],
        taken: set[str],
    ) -> Facts:
        policy = from_json(one.policy)
        gone = next((each for each in arguments.references if each in missing), None)
        return Facts(
            state=one.state,
            reason=one.reason,
            expires_at=one.expires_at,
            replay=policy.replay,
            verify=policy.verify,
            known_task=not self._known or one.origin is not None or one.task in self._known,
            misfit=arguments.misfit,
            missing=None if gone is None else _no_record(gone, hidden=bool(policy.redact)),
            done=one.done,
            in_doubt=one.known - one.done,
            twin=bool(one.twin),
            newer_twin=one.unique_key in taken,
            superseded=bool(one.superseded),
            replaced=bool(one.replaced),
            now=self._now,
        )

    def _arguments(self, one: Candidate) -> _Arguments:
        decode = self._decoders.get(one.task)
        if decode is None:
            return _UNKNOWN
        payload = one.payload
        if payload is None:
            payload = ledger.selection.payload_of(self._database, one.id)
        try:
            found = decode(payload)
        except (ValueError, ConfigurationError) as error:
            # What the decoder says may show a part of what must not be shown.
            hidden = bool(from_json(one.policy).redact)
            return _Arguments(_MISFIT if hidden else f"{_MISFIT}: {error}")
        match found:
            case (tuple() as args, dict() as kwargs):
                return _Arguments(None, tuple(references_in(args, kwargs)))
        return _UNKNOWN


class _Arguments(msgspec.Struct, frozen=True):
    """What is known of a job's arguments: why they do not fit, and the records they refer to."""

    misfit: str | None = None
    references: tuple[Reference, ...] = ()


_UNKNOWN = _Arguments()


def _no_record(reference: Reference, *, hidden: bool) -> str:
    return f"there is no {reference.shown(MASK) if hidden else reference}"


def _to_restore(one: Candidate) -> Chosen:
    verdict, why = Verdict.READY, None
    if (one.state, one.reason) != (State.DISCARDED, Reason.BY_OPERATOR):
        verdict = Verdict.NOT_DISCARDED
        why = f"not discarded by a person but {one.state}"
        if one.state == State.DISCARDED:
            why += f" ({one.reason})"
    past = msgspec.structs.replace(
        one.past,
        reason=one.failed_reason or Reason.ERROR,
        ended_at=one.failed_at or one.ended_at,
    )
    return ledger.selection.Chosen(one.id, one.fence, one.fingerprint, str(verdict), why, past)


def _described(filters: Filters, limit: int | None) -> str:
    """The filters as a person may read them."""
    said: dict[str, Any] = {} if limit is None else {"limit": limit}
    part: Filters | None = filters
    while part is not None:
        for name, value in msgspec.to_builtins(part).items():
            if name not in ("also", "negated") and value is not None:
                is_one = isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str)
                said.setdefault(
                    f"not_{name}" if part.negated else name, value[0] if is_one else value
                )
        part = part.also
    return msgspec.json.encode(said).decode()
