"""An effect in doubt, as a task's `verify` is asked about it, and what that may answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Doubt(msgspec.Struct, frozen=True):
    """An effect that an earlier attempt began and did not come to tell the end of.

    `name`: as given to `RunningJob.once`. `key`: its `effect_key`, as a provider may know it.
    `intended_at`: when it was begun, in UTC.
    """

    name: str
    key: str
    intended_at: datetime


class Happened(msgspec.Struct, frozen=True):
    """What `verify` returns for an effect that has happened, with the `result` of it.

    `RunningJob.once` then returns that result. It is kept as JSON.
    """

    result: Any = None
