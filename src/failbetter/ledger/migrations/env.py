"""Alembic's entry: runs the migrations on the connection that `failbetter.ledger.migrate` gives."""

from __future__ import annotations

from alembic import context

from failbetter.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # Not Alembic's own name for it: the database may be shared with an application that uses that.
    version_table=VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
