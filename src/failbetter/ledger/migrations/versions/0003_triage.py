"""Triage: groups, operations with their frozen lists, holds; versions of what jobs are about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("failbetter_jobs", sa.Column("version", sa.BigInteger(), nullable=True))
    op.add_column("failbetter_jobs", sa.Column("held", sa.BigInteger(), nullable=True))
    op.add_column("failbetter_jobs", sa.Column("code", sa.String(length=64), nullable=True))
    _index_of_failed("failbetter_jobs_failed", ["state", "id"])
    by_cause = ["state", "fingerprint", "id", "ended_at", "task", "queue", "reason", "error_type"]
    _index_of_failed("failbetter_jobs_by_cause", [*by_cause, "code"])
    op.create_table(
        "failbetter_bases",
        sa.Column("error_type", sa.String(length=190), nullable=False),
        sa.Column("base", sa.String(length=190), nullable=False),
        sa.PrimaryKeyConstraint("error_type", "base"),
        sqlite_with_rowid=False,
    )
    _index_where("failbetter_jobs_held", "failbetter_jobs", ["held", "id"], "held IS NOT NULL")
    op.create_table(
        "failbetter_holds",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("active", sa.SmallInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.String(length=190), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("rate", sa.BigInteger(), nullable=True),
        sa.Column("let_go", sa.BigInteger(), nullable=False),
        sa.Column("let_go_since", sa.BigInteger(), nullable=True),
        sa.Column("probe_every", sa.BigInteger(), nullable=True),
        sa.Column("probe_at", sa.BigInteger(), nullable=True),
        sa.Column("probe", sa.BigInteger(), nullable=True),
        sa.Column("probed", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "failbetter_holds_of", "failbetter_holds", ["kind", "name", "active"], unique=True
    )
    op.create_table(
        "failbetter_breakers",
        sa.Column("name", sa.String(length=190), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "failbetter_groups",
        sa.Column("fingerprint", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=190), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    op.create_table(
        "failbetter_operations",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("verb", sa.String(length=12), nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("filters", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=190), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("options", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("course", sa.Text(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _index_where(
        "failbetter_operations_due", "failbetter_operations", ["next_at"], "next_at IS NOT NULL"
    )
    op.create_table(
        "failbetter_selected",
        sa.Column("operation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=40), nullable=True),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("past", sa.Text(), nullable=True),
        sa.Column("outcome", sa.String(length=12), nullable=True),
        sa.Column("moved_fence", sa.Integer(), nullable=True),
        sa.Column("moved_at", sa.BigInteger(), nullable=True),
        sa.Column("canary", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("operation_id", "job_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "failbetter_selected_by_job",
        "failbetter_selected",
        ["job_id", "operation_id"],
        unique=False,
    )
    op.create_table(
        "failbetter_subjects",
        sa.Column("task", sa.String(length=190), nullable=False),
        sa.Column("subject", sa.String(length=190), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "subject"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # What is past its time is deleted all the time: its room is to be free again soon.
        for table in ("attempts", "effects", "items"):
            op.execute(
                f"ALTER TABLE failbetter_{table} SET (autovacuum_vacuum_scale_factor = 0.02,"
                " autovacuum_vacuum_threshold = 5000)"
            )


def _index_where(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)


def _index_of_failed(name: str, columns: list[str]) -> None:
    # PostgreSQL seeks by the state only if the index's condition does not say the very same.
    op.create_index(
        name,
        "failbetter_jobs",
        columns,
        unique=False,
        sqlite_where=sa.text("state = 'failed'"),
        postgresql_where=sa.text("state >= 'failed' AND state <= 'failed'"),
    )
