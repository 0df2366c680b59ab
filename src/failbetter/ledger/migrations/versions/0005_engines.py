"""Engines, adopted jobs, and workers that are asked to start anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("failbetter_jobs", sa.Column("origin", sa.String(length=12), nullable=True))
    op.add_column("failbetter_jobs", sa.Column("sent", sa.Integer(), nullable=True))
    op.add_column("failbetter_jobs", sa.Column("sent_at", sa.BigInteger(), nullable=True))
    op.add_column("failbetter_workers", sa.Column("restart_at", sa.BigInteger(), nullable=True))
    op.add_column("failbetter_workers", sa.Column("engine", sa.String(length=12), nullable=True))
    op.add_column("failbetter_workers", sa.Column("keeper", sa.Text(), nullable=True))
    op.add_column("failbetter_workers", sa.Column("code_at", sa.BigInteger(), nullable=True))
    op.add_column(
        "failbetter_workers", sa.Column("newer_code", sa.String(length=64), nullable=True)
    )
    op.add_column("failbetter_workers", sa.Column("restart_error", sa.Text(), nullable=True))
    op.create_table(
        "failbetter_adopted",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("engine", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("to_send", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index(
        "failbetter_adopted_by_name", "failbetter_adopted", ["engine", "name"], unique=True
    )
    op.create_index(
        "failbetter_adopted_to_send",
        "failbetter_adopted",
        ["to_send"],
        sqlite_where=sa.text("to_send IS NOT NULL"),
        postgresql_where=sa.text("to_send IS NOT NULL"),
    )
