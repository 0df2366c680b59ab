"""Which systems take part in a run, and why others do not."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench import machine, peers, postgres
from bench.capture import capture
from bench.redis_server import RedisMissing, RedisServer, find_server
from bench.results import Results
from bench.systems.base import System
from bench.systems.django_tasks_db import DjangoTasksDb
from bench.systems.dramatiq import Dramatiq
from bench.systems.failbetter import Failbetter, FailbetterPg
from bench.systems.failbetter_rq import FORKING, SIMPLE, FailbetterRq, FailbetterRqPg
from bench.systems.huey import Huey
from bench.systems.oban import Oban
from bench.systems.pgqueuer import Pgqueuer
from bench.systems.procrastinate import Procrastinate
from bench.systems.raw import Raw
from bench.systems.raw_pg import RawPg
from bench.systems.rq import Rq

OURS = ("failbetter", "raw", "failbetter-relaxed", "raw-relaxed")
OURS_ON_RQ = ("failbetter-rq", "failbetter-rq-forking")
OURS_ON_RQ_AND_POSTGRES = ("failbetter-rq-pg", "failbetter-rq-pg-forking")
ON_REDIS = ("rq", "rq-forking", *OURS_ON_RQ, "dramatiq")
PEERS = ("huey", "huey-default", *ON_REDIS)
OURS_ON_POSTGRES = ("failbetter-pg", "raw-pg", "raw-pg-executemany")
PEERS_ON_POSTGRES = ("pgqueuer", "procrastinate", "django-tasks-db")
"""Those that live in the environment of the other peers."""
ON_POSTGRES = (*OURS_ON_POSTGRES, *OURS_ON_RQ_AND_POSTGRES, *PEERS_ON_POSTGRES, "oban")
KEYS = (*OURS, *PEERS, *ON_POSTGRES)


class Server(Protocol):
    """What a run needs of a server that it started."""

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""
        ...


@dataclass
class Lineup:
    """The systems in the order of the table, facts about them, and the rows that raw imitates."""

    specimen: Path
    systems: list[System] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """CPU time used so far by the servers of this run."""
        return sum(server.cpu_seconds() for server in self.servers)


class Assembly:
    """Makes everything ready; what is missing is noted in `results.skipped`."""

    def __init__(
        self, wanted: Iterable[str], work: Path, results: Results, stack: ExitStack
    ) -> None:
        self._keys = set(wanted)
        self._work = work
        self._results = results
        self._stack = stack
        self._here = Path(sys.executable)
        self._redis_server: RedisServer | None = None
        self._lineup = Lineup(work / "specimen.json")

    def go(self) -> Lineup:
        """The systems that were asked for and can run here."""
        if self._any(OURS):
            self._ours()
        if self._any(PEERS):
            self._peers()
        if self._any(ON_POSTGRES):
            self._on_postgres()
        return self._lineup

    def _any(self, keys: Iterable[str]) -> bool:
        return not self._keys.isdisjoint(keys)

    def _add(self, *systems: System) -> None:
        self._lineup.systems += [system for system in systems if system.key in self._keys]

    def _python(self, environment: peers.Environment, names: str) -> Path | None:
        """The peers' interpreter; None, with a note, where they cannot be installed."""
        try:
            python = environment.ready()
        except peers.PeersMissing as error:
            self._results.skipped[names] = str(error)
            return None
        fact = machine.versions(python, environment.distributions)
        if fact not in self._lineup.facts:
            self._lineup.facts.append(fact)
        return python

    def _ours(self) -> None:
        here, specimen = self._here, self._lineup.specimen
        capture(Failbetter(here, durable=True), self._work).save(specimen)
        # Each of ours is measured right beside the limit that it is compared with.
        for durable in (True, False):
            self._add(Failbetter(here, durable), Raw(here, specimen, durable))

    def _peers(self) -> None:
        python = self._python(peers.MOST, "Huey, RQ, Dramatiq")
        if python is None:
            return
        self._add(Huey(python, "on"), Huey(python, "default"))
        if not self._any(ON_REDIS):
            return
        server = self._redis("RQ, Dramatiq")
        if server is None:
            return
        # Each of ours is measured right beside the bare engine that it is compared with.
        for forking in (False, True):
            ours = FailbetterRq(self._here, server, FORKING if forking else SIMPLE)
            self._add(Rq(python, server, forking), ours)
        self._add(Dramatiq(python, server))

    def _redis(self, names: str) -> RedisServer | None:
        """The run's one Redis; None, with a note, where there is none."""
        if self._redis_server is None:
            try:
                server = RedisServer(find_server(), self._work)
            except RedisMissing as error:
                self._results.skipped[names] = str(error)
                return None
            self._stack.callback(server.stop)
            self._lineup.servers.append(server)
            self._lineup.facts.append(f"{server.version}; private, without persistence")
            self._redis_server = server
        return self._redis_server

    def _on_postgres(self) -> None:
        try:
            server = postgres.start(self._work)
        except (postgres.PostgresMissing, postgres.PostgresFailed) as error:
            self._results.skipped["all on PostgreSQL"] = str(error)
            return
        self._stack.callback(server.close)
        self._lineup.servers.append(server)
        self._lineup.facts.append(postgres.fact(server))
        if self._any(OURS_ON_POSTGRES):
            self._ours_on_postgres(server)
        if self._any(OURS_ON_RQ_AND_POSTGRES):
            redis = self._redis("failbetter on RQ and PostgreSQL")
            if redis is not None:
                for worker in (SIMPLE, FORKING):
                    self._add(FailbetterRqPg(self._here, server, redis, worker))
        if self._any(PEERS_ON_POSTGRES):
            python = self._python(peers.MOST, ", ".join(PEERS_ON_POSTGRES))
            if python is not None:
                self._add(Pgqueuer(python, server), Procrastinate(python, server),
                          DjangoTasksDb(python, server))  # fmt: skip
        if "oban" in self._keys:
            python = self._python(peers.OBAN, "oban")
            if python is not None:
                self._add(Oban(python, server))

    def _ours_on_postgres(self, server: postgres.PostgresServer) -> None:
        here, specimen = self._here, self._work / "specimen-pg.json"
        ours = FailbetterPg(here, server)
        try:
            capture(ours, self._work).save(specimen)
        except Exception as error:
            # The peers can be measured all the same.
            self._results.errors[ours.key, "a first job"] = f"{type(error).__name__}: {error}"
            return
        self._add(ours, *(RawPg(here, server, specimen, bulk) for bulk in ("copy", "executemany")))
