"""What a worker of these soaks loads: bodies that do nothing, so that the ledger is measured."""

from __future__ import annotations

import os
from typing import Any

import failbetter


def make_app(url: str | None = None) -> failbetter.App:
    """An app of these tasks on the ledger of that URL (else `$FAILBETTER_URL`)."""
    app = failbetter.App(url)
    app.task()(nothing)
    app.task(
        name="kept",
        unique=lambda n: str(n),
        exclusive=lambda n: str(n % 50),
        expires_after="1m",
    )(nothing)
    app.task(max_attempts=1)(hopeless)
    return app


def nothing(n: int) -> None:
    """The body of most jobs here."""


def hopeless(n: int) -> None:
    """Fails for good."""
    raise ValueError(f"{n} cannot be done")


def __getattr__(name: str) -> Any:
    # Only in a worker is there a ledger to make an app of.
    if name == "app" and "FAILBETTER_URL" in os.environ:
        return make_app()
    raise AttributeError(name)
