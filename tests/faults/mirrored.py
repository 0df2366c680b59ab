"""What a worker of the mirror's tests loads: `tests.faults.mirrored:app`.

The rows of the table `followers` follow the jobs whose first argument is their key.
"""

from __future__ import annotations

import os

from tests.faults.apps import make_app

import failbetter

APP = "tests.faults.mirrored:app"
ELSEWHERE = "FAILBETTER_TEST_MIRROR"
"""Names the variable with the URL of the database that has the table; unset: the ledger's own."""


def make_mirrored_app(url: str | None = None) -> failbetter.App:
    """An app of all tasks, of which those with a number have a row that follows."""
    app = make_app(url)
    app.mirror(
        "followers",
        key="id",
        from_arg="n",
        status="status",
        error="error",
        ended_at="ended_at",
        url=os.environ.get(ELSEWHERE),
    )
    return app


if "FAILBETTER_URL" in os.environ:
    app = make_mirrored_app()
