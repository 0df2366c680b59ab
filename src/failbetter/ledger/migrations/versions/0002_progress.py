"""Progress and items of a job; who settled an effect in doubt; when a worker last swept.

And an index by which what a worker holds is read in pieces.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "failbetter_progress",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("series", sa.String(length=190), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("vanished", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "series"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failbetter_items",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("series", sa.String(length=190), nullable=False),
        sa.Column("key", sa.String(length=190), nullable=False),
        sa.Column("done", sa.SmallInteger(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("error_type", sa.String(length=190), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "series", "key"),
        sqlite_with_rowid=False,
    )
    op.add_column("failbetter_effects", sa.Column("settled_by", sa.String(190), nullable=True))
    op.add_column("failbetter_workers", sa.Column("swept_at", sa.BigInteger(), nullable=True))
    op.drop_index("failbetter_jobs_by_worker", table_name="failbetter_jobs")
    op.create_index(
        "failbetter_jobs_by_worker",
        "failbetter_jobs",
        ["worker", "id"],
        unique=False,
        sqlite_where=sa.text("worker IS NOT NULL"),
        postgresql_where=sa.text("worker IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Rewritten with every item: room on the same page, and dead rows cleared away early.
        op.execute(
            "ALTER TABLE failbetter_progress SET (fillfactor = 50,"
            " autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0)"
        )
