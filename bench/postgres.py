"""The PostgreSQL of a run: one server of our own for all systems, on the disk that is measured."""

from __future__ import annotations

from pathlib import Path

import psycopg
from tests.servers.postgres import PostgresFailed, PostgresMissing, PostgresServer

SETTINGS = {"shared_buffers": "256MB"}
"""All else, `fsync` and `synchronous_commit` among it, is as by default."""

__all__ = ["PostgresFailed", "PostgresMissing", "PostgresServer", "fact", "settle", "start"]


def start(work: Path) -> PostgresServer:
    """A new server with its data in `work`."""
    # Started by root, it runs as a user who must find a way through this folder.
    work.chmod(0o711)
    return PostgresServer.start(SETTINGS, data_parent=work.resolve())


def settle(server: PostgresServer) -> None:
    """Write out what is in memory, so that the next system is not measured meanwhile."""
    with psycopg.connect(server.dsn, autocommit=True) as link:
        link.execute("CHECKPOINT")


def fact(server: PostgresServer) -> str:
    """What a reader needs to know of it."""
    with psycopg.connect(server.dsn) as link:
        names = ("fsync", "synchronous_commit", *SETTINGS)
        shown = [f"{name} {link.execute(f'SHOW {name}').fetchall()[0][0]}" for name in names]
    return f"{server.version}; private, {', '.join(shown)}, all else as by default"
