"""Which jobs are meant: the filters, in one place, and what they are as SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from failbetter.ledger.prepared import ONE, ZERO
from failbetter.ledger.schema import attempts, bases, jobs
from failbetter.lifecycle.states import ENDS, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.kinds import Kind

Words = tuple[str, ...]


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are meant; None means any. Times in microseconds since the epoch.

    Of several values any is meant. `*` in a text stands for anything, but not in `queue`, `reason`
    and `tag`. An `error` without `*` means the type and whatever derives from it: with a dot by
    its full name, without one by the last part. `since` and `until` bound the end (or, of a live
    job, its making).
    """

    ids: tuple[int, ...] | None = None
    task: Words | None = None
    queue: Words | None = None
    states: Words | None = None
    reason: Words | None = None
    error: Words | None = None
    message: Words | None = None
    tag: Words | None = None
    fingerprint: Words | None = None
    worker: Words | None = None
    """The name of the worker that made the last ended attempt."""
    code: Words | None = None
    """The version of the code that the last ended attempt ran."""
    args: tuple[tuple[str, str], ...] | None = None
    """Arguments by name, further in with dots, and what each must be, as JSON has it."""
    attempts: tuple[tuple[int, int | None], ...] | None = None
    """How many attempts there were: from, to (both counted in; None: no bound)."""
    since: int | None = None
    until: int | None = None
    negated: bool = False
    """Whether those are meant that do not match all that is given here."""
    also: Filters | None = None
    """What they must match besides, negated or not."""

    @property
    def narrow(self) -> bool:
        """Whether anything but the state is asked for."""
        if self.also is not None and self.also.narrow:
            return True
        own = set(self.__struct_fields__) - {"states", "also", "negated"}
        return any(getattr(self, name) is not None for name in own)

    @property
    def surely(self) -> frozenset[str]:
        """The states in which a job that matches can be."""
        within = frozenset(State) if self.also is None else self.also.surely
        return within if self.states is None or self.negated else within & frozenset(self.states)


def condition(filters: Filters, kind: Kind) -> ColumnElement[bool]:
    """The filters as SQL."""
    return _condition(filters, kind, filters.surely)


def _condition(filters: Filters, kind: Kind, states: frozenset[str]) -> ColumnElement[bool]:
    own = and_(true(), *_parts(filters, kind, states))
    if filters.negated:
        # What is not known, such as the message of a job without an error, does not match.
        own = case((own, ZERO), else_=ONE) == ONE
    return own if filters.also is None else and_(own, _condition(filters.also, kind, states))


def _parts(filters: Filters, kind: Kind, states: frozenset[str]) -> list[ColumnElement[bool]]:
    """What must all be so, of one of a chain of filters; `states` are of the whole chain."""
    parts: list[ColumnElement[bool]] = []
    if filters.ids is not None:
        parts.append(jobs.c.id.in_(filters.ids))
    if filters.states is not None:
        parts.append(_of_states(filters.states))
    for column, texts in ((jobs.c.queue, filters.queue), (jobs.c.reason, filters.reason)):
        if texts is not None:
            parts.append(column.in_(texts))
    failed = states <= {State.FAILED}
    patterns: tuple[tuple[Words | None, Callable[[str], ColumnElement[bool]]], ...] = (
        (filters.task, lambda text: _like(kind, jobs.c.task, text)),
        (filters.error, lambda text: _error(kind, text)),
        (filters.message, lambda text: _like(kind, jobs.c.error_message, text)),
        (filters.fingerprint, lambda text: _like(kind, jobs.c.fingerprint, text)),
        # Tags are kept as a JSON list.
        (filters.tag, lambda text: kind.contains(jobs.c.tags, _json(text))),
        (filters.worker, lambda text: _like(kind, _last(attempts.c.worker), text)),
        (filters.code, lambda text: _like(kind, jobs.c.code if failed else _code(), text)),
    )
    parts += [or_(*map(of, texts)) for texts, of in patterns if texts is not None and texts]
    parts += [not_(true()) for texts, _ in patterns if texts is not None and not texts]
    parts += [_argument(kind, name, wanted) for name, wanted in filters.args or ()]
    if filters.attempts is not None:
        made = jobs.c.starts + case((jobs.c.state == _word(State.RUNNING), ONE), else_=ZERO)
        parts.append(or_(*(_between(made, *bounds) for bounds in filters.attempts)))
    moment = _moment(kind, states)
    if filters.since is not None:
        parts.append(moment >= filters.since)
    if filters.until is not None:
        parts.append(moment < filters.until)
    return parts


def _moment(kind: Kind, states: frozenset[str]) -> ColumnElement[int]:
    if states <= {State.FAILED}:
        # A page is found by its ids, and a count by the index that holds all that is asked for.
        return kind.aside(jobs.c.ended_at)
    if states <= ENDS:
        return jobs.c.ended_at
    return func.coalesce(jobs.c.ended_at, jobs.c.created_at)


def _word(text: str) -> ColumnElement[str]:
    """A state as it stands in the statement's text: an index of some states only is seen to fit."""
    return bindparam(None, str(text), literal_execute=True)


def _of_states(states: Words) -> ColumnElement[bool]:
    if len(states) == 1:
        return jobs.c.state == _word(states[0])
    return jobs.c.state.in_(states)


def _like(kind: Kind, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """`*` stands for anything; everything else for itself, and case counts."""
    return kind.matches(column, pattern) if "*" in pattern else column == pattern


def _error(kind: Kind, pattern: str) -> ColumnElement[bool]:
    own = _named(kind, jobs.c.error_type, pattern)
    if "*" in pattern:
        return own
    derived = select(bases.c.error_type).where(_named(kind, bases.c.base, pattern))
    return or_(own, jobs.c.error_type.in_(derived))


def _named(kind: Kind, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    whole = _like(kind, column, pattern)
    return whole if "." in pattern else or_(whole, kind.matches(column, f"*.{pattern}"))


def _last(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column of the job's last ended attempt."""
    ended: Select[Any] = select(column).where(attempts.c.job_id == jobs.c.id)
    return ended.order_by(attempts.c.fence.desc()).limit(ONE).scalar_subquery()


def _code() -> ColumnElement[Any]:
    # A whole success at once leaves it out of the job's row.
    return func.coalesce(jobs.c.code, _last(attempts.c.code))


def _argument(kind: Kind, name: str, wanted: str) -> ColumnElement[bool]:
    path = name.split(".")
    value = msgspec.json.decode(wanted)
    text = value if isinstance(value, str) else wanted
    matching = or_(
        _like(kind, kind.member(jobs.c.payload, path), text),
        # Of a record, by its key.
        and_(
            kind.contains(jobs.c.payload, literal_column("'\"$record\":'")),
            _like(kind, kind.member(jobs.c.payload, [*path, "$key"]), text),
        ),
    )
    # What may not be shown may not be guessed at either.
    redacted = kind.member(jobs.c.policy, ["redact"])
    is_shown = or_(redacted.is_(None), not_(kind.contains(redacted, _json(path[0]))))
    return and_(is_shown, matching)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _between(number: ColumnElement[int], least: int, most: int | None) -> ColumnElement[bool]:
    return number >= least if most is None else number.between(least, most)
