"""What is particular to PostgreSQL."""

from __future__ import annotations

from failbetter.ledger.kinds.postgres.kind import Postgres

__all__ = ["Postgres"]
