"""An insert that does nothing where a unique index has such a row already.

`INSERT IGNORE` would also let pass what is wrong with a row, and of `ON DUPLICATE KEY UPDATE` the
count of rows does not tell which it was. So it is a plain insert, whose one error is no error: on
these servers, that undoes only the statement.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy.sql import Insert

if TYPE_CHECKING:
    from sqlalchemy import Column

_key = re.compile(r"for key '(?:[^'.]*\.)?([^'.]+)'$").search


class Unless(Insert):
    """The insert. `index`: the unique index, as the server names it in its error."""

    inherit_cache = True
    index: str

    @classmethod
    def of(cls, statement: Insert, columns: list[Column[Any]]) -> Self:
        """The insert, with the unique index over these columns."""
        made = cls(statement.table).values(dict(statement._values or {}))
        names = {column.name for column in columns}
        table: Any = statement.table
        made.index = next(
            (
                str(index.name)
                for index in table.indexes
                if index.unique and {column.name for column in index.columns} == names
            ),
            "PRIMARY",
        )
        return made

    def is_met_by(self, said: str) -> bool:
        """Whether the server's error is of this index."""
        found = _key(said)
        return found is not None and found[1] == self.index
