"""Sizes that several rooms must agree on."""

from __future__ import annotations

import hashlib

KEY_LENGTH = 190
"""Longest indexed text, in characters: MySQL's index entries end at 768 bytes."""

WRITE_TIMEOUT = 30.0
"""Seconds a producer waits for its turn to write before it is told so."""

MAX_RESULT = 1_000_000
"""Longest result of a body or an effect that is kept, in bytes of JSON."""

DRILL = "failbetter.drill."
"""How the queues and the tasks of a drill begin. Workers that name no queue leave them alone."""


def bounded_key(key: str) -> str:
    """A key that fits its column: a long one keeps its beginning and a hash of the whole."""
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{key[: KEY_LENGTH - 33]}#{digest}"
