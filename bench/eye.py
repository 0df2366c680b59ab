"""An onlooker who asks a PostgreSQL database the same thing again and again."""

from __future__ import annotations

from typing import Any

import psycopg


class Eye:
    """Connects when it is first asked: workers import their tasks module and never look."""

    def __init__(self, url: str, live: str) -> None:
        """`live`: a condition of the form `table WHERE ...` that waiting and running jobs meet."""
        self._url = url
        self._question = f"SELECT 1 FROM {live} LIMIT 1"
        self._link: psycopg.Connection[Any] | None = None

    def sees_none(self) -> bool:
        """Whether no row meets the condition."""
        if self._link is None:
            self._link = psycopg.connect(self._url, autocommit=True)
        return self._link.execute(self._question).fetchone() is None
