"""How far a job has come: its finished items, its cursor, its own count. Fenced, never backwards.

A *series* is one list that a job works through, by name. Each finished item is a row, so that a
list of any length is never in one place as a whole; what is asked and told of items comes in
batches that the caller bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, insert, null, select, update

from failbetter.ledger.endings import still_current
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import items, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx

_MOST_NAMED = 10


class Series(msgspec.Struct, frozen=True):
    """How far a job has come in one list; `series` "": by its own word."""

    series: str
    done: int
    failed: int
    vanished: int
    total: int | None
    at: int


class FailedItem(msgspec.Struct, frozen=True):
    """An item that failed; `at` in microseconds since the epoch."""

    series: str
    key: str
    at: int
    error_type: str | None
    error_message: str | None


class Vanished(msgspec.Struct, frozen=True):
    """Items that earlier attempts dealt with and that are no longer in the list; some of them."""

    count: int
    keys: list[str]


_this = (progress.c.job_id == b("job_id"), progress.c.series == b("series"))
_zero = {"done": ZERO, "failed": ZERO, "vanished": ZERO}
FIND = Prepared(select(progress.c.done, progress.c.failed).where(*_this), "job_id series")
START = Prepared(
    insert(progress).values(
        job_id=b("job_id"), series=b("series"), fence=b("fence"), at=b("at"), **_zero
    ),
    "job_id series fence at",
)
TOTAL = Prepared(
    update(progress)
    .values(total=b("total"), vanished=ZERO, fence=b("fence"), at=b("at"))
    .where(*_this),
    "total fence at job_id series",
)
ADVANCE = Prepared(
    update(progress)
    .values(
        done=progress.c.done + b("done"),
        failed=progress.c.failed + b("failed"),
        fence=b("fence"),
        at=b("at"),
    )
    .where(*_this),
    "done failed fence at job_id series",
)
CLOSE = Prepared(
    update(progress)
    .values(vanished=b("vanished"), failed=progress.c.failed - b("gone"), at=b("at"))
    .where(*_this),
    "gone vanished at job_id series",
)
# A count of the body's own; less than it said before is not believed.
COUNT = Prepared(
    update(progress)
    .values(done=b("done"), total=b("total"), fence=b("fence"), at=b("at"))
    .where(*_this, progress.c.done <= b("done")),
    "done total fence at job_id series done",
)
CURSOR = Prepared(
    update(progress).values(cursor=b("cursor"), fence=b("fence"), at=b("at")).where(*_this),
    "cursor fence at job_id series",
)
CURSOR_OF = Prepared(select(progress.c.cursor).where(*_this), "job_id series")

_item = (
    items.c.job_id == b("job_id"),
    items.c.series == b("series"),
    items.c.key == b("key"),
)
_of_series = (items.c.job_id == b("job_id"), items.c.series == b("series"))
FINISH_FAILED = Prepared(
    update(items)
    .values(done=ONE, fence=b("fence"), at=b("at"), error_type=null(), error_message=null())
    .where(*_item, items.c.done == ZERO),
    "fence at job_id series key",
)
FINISH = Prepared(
    lambda kind: kind.insert_unless(
        insert(items).values(
            job_id=b("job_id"),
            series=b("series"),
            key=b("key"),
            done=ONE,
            fence=b("fence"),
            at=b("at"),
        ),
        [items.c.job_id, items.c.series, items.c.key],
    ),
    "job_id series key fence at",
)
FAIL_AGAIN = Prepared(
    update(items)
    .values(
        fence=b("fence"),
        at=b("at"),
        error_type=b("error_type"),
        error_message=b("error_message"),
    )
    .where(*_item, items.c.done == ZERO),
    "fence at error_type error_message job_id series key",
)
FAIL = Prepared(
    lambda kind: kind.insert_unless(
        insert(items).values(
            job_id=b("job_id"),
            series=b("series"),
            key=b("key"),
            done=ZERO,
            fence=b("fence"),
            at=b("at"),
            error_type=b("error_type"),
            error_message=b("error_message"),
        ),
        [items.c.job_id, items.c.series, items.c.key],
    ),
    "job_id series key fence at error_type error_message",
)
FINISHED = Prepared(
    lambda kind: select(items.c.key).where(
        *_of_series, items.c.done == ONE, kind.listed(items.c.key, b("keys"))
    ),
    "job_id series keys",
)
SEEN = Prepared(
    lambda kind: (
        update(items)
        .values(fence=b("fence"))
        .where(*_of_series, items.c.done == ONE, kind.listed(items.c.key, b("keys")))
    ),
    "fence job_id series keys",
)
_unseen = (*_of_series, items.c.fence < b("fence"))
FORGET_FAILED = Prepared(delete(items).where(*_unseen, items.c.done == ZERO), "job_id series fence")
UNSEEN = Prepared(select(func.count()).select_from(items).where(*_unseen), "job_id series fence")
UNSEEN_KEYS = Prepared(
    select(items.c.key).where(*_unseen).order_by(items.c.key).limit(b("limit")).offset(ZERO),
    "job_id series fence limit",
)
_series_columns = [progress.c[name] for name in Series.__struct_fields__]
ALL_SERIES = Prepared(
    select(*_series_columns).where(progress.c.job_id == b("job_id")).order_by(progress.c.series),
    "job_id",
)
FAILED_ITEMS = Prepared(
    select(*(items.c[name] for name in FailedItem.__struct_fields__))
    .where(items.c.job_id == b("job_id"), items.c.done == ZERO)
    .order_by(items.c.series, items.c.key)
    .limit(b("limit"))
    .offset(ZERO),
    "job_id limit",
)


def start(
    tx: Tx, number: int, fence: int, holder: int, series: str, total: int | None, now: int
) -> tuple[int, int] | None:
    """Begin to work through a list; how many of it are finished and failed already.

    None: the attempt is not the job's current one any more, here and in what follows.
    """
    if not still_current(tx, number, fence, holder):
        return None
    found = _begun(tx, number, fence, series, now)
    tx.run(TOTAL, total, fence, now, number, series)
    return found


def _begun(tx: Tx, number: int, fence: int, series: str, now: int) -> tuple[int, int]:
    row = tx.row(FIND, number, series)
    if row is None:
        tx.run(START, number, series, fence, now)
        return 0, 0
    return row[0], row[1]


def advance(
    tx: Tx,
    number: int,
    fence: int,
    holder: int,
    series: str,
    finished: Sequence[str],
    failed: Sequence[tuple[str, str, str]],
    ask: Sequence[str],
    now: int,
) -> set[str] | None:
    """Note items that are finished or (key, error type, message) failed, no key twice.

    Returns which of those in `ask` are finished. What is told twice counts once.
    """
    if not still_current(tx, number, fence, holder):
        return None
    mended = _many(tx, FINISH_FAILED, [(fence, now, number, series, key) for key in finished])
    new = _many(tx, FINISH, [(number, series, key, fence, now) for key in finished])
    worse = [(fence, now, kind, text, number, series, key) for key, kind, text in failed]
    _many(tx, FAIL_AGAIN, worse)
    fresh = [(number, series, key, fence, now, kind, text) for key, kind, text in failed]
    spoilt = _many(tx, FAIL, fresh)
    if finished or failed:
        tx.run(ADVANCE, mended + new, spoilt - mended, fence, now, number, series)
    return _finished(tx, number, fence, series, ask)


def _many(tx: Tx, statement: Prepared, rows: Sequence[Sequence[object]]) -> int:
    return tx.many(statement, rows) if rows else 0


def _finished(tx: Tx, number: int, fence: int, series: str, ask: Sequence[str]) -> set[str]:
    if not ask:
        return set()
    keys = msgspec.json.encode(ask).decode()
    found = {row[0] for row in tx.rows(FINISHED, number, series, keys)}
    if found:
        tx.run(SEEN, fence, number, series, keys)
    return found


def close(tx: Tx, number: int, fence: int, holder: int, series: str, now: int) -> Vanished | None:
    """The list was worked through to its end; what of it was there once and is no more.

    Items that had failed and are not in the list any more are no failures any more.
    """
    if not still_current(tx, number, fence, holder):
        return None
    keys = [row[0] for row in tx.rows(UNSEEN_KEYS, number, series, fence, _MOST_NAMED)]
    gone = tx.run(FORGET_FAILED, number, series, fence) if keys else 0
    count = gone + (tx.rows(UNSEEN, number, series, fence)[0][0] if keys else 0)
    tx.run(CLOSE, gone, count, now, number, series)
    return Vanished(count, keys)


def count(
    tx: Tx, number: int, fence: int, holder: int, done: int, total: int | None, now: int
) -> bool:
    """Note how far a body says it is; False when the attempt is lost. Never goes back."""
    if not still_current(tx, number, fence, holder):
        return False
    _begun(tx, number, fence, "", now)
    tx.run(COUNT, done, total, fence, now, number, "", done)
    return True


def save_cursor(tx: Tx, number: int, fence: int, holder: int, cursor: str, now: int) -> bool:
    """Keep where a body is, as JSON; False when the attempt is lost."""
    if not still_current(tx, number, fence, holder):
        return False
    _begun(tx, number, fence, "", now)
    tx.run(CURSOR, cursor, fence, now, number, "")
    return True


def cursor(tx: Tx, number: int) -> str | None:
    """The cursor that was saved last, as JSON."""
    row = tx.row(CURSOR_OF, number, "")
    return None if row is None else row[0]


def all_series(tx: Tx, number: int) -> list[Series]:
    """How far the job has come, list by list."""
    return [Series(*row) for row in tx.rows(ALL_SERIES, number)]


def series_of(database: Database, number: int) -> list[Series]:
    """`all_series`, with a look of its own."""
    with database.look() as tx:
        return all_series(tx, number)


def failed_items(database: Database, number: int, limit: int) -> list[FailedItem]:
    """The items that failed, in the order of their keys."""
    with database.look() as tx:
        return [FailedItem(*row) for row in tx.rows(FAILED_ITEMS, number, limit)]
