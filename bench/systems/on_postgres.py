"""What the systems on PostgreSQL share: a database for each session, on the run's one server."""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.postgres import PostgresServer, settle
from bench.processes import clean_environment
from bench.session import ROOT
from bench.systems.base import System


class OnPostgres(System):
    """Its tables are made once, by its own command; each session gets a copy of that database."""

    store = "postgres"
    durability = "durable"

    def __init__(self, python: Path, server: PostgresServer) -> None:
        super().__init__(python)
        self._server = server
        self._urls: dict[Path, str] = {}

    @abstractmethod
    def installer(self) -> Sequence[str]:
        """How a user makes its tables, in the environment that `reach` gives."""

    def reach(self, url: str) -> Mapping[str, str]:
        """How its processes are told where the database is; `url` as libpq takes it."""
        return {"BENCH_POSTGRES": url}

    def prepare(self, folder: Path) -> None:
        made = self._server.fresh_database(" ".join(self.installer()), self._install)
        self._urls[folder] = made
        settle(self._server)

    def _install(self, url: str) -> None:
        """Make its tables in an empty database."""
        extra = {"PYTHONPATH": str(ROOT), **self.reach(_libpq(url))}
        done = subprocess.run(
            self.installer(), env=clean_environment(extra), cwd=ROOT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise RuntimeError(f"{self.key}: its tables could not be made: {' | '.join(said[-3:])}")

    def url(self, folder: Path) -> str:
        """The session's database, as libpq takes it."""
        return _libpq(self._urls[folder])

    def environment(self, folder: Path) -> Mapping[str, str]:
        return self.reach(self.url(folder))

    def forget(self, folder: Path) -> None:
        if url := self._urls.pop(folder, None):
            self._server.drop_database(url)


def _libpq(url: str) -> str:
    """SQLAlchemy's URL without the driver's name, which only SQLAlchemy knows."""
    return url.replace("postgresql+psycopg:", "postgresql:", 1)
