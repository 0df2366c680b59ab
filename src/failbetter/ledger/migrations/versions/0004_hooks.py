"""Rate limits; jobs made from others; hooks and alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "failbetter_limits",
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("per", sa.BigInteger(), nullable=False),
        sa.Column("begun", sa.Text(), nullable=False),
        sa.Column("said_by", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "failbetter_lines",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(length=190), nullable=False),
        sa.Column("careful", sa.SmallInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "failbetter_edits",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("original", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=190), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index("failbetter_edits_of", "failbetter_edits", ["original", "job_id"], unique=False)
    op.create_table(
        "failbetter_hooks",
        sa.Column("event", sa.String(length=20), nullable=False),
        sa.Column("task", sa.String(length=190), nullable=False),
        sa.Column("queue", sa.String(length=190), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("expires_after", sa.BigInteger(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("parameter", sa.String(length=190), nullable=False),
        sa.Column("only", sa.Text(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("event", "task"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failbetter_alerts",
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("told_at", sa.BigInteger(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("looked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Each entry is written a second time when its job is moved: within its page, that is cheap.
        op.execute("ALTER TABLE failbetter_selected SET (fillfactor = 60)")
