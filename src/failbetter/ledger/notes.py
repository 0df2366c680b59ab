"""What the ledger remembers by name: a text each, such as how the last recovery went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from failbetter.ledger.prepared import Prepared, b
from failbetter.ledger.schema import notes

if TYPE_CHECKING:
    from failbetter.ledger.kinds import Tx

_this = notes.c.name == b("name")
READ = Prepared(select(notes.c.value).where(_this), "name")
LOCKED = Prepared(select(notes.c.value).where(_this).with_for_update(), "name")
WRITE = Prepared(update(notes).values(value=b("value")).where(_this), "value name")
FIRST = Prepared(
    lambda kind: kind.insert_unless(
        insert(notes).values(name=b("name"), value=b("value")), [notes.c.name]
    ),
    "name value",
)
REMOVE = Prepared(delete(notes).where(_this), "name")


def read(tx: Tx, name: str) -> str | None:
    """The note of that name."""
    found = tx.row(READ, name)
    return None if found is None else str(found[0])


def locked(tx: Tx, name: str) -> str | None:
    """As `read`, and nobody else changes it until this transaction's end; not what is not there."""
    found = tx.row(LOCKED, name)
    return None if found is None else str(found[0])


def write(tx: Tx, name: str, value: str) -> None:
    """Write the note, in the place of an earlier one."""
    if not tx.run(WRITE, value, name) and not tx.run(FIRST, name, value):
        tx.run(WRITE, value, name)  # somebody else's came in between


def remove(tx: Tx, name: str) -> None:
    """Forget the note."""
    tx.run(REMOVE, name)
