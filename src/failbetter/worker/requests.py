"""What a body asks of the ledger, done by its supervisor in the next commit: effects, progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from failbetter.ledger import effects, progress, supersession
from failbetter.resume import Advance, Opened, Size
from failbetter.worker.wire import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from failbetter.ledger.kinds import Tx

_encode = msgspec.json.Encoder().encode
_LOST = "lost", None

Answer = tuple[str, str | None]
"""A status, and a value as JSON."""


def answer(tx: Tx, asked: Request, worker: int, *, again: bool = False) -> Reply:
    """Do what a body of that worker asked for.

    `again`: it may have been done, and not been heard of.
    """
    status: str
    if asked.kind == "intend":
        status, value = effects.intend(
            tx, asked.id, asked.fence, worker, asked.name, tx.now(), again=again
        )
    else:
        status, value = _KINDS[asked.kind](tx, asked, worker)
    return Reply(asked.request, status, value)


def _done(tx: Tx, asked: Request, worker: int) -> Answer:
    return effects.done(tx, asked.id, asked.fence, worker, asked.name, asked.value, tx.now()), None


def _not_done(tx: Tx, asked: Request, worker: int) -> Answer:
    return effects.not_done(tx, asked.id, asked.fence, worker, asked.name), None


def _start(tx: Tx, asked: Request, worker: int) -> Answer:
    size = msgspec.json.decode(asked.value or "", type=Size)
    found = progress.start(tx, asked.id, asked.fence, worker, asked.name, size.total, tx.now())
    return _LOST if found is None else _done_with(Opened(*found))


def _advance(tx: Tx, asked: Request, worker: int) -> Answer:
    told = msgspec.json.decode(asked.value or "", type=Advance)
    found = progress.advance(
        tx,
        asked.id,
        asked.fence,
        worker,
        asked.name,
        told.finished,
        told.failed,
        told.ask,
        tx.now(),
    )
    return _LOST if found is None else _done_with(sorted(found))


def _close(tx: Tx, asked: Request, worker: int) -> Answer:
    found = progress.close(tx, asked.id, asked.fence, worker, asked.name, tx.now())
    return _LOST if found is None else _done_with(found)


def _count(tx: Tx, asked: Request, worker: int) -> Answer:
    size = msgspec.json.decode(asked.value or "", type=Size)
    written = progress.count(tx, asked.id, asked.fence, worker, size.done, size.total, tx.now())
    return ("done", None) if written else _LOST


def _save_cursor(tx: Tx, asked: Request, worker: int) -> Answer:
    text = asked.value or "null"
    written = progress.save_cursor(tx, asked.id, asked.fence, worker, text, tx.now())
    return ("done", None) if written else _LOST


def _cursor(tx: Tx, asked: Request, worker: int) -> Answer:
    return "done", progress.cursor(tx, asked.id)


def _doubts(tx: Tx, asked: Request, worker: int) -> Answer:
    return _done_with(effects.doubts(tx, asked.id))


def _settle(tx: Tx, asked: Request, worker: int) -> Answer:
    verified = asked.value
    if verified is None:
        status = effects.never_happened(tx, asked.id, asked.fence, worker, asked.name)
    else:
        status = effects.has_happened(
            tx, asked.id, asked.fence, worker, asked.name, verified, "verify", tx.now()
        )
    return status, None


def _outdated(tx: Tx, asked: Request, worker: int) -> Answer:
    return _done_with(supersession.is_outdated(tx, asked.id))


def _done_with(value: object) -> Answer:
    return "done", _encode(value).decode()


_KINDS: dict[str, Callable[[Tx, Request, int], Answer]] = {
    "done": _done,
    "not_done": _not_done,
    "start": _start,
    "advance": _advance,
    "close": _close,
    "count": _count,
    "save_cursor": _save_cursor,
    "cursor": _cursor,
    "doubts": _doubts,
    "settle": _settle,
    "outdated": _outdated,
}

PROGRESS = frozenset({"intend", "done", "start", "advance", "close", "count", "save_cursor"})
"""What a body that goes on asks for: one that asks for none of it has stalled."""
