"""Core statements compiled once per database and run by the driver.

Executing through Core costs some 27 µs a statement, the compiled text some 1 µs. The parameters
are then plain tuples, in the order that the statement's author states and this module checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import BindParameter, ColumnElement, bindparam, literal_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.sql.base import Executable

    from failbetter.ledger.kinds import Kind


ONE: ColumnElement[int] = literal_column("1")
ZERO: ColumnElement[int] = literal_column("0")
"""Also the offset to state with a limit: SQLAlchemy binds one of its own for SQLite otherwise."""


def b(name: str) -> BindParameter[Any]:
    """A bound parameter; the underscore keeps it apart from a column of the same name."""
    return bindparam(name + "_")


def listing(numbers: Sequence[int]) -> str:
    """Whole numbers as one parameter: see Kind.numbered."""
    return msgspec.json.encode(numbers).decode()


class Prepared:
    """A statement and the order of its parameters, as in its text.

    `statement`: of Core; or, where databases differ, what makes it for a kind of database.
    """

    def __init__(
        self, statement: Executable | Callable[[Kind], Executable], order: str = ""
    ) -> None:
        self._statement = statement
        self.order = tuple(name + "_" for name in order.split())

    def on(self, kind: Kind) -> Executable:
        """The statement as this kind of database has it."""
        made = self._statement
        return made(kind) if callable(made) else made


class Texts:
    """The statements of one database as its driver takes them, each compiled when first used."""

    def __init__(self, kind: Kind, dialect: Dialect, schema: str | None = None) -> None:
        self._kind = kind
        self._dialect = dialect
        self.schema = schema
        self._texts: dict[Prepared, str] = {}

    def of(self, prepared: Prepared) -> str:
        """The statement's text, with positional parameters."""
        found = self._texts.get(prepared)
        if found is None:
            found = self._texts[prepared] = self._compile(prepared)
        return found

    def _compile(self, prepared: Prepared) -> str:
        compiled = self.compiled(prepared.on(self._kind))
        found = tuple(compiled.positiontup or ())
        if found != prepared.order:
            raise AssertionError(f"parameters in the text: {found}, as declared: {prepared.order}")
        return str(compiled)

    def compiled(self, statement: Executable) -> Any:
        """The statement compiled, its tables named with their schema if there is one."""
        schema: dict[str, Any] = {}
        if self.schema is not None:
            schema = {
                "schema_translate_map": {None: self.schema},
                "render_schema_translate": True,
            }
        return statement.compile(dialect=self._dialect, **schema)  # type: ignore[attr-defined]
