"""The ledger: one durable, truthful record of every job. The only room that speaks SQL.

Its modules load when they are first used: `ledger.enqueue`, `ledger.reads`. SQLAlchemy costs some
20 MB and a third of a second, which a worker's child whose bodies enqueue nothing does without.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from failbetter.ledger import (
        acts,
        adopted,
        alerts,
        breakers,
        claims,
        committing,
        database,
        edits,
        effects,
        elsewhere,
        enqueue,
        events,
        filters,
        groups,
        holds,
        hooks,
        joining,
        kinds,
        limits,
        lists,
        losses,
        migrate,
        mirrors,
        moving,
        notes,
        operations,
        outbox,
        outcomes,
        progress,
        pruning,
        reads,
        registry,
        restarts,
        selection,
        sending,
        stories,
        supersession,
        turns,
    )

__all__ = [
    "acts",
    "adopted",
    "alerts",
    "breakers",
    "claims",
    "committing",
    "database",
    "edits",
    "effects",
    "elsewhere",
    "enqueue",
    "events",
    "filters",
    "groups",
    "holds",
    "hooks",
    "joining",
    "kinds",
    "limits",
    "lists",
    "losses",
    "migrate",
    "mirrors",
    "moving",
    "notes",
    "operations",
    "outbox",
    "outcomes",
    "progress",
    "pruning",
    "reads",
    "registry",
    "restarts",
    "selection",
    "sending",
    "stories",
    "supersession",
    "turns",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
