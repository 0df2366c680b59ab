"""failbetter in Celery's workers. Needs the extra `failbetter[celery]`.

`failbetter.celery.work` is what they load to run jobs; `watch` has a ledger follow tasks of
Celery's own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from failbetter.celery.watching import watch

__all__ = ["watch"]

_HOMES = {"watch": "failbetter.celery.watching"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
