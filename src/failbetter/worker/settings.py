"""What a worker is told when it is started."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`app`: module:attribute. `queues` empty: all. Times in seconds, `max_memory` in bytes."""

    app: str
    queues: tuple[str, ...] = ()
    processes: int = 1
    concurrency: int = 1
    drain: bool = False
    shutdown_timeout: float = 25.0
    max_memory: int | None = None
    log_format: str = "text"
    log_level: str = "INFO"
