"""Statements for one row made into statements for many, as PostgreSQL does them fast.

A plain insert becomes a COPY; an update, a delete, or an insert that may be refused, takes its
parameters as arrays, one for each column of a given table. Both are written as text here: the
driver's own way with lists takes longer than the server does with the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import psycopg
import sqlalchemy
from sqlalchemy import BigInteger, BindParameter, Column, cast, column, func
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.dml import Insert as InsertUnless
from sqlalchemy.sql import Delete, Insert, Update, visitors

from failbetter.ledger.prepared import Texts

Rows: TypeAlias = Sequence[Sequence[object]]
Bulk: TypeAlias = Callable[[psycopg.Cursor[Any], Rows], int]
"""Runs a statement for many rows; the number of rows matched in all."""


def bulk_of(statement: Any, order: Sequence[str], texts: Texts) -> Bulk:
    """The statement for many rows, each with its parameters in that order."""
    if isinstance(statement, InsertUnless):
        return _inserting(statement, order, texts)
    if isinstance(statement, Insert):
        return _copying(statement, order, texts)
    assert isinstance(statement, (Update, Delete))
    given = _given(statement.table, order)
    return _by_arrays(_from(given, statement), texts)


def _copying(statement: Insert, order: Sequence[str], texts: Texts) -> Bulk:
    """An insert as a COPY: what it binds from the rows, what it states as it is."""
    bound: dict[str, str] = {}
    stated: list[tuple[str, str]] = []
    for name, value in _values(statement).items():
        if isinstance(value, BindParameter):
            bound[value.key] = name
        else:
            stated.append((name, _constant(value)))
    names = [bound[key] for key in order] + [name for name, _ in stated]
    table = str(texts.compiled(sqlalchemy.select(statement.table))).split("FROM ")[-1]
    text = f"COPY {table} ({', '.join(names)}) FROM STDIN"
    tail = "".join(f"\t{value}" for _, value in stated) + "\n"

    def copy(cursor: psycopg.Cursor[Any], rows: Rows) -> int:
        lines = ["\t".join([_copied(value) for value in row]) + tail for row in rows]
        with cursor.copy(text) as out:
            out.write("".join(lines))
        return cursor.rowcount

    return copy


def _inserting(statement: InsertUnless, order: Sequence[str], texts: Texts) -> Bulk:
    """An insert that does nothing where there is such a row, from arrays."""
    given = _given(statement.table, order)
    values = _values(statement)
    chosen = sqlalchemy.select(*[_from(given, value) for value in values.values()])
    made = postgresql.insert(statement.table).from_select(
        list(values), chosen.select_from(given), include_defaults=False
    )
    made._post_values_clause = statement._post_values_clause
    return _by_arrays(made, texts)


def _by_arrays(statement: Any, texts: Texts) -> Bulk:
    text = str(texts.compiled(statement))

    def run(cursor: psycopg.Cursor[Any], rows: Rows) -> int:
        columns = [_array(values) for values in zip(*rows, strict=True)]
        return cursor.execute(text, columns).rowcount

    return run


def _values(statement: Insert) -> dict[str, Any]:
    return {
        target.key if isinstance(target, Column) else str(target): value
        for target, value in dict(statement._values or {}).items()
    }


def _given(table: Any, order: Sequence[str]) -> Any:
    """The table that arrays of the parameters make, a column for each."""
    types = [_type_of(table, key) for key in order]
    arrays = [
        cast(sqlalchemy.bindparam(key), postgresql.ARRAY(type_))
        for key, type_ in zip(order, types, strict=True)
    ]
    columns = [column(key, type_) for key, type_ in zip(order, types, strict=True)]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="given")


def _from(given: Any, element: Any) -> Any:
    """The element with the given table's columns in place of its parameters."""

    def in_its_place(found: Any, **_: Any) -> Any:
        return given.c[found.key] if isinstance(found, BindParameter) else None

    found: Any = element
    return visitors.replacement_traverse(found, {}, in_its_place)  # type: ignore[call-overload]


def _type_of(table: Any, key: str) -> Any:
    """The type of a parameter: that of the column after which it is named; else it is a time."""
    found = table.c.get(key.removesuffix("_"))
    return BigInteger() if found is None else found.type


def _constant(value: Any) -> str:
    text = str(value)
    return r"\N" if text == "NULL" else _copied(text.removeprefix("'").removesuffix("'"))


_special = re.compile("[\\\\\t\n\r\x00]").search
_escapes = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\x00": "\ufffd"})


def _copied(value: object) -> str:
    """A value as COPY's text format has it."""
    if value is None:
        return r"\N"
    text = str(value)
    return text.translate(_escapes) if _special(text) else text


def _array(values: Sequence[object]) -> str:
    """Values as the text of an array."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        text = value.replace("\\", r"\\").replace('"', r"\"").replace("\x00", "\ufffd")
        return f'"{text}"'
    return str(value)
