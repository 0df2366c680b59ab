"""What RQ's workers of these tests load: `tests.faults.served_rq:app`."""

import os

from tests.faults.apps import hold, make_app

import failbetter

if os.environ.get("FAILBETTER_TEST_BROKEN"):
    raise RuntimeError("a module that cannot be imported")

app = make_app(engine=failbetter.RQ(os.environ["FAILBETTER_TEST_REDIS"]))


@app.task(timeout=None)
def hold_for_ever(gate: str) -> None:
    """As `hold`, by a task that may take as long as it likes."""
    hold(gate)
