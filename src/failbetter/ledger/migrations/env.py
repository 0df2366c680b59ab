"""Alembic's entry: runs the migrations on the connection that `failbetter.ledger.migrate` gives."""

from __future__ import annotations

from alembic import context

from failbetter.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,
)
context.run_migrations()
