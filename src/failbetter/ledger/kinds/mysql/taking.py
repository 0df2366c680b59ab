"""`UPDATE … RETURNING` where a server knows no such thing.

The rows are found and locked, then changed by their ids, then read as they are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy
from sqlalchemy import literal_column, select

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, Select, Update

    from failbetter.ledger.prepared import Texts

    Run: TypeAlias = Callable[[str, Sequence[object]], Sequence[tuple[Any, ...]]]
    """Runs a text with its parameters; the rows, if it returns any."""

_CHOSEN = "failbetter_chosen"
_IDS = "failbetter_ids"


def among(column: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
    """Whether the column is among what a limited select finds.

    Such a select may stand only in a table made of it.
    """
    condition: Any = column.in_(select(chosen.subquery("chosen")))
    marked: ColumnElement[bool] = condition._annotate({_CHOSEN: chosen})
    return marked


class Taking:
    """An update that returns rows, of a table whose key is a number."""

    def __init__(self, statement: Update, order: Sequence[str], texts: Texts) -> None:
        table: Any = statement.table
        (key,) = table.primary_key
        chosen: Select[Any] = select(key).with_for_update()
        rest: list[ColumnElement[bool]] = []
        for condition in statement._where_criteria:
            found = condition._annotations.get(_CHOSEN)
            if found is None:
                rest.append(condition)
            else:
                chosen = found
        by_ids: ColumnElement[bool] = literal_column(f"{key.name} IN ({_IDS})")
        changed = sqlalchemy.update(table).values(statement._values or {}).where(by_ids)
        self._order = tuple(order)
        self._find = _compiled(texts, chosen.where(*rest))
        self._change = _compiled(texts, changed)
        self._read = _compiled(texts, select(*statement._returning).where(by_ids))

    def run(self, run: Run, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows that were changed, as they are now."""
        given = dict(zip(self._order, values, strict=True))
        text, names = self._find
        ids = ",".join([str(int(row[0])) for row in run(text, [given[name] for name in names])])
        if not ids:
            return []
        text, names = self._change
        run(text.replace(_IDS, ids), [given[name] for name in names])
        text, _ = self._read
        return list(run(text.replace(_IDS, ids), ()))


def _compiled(texts: Texts, statement: Any) -> tuple[str, Sequence[str]]:
    made = texts.compiled(statement)
    return str(made), tuple(made.positiontup or ())
