"""How the tables are made there: what texts hold, how they are compared, and that it can go on.

Changes of the schema commit at once on these servers, each by itself. A migration that was killed
half-way is run again from its start, and what it finds done is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import ER
from sqlalchemy import event
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler, MySQLTypeCompiler

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

MIGRATING = "failbetter_migrating"
"""The execution option of a connection on which the schema is changed."""

# What is to be made is there, or what is to be taken away is not.
_DONE = {
    ER.TABLE_EXISTS_ERROR,
    ER.DUP_FIELDNAME,
    ER.DUP_KEYNAME,
    ER.CANT_DROP_FIELD_OR_KEY,
}


def collation(*, is_mariadb: bool) -> str:
    """By which texts are compared: letter by letter, blanks at the end among them."""
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


def adapt(engine: Engine) -> None:
    """Have the engine make tables as they must be here."""
    dialect: Any = engine.dialect
    dialect.ddl_compiler = _Tables
    dialect.type_compiler_instance = _Types(dialect)
    event.listen(engine, "do_execute", _pass_over)


def _pass_over(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Runs a change of the schema, whose having been made before is no error."""
    if context is None or not context.execution_options.get(MIGRATING):
        return False
    try:
        cursor.execute(statement, parameters)
    except pymysql.Error as error:
        if error.args[0] not in _DONE:
            raise
    return True


class _Types(MySQLTypeCompiler):
    """A plain TEXT ends after 64 KiB, in the middle of a payload."""

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:
        return "LONGTEXT" if type_.length is None else super().visit_TEXT(type_, **kw)


class _Tables(MySQLDDLCompiler):
    def post_create_table(self, table: Table) -> str:
        compared = collation(is_mariadb=self.dialect.is_mariadb)
        return f" ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={compared}"
