"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "failbetter_attempts",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("run_at", sa.BigInteger(), nullable=True),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(length=190), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("error_type", sa.String(length=190), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "fence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failbetter_effects",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("intended_at", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failbetter_jobs",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.String(length=190), nullable=False),
        sa.Column("queue", sa.String(length=190), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("careful", sa.SmallInteger(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.BigInteger(), nullable=True),
        sa.Column("live", sa.SmallInteger(), nullable=True),
        sa.Column("claimed", sa.SmallInteger(), nullable=True),
        sa.Column("cancel", sa.SmallInteger(), nullable=True),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("hand_backs", sa.Integer(), nullable=False),
        sa.Column("suspect", sa.SmallInteger(), nullable=False),
        sa.Column("released_since", sa.BigInteger(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("unique_key", sa.String(length=190), nullable=True),
        sa.Column("exclusive_key", sa.String(length=190), nullable=True),
        sa.Column("subject", sa.String(length=190), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("error_type", sa.String(length=190), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.String(length=40), nullable=True),
        sa.Column("mirror", sa.Text(), nullable=True),
        sa.Column("mirror_key", sa.String(length=190), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "failbetter_jobs_by_state", "failbetter_jobs", ["state", "ended_at"], unique=False
    )
    op.create_index(
        "failbetter_jobs_by_worker",
        "failbetter_jobs",
        ["worker"],
        unique=False,
        sqlite_where=sa.text("worker IS NOT NULL"),
        postgresql_where=sa.text("worker IS NOT NULL"),
    )
    op.create_index(
        "failbetter_jobs_exclusive",
        "failbetter_jobs",
        ["exclusive_key", "claimed"],
        unique=True,
        sqlite_where=sa.text("exclusive_key IS NOT NULL"),
        postgresql_where=sa.text("exclusive_key IS NOT NULL"),
    )
    op.create_index(
        "failbetter_jobs_expiring",
        "failbetter_jobs",
        ["live", "expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "failbetter_jobs_unique",
        "failbetter_jobs",
        ["unique_key", "live"],
        unique=True,
        sqlite_where=sa.text("unique_key IS NOT NULL"),
        postgresql_where=sa.text("unique_key IS NOT NULL"),
    )
    op.create_index(
        "failbetter_jobs_waiting",
        "failbetter_jobs",
        ["rank", "queue", "careful", "run_at"],
        unique=False,
        sqlite_where=sa.text("rank IS NOT NULL"),
        postgresql_where=sa.text("rank IS NOT NULL"),
    )
    op.create_table(
        "failbetter_workers",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("host", sa.String(length=190), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("fleet", sa.String(length=64), nullable=False),
        sa.Column("lease", sa.BigInteger(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("renewed_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("stopping", sa.SmallInteger(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("tasks", sa.Text(), nullable=False),
        sa.Column("processes", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("idle", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "failbetter_jobs_mirrored",
        "failbetter_jobs",
        ["mirror_key", "id"],
        unique=False,
        sqlite_where=sa.text("mirror_key IS NOT NULL"),
        postgresql_where=sa.text("mirror_key IS NOT NULL"),
    )
    op.create_table(
        "failbetter_turns",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("worker", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "failbetter_outbox",
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index("failbetter_outbox_due", "failbetter_outbox", ["next_at"], unique=False)
    op.create_table(
        "failbetter_notes",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Rows here are rewritten twice and then rest. Room for that on their own page, and dead
        # ones cleared away long before a fifth of a large table is dead.
        op.execute(
            "ALTER TABLE failbetter_jobs SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 20000, autovacuum_analyze_scale_factor = 0.02)"
        )
        op.execute(
            "ALTER TABLE failbetter_workers SET (fillfactor = 50,"
            " autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0)"
        )
