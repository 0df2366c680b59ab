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


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("failbetter.celery.watching"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
