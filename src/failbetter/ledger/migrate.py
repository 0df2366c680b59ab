"""Creates and upgrades the schema with Alembic. Safe when several processes do it at once.

Alembic is imported where it has work: a worker at an up-to-date ledger does without its memory.
"""

from __future__ import annotations

import fcntl
import threading
from typing import TYPE_CHECKING

from sqlalchemy import text

from failbetter.errors import SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config

    from failbetter.ledger.database import Database

# Alembic keeps the migration that runs in globals of its own, one for all threads and databases.
_alembic = threading.Lock()


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


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest schema; the revisions before and after.

    All of it is one transaction; whoever comes second finds it done. Raises SchemaMismatch for a
    schema that only a newer version of failbetter knows.
    """
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config()
    with open(database.fleet.folder / "migrate.lock", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = database.revision()
        known = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
        if before is not None and before not in known:
            raise SchemaMismatch(
                f"{database.name} has schema {before}, which this version of failbetter does not"
                " know; upgrade failbetter"
            )
        with database.translated(), database.engine.connect() as connection:
            # The driver is in autocommit mode (see sqlite.prepare_connection): begin by hand.
            connection.execute(text("BEGIN IMMEDIATE"))
            config.attributes["connection"] = connection
            with _alembic:
                command.upgrade(config, "head")
            connection.commit()
    return before, head()
