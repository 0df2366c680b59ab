"""How a PostgreSQL server really ran the statements it was given, whoever sent them.

The server's own auto_explain writes each plan into its log; nothing of the code under test is
touched or imitated.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.postgres import PostgresServer

_EXPLAINING: Final = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    # Whoever lets the server compile statements is seen to.
    "jit_above_cost": "0",
}
_ENTRY: Final = re.compile(r"duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)")


class Plan(NamedTuple):
    """One statement as it was run."""

    text: str
    tree: dict[str, Any]
    compiled: bool
    """Whether the server compiled it, as by default it does where it expects high costs."""

    def nodes(self) -> Iterator[dict[str, Any]]:
        """All steps of the plan."""
        return _below(self.tree)

    def reads_whole(self, table: str) -> bool:
        """Whether it goes through a whole table."""
        return any(
            node["Node Type"] == "Seq Scan" and node["Relation Name"] == table
            for node in self.nodes()
        )

    @property
    def pages(self) -> int:
        """How many pages it looked at, in memory or on disk."""
        return int(self.tree["Shared Hit Blocks"] + self.tree["Shared Read Blocks"])

    @property
    def discarded(self) -> int:
        """How many rows it found and did not want."""
        return sum(
            int(node.get("Rows Removed by Filter", 0)) * int(node["Actual Loops"])
            for node in self.nodes()
        )

    def outline(self) -> str:
        """What a failed test says of it."""
        steps = []
        for node in self.nodes():
            where = node.get("Index Name") or node.get("Relation Name") or ""
            steps.append(f"{node['Node Type']} {where}".strip())
        text = " ".join(self.text.split())
        return (
            f"{self.pages} pages, {self.discarded} discarded: {text[:160]}\n    {' < '.join(steps)}"
        )


def plans_of(
    server: PostgresServer, database: str, act: Callable[[], object], *, generic: bool = False
) -> list[Plan]:
    """The plans of all that `act` has done in a database by connections that it opens itself.

    `generic`: planned without a look at the values, as statements come to be that are prepared
    and run often.
    """
    settings = {**_EXPLAINING, "plan_cache_mode": "force_generic_plan" if generic else "auto"}
    name = sql.Identifier(database.rpartition("/")[2])
    with psycopg.connect(server.dsn, autocommit=True) as link:
        for key, value in settings.items():
            setting = sql.SQL("ALTER DATABASE {} SET {} = {}")
            link.execute(setting.format(name, sql.SQL(key), sql.Literal(value)))
        before = len(server.log_text())
        try:
            act()
        finally:
            link.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
    return [_read(found) for found in _ENTRY.findall(server.log_text()[before:])]


def _read(entry: str) -> Plan:
    document = json.loads(entry)
    return Plan(document["Query Text"], document["Plan"], "JIT" in document)


def _below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _below(child)
