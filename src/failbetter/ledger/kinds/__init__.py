"""The kinds of database a ledger can be kept in, and all in which they differ: a module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failbetter.errors import ConfigurationError
from failbetter.ledger.kinds.base import Kind, Tx, Undone, Writer, as_text, said

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["Kind", "Tx", "Undone", "Writer", "as_text", "kind_of", "said"]


def kind_of(url: URL, *, durable: bool, schema: str | None) -> Kind:
    """The kind of database that a URL names; its module, and so its driver, loads only here.

    Raises ConfigurationError for one that cannot hold a ledger.
    """
    backend = url.get_backend_name()
    if backend == "sqlite":
        from failbetter.ledger.kinds.sqlite import SQLite

        return SQLite(url, durable=durable, schema=schema)
    if backend == "postgresql":
        try:
            from failbetter.ledger.kinds.postgres import Postgres
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "psycopg":
                raise
            raise ConfigurationError(
                "a ledger on PostgreSQL needs psycopg: install failbetter[postgres]"
            ) from None

        return Postgres(url, durable=durable, schema=schema)
    if backend in ("mysql", "mariadb"):
        try:
            from failbetter.ledger.kinds.mysql import MySQL
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "pymysql":
                raise
            raise ConfigurationError(
                "a ledger on MySQL or MariaDB needs PyMySQL: install failbetter[mysql]"
            ) from None

        return MySQL(url, durable=durable, schema=schema)
    raise ConfigurationError(
        f"a ledger on {url.drivername} is not supported by this version; use sqlite:///FILE,"
        " postgresql+psycopg://USER@HOST/DATABASE or mysql+pymysql://USER@HOST/DATABASE"
    )
