"""What was interrupted: found, explained, handed back. Recovery runs nothing itself.

`watch`: who is lost, by whose clock. `deciding`, `settling`: what becomes of what they held.
`sweeper`: both, every second, in every worker and in `failbetter maintain`. `startup`: both at
once, before an application serves. `report`: what users see of it.

All but the last load when they are first used, as the ledger's modules do.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from failbetter.recovery import deciding, settling, startup, status, sweeper, watch

__all__ = ["deciding", "settling", "startup", "status", "sweeper", "watch"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
