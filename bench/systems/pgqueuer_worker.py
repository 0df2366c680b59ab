"""What `pgq run` does; that command itself fails with the typer that is pinned beside it."""

from __future__ import annotations

import sys

import pgqueuer  # type: ignore[import-not-found,unused-ignore]
import uvloop  # type: ignore[import-not-found,unused-ignore]

from bench.systems.pgqueuer_tasks import main

if __name__ == "__main__":
    uvloop.run(pgqueuer.run(main, batch_size=int(sys.argv[1])))
