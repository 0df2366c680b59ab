"""A list that is given as one parameter, and stands in the statement as these servers seek by it.

In an update they go through the whole table for what is `IN (SELECT … JSON_TABLE …)`, and lock all
of it; of `IN (1, 2, 3)` they seek each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import BindParameter, bindparam
from sqlalchemy.types import UserDefinedType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.base import Executable

    from failbetter.ledger.prepared import Texts


class _List(UserDefinedType[Any]):
    """Marks the parameter."""

    cache_ok = True


class _Nothing:
    """A list of nothing, as the driver is given it: there is no other way to write one."""


def adapt(connection: Any) -> None:
    """Have a connection of the driver's write such lists: those of something it knows."""
    connection.encoders[_Nothing] = lambda _, __: "(SELECT NULL FROM DUAL WHERE FALSE)"


def is_listed(column: ColumnElement[Any], given: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the column is among the list; `given`: its parameter."""
    assert isinstance(given, BindParameter)
    marked: BindParameter[Any] = bindparam(given.key, type_=_List())
    return column.op("IN", is_comparison=True)(marked)


def places(texts: Texts, statement: Executable) -> tuple[int, ...]:
    """Which of a statement's parameters are lists."""
    made = texts.compiled(statement)
    return tuple(
        place
        for place, name in enumerate(made.positiontup or ())
        if isinstance(made.binds[name].type, _List)
    )


def read(places: Sequence[int], values: Sequence[object]) -> Sequence[object]:
    """The parameters, with the lists, which are JSON, as the driver takes them."""
    if not places:
        return values
    made = list(values)
    for place in places:
        made[place] = msgspec.json.decode(str(made[place]), type=list[int | str]) or _Nothing()
    return made
