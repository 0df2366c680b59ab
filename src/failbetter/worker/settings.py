"""What a worker is told when it is started."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`app`: module:attribute. `queues` empty: all. Times in seconds, `max_memory` in bytes.

    `health_port`: where to serve the endpoints, 0 for any free one. `parent`: the process that the
    worker belongs to; it stops when that is gone. `restart_on_change`: replace the children when
    the code that they have loaded, or what these paths hold, changes; None: do not.
    """

    app: str
    queues: tuple[str, ...] = ()
    processes: int = 1
    concurrency: int = 1
    drain: bool = False
    shutdown_timeout: float = 25.0
    max_memory: int | None = None
    log_format: str = "text"
    log_level: str = "INFO"
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    parent: int | None = None
    restart_on_change: tuple[str, ...] | None = None
