"""What is particular to MySQL and MariaDB."""

from __future__ import annotations

from failbetter.ledger.kinds.mysql.kind import MySQL

__all__ = ["MySQL"]
