"""Creates and upgrades the schema with Alembic. Safe when several processes do it at once.

Alembic is imported where it has work: a worker at an up-to-date ledger does without its memory.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy import insert, select, update

from failbetter.errors import SchemaMismatch
from failbetter.ledger.schema import OLDEST_CODE, REVISION, VERSION_TABLE, notes

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from failbetter.ledger.database import Database

# Alembic keeps the migration that runs in globals of its own, one for all threads and databases.
_alembic = threading.Lock()
_OLDEST = "oldest_code"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "failbetter:ledger/migrations")
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The newest migration that this version of failbetter ships."""
    from alembic.script import ScriptDirectory

    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise AssertionError("failbetter ships without migrations")
    return found


def revision(connection: Connection, schema: str | None) -> str | None:
    """The migration a database is at; None when it has no tables of ours."""
    if not sqlalchemy.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return None
    table = sqlalchemy.table(VERSION_TABLE, sqlalchemy.column("version_num"), schema=schema)
    value = connection.execute(select(table.c.version_num)).scalar()
    return None if value is None else str(value)


def check_usable(database: Database, found: str) -> None:
    """Raise SchemaMismatch unless the schema, of another version, says that this code may use it.

    A migration that only adds lets the code before it go on: a rolling deploy has both.
    """
    if found > REVISION:
        with database.translated(), database.engine.connect() as connection:
            if sqlalchemy.inspect(connection).has_table(notes.name, schema=database.kind.schema):
                oldest = connection.execute(
                    select(notes.c.value).where(notes.c.name == _OLDEST)
                ).scalar()
                if oldest is not None and oldest <= REVISION:
                    return
    todo = (
        "upgrade failbetter here"
        if found > REVISION
        else "run `failbetter migrate` with this version, once"
    )
    raise SchemaMismatch(
        f"{database.name} has schema {found}, this version of failbetter needs {REVISION};"
        f" {todo} (`failbetter migrate` brings a ledger to the schema of the failbetter it is"
        " run with)"
    )


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest schema; the revisions before and after.

    All of it is one transaction; whoever comes second finds it done. Raises SchemaMismatch for a
    schema that only a newer version of failbetter knows.
    """
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config()
    kind = database.kind
    with database.translated(), kind.migrating(database.fleet.folder) as connection:
        before = revision(connection, kind.schema)
        known = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
        if before is not None and before not in known:
            raise SchemaMismatch(
                f"{database.name} has schema {before}, which this version of failbetter does not"
                " know; upgrade failbetter"
            )
        config.attributes["connection"] = connection
        with _alembic:
            command.upgrade(config, "head")
        _say_who_may_use_it(connection)
    return before, head()


def _say_who_may_use_it(connection: Connection) -> None:
    same = notes.c.name == _OLDEST
    if not connection.execute(update(notes).where(same).values(value=OLDEST_CODE)).rowcount:
        connection.execute(insert(notes).values(name=_OLDEST, value=OLDEST_CODE))
