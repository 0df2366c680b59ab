"""Which systems take part in a run, and why others do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import machine, peers
from bench.capture import capture
from bench.redis_server import RedisMissing, RedisServer, find_server
from bench.results import Results
from bench.systems.base import System
from bench.systems.dramatiq import Dramatiq
from bench.systems.failbetter import Failbetter
from bench.systems.huey import Huey
from bench.systems.raw import Raw
from bench.systems.rq import Rq

KEYS = ("failbetter", "failbetter-relaxed", "raw", "raw-relaxed", "huey", "huey-default", "rq",
        "rq-forking", "dramatiq")  # fmt: skip
ON_REDIS = ("rq", "rq-forking", "dramatiq")


@dataclass(frozen=True)
class Lineup:
    """The systems in the order of the table, facts about them, and the rows that raw imitates."""

    systems: list[System]
    facts: list[str]
    specimen: Path
    cpu_seconds: Callable[[], float]
    """CPU time used so far by the servers of this run."""


def assemble(wanted: Iterable[str], work: Path, results: Results, stack: ExitStack) -> Lineup:
    """Make everything ready; what is missing is noted in `results.skipped`."""
    keys = set(wanted)
    here = Path(sys.executable)
    facts: list[str] = []
    specimen = work / "specimen.json"
    capture(Failbetter(here, durable=True), work).save(specimen)
    # Each of ours is measured right beside the limit that it is compared with.
    found: list[System] = [
        Failbetter(here, durable=True),
        Raw(here, specimen, durable=True),
        Failbetter(here, durable=False),
        Raw(here, specimen, durable=False),
    ]
    servers: list[RedisServer] = []
    if keys - {system.key for system in found}:
        found += _peers(keys, work, results, facts, servers)
    for server in servers:
        stack.callback(server.stop)
    return Lineup(
        [s for s in found if s.key in keys],
        facts,
        specimen,
        lambda: sum(server.cpu_seconds() for server in servers),
    )


def _peers(
    keys: set[str],
    work: Path,
    results: Results,
    facts: list[str],
    servers: list[RedisServer],
) -> list[System]:
    try:
        python = peers.ready()
    except peers.PeersMissing as error:
        results.skipped["Huey, RQ, Dramatiq"] = str(error)
        return []
    facts.append(machine.versions(python, peers.DISTRIBUTIONS))
    found: list[System] = [Huey(python, "on"), Huey(python, "default")]
    if keys.isdisjoint(ON_REDIS):
        return found
    try:
        server = RedisServer(find_server(), work)
    except RedisMissing as error:
        results.skipped["RQ, Dramatiq"] = str(error)
        return found
    servers.append(server)
    facts.append(f"{server.version}; private, without persistence")
    return [*found, Rq(python, server, False), Rq(python, server, True), Dramatiq(python, server)]
