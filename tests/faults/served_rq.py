"""What RQ's workers of these tests load: `tests.faults.served_rq:app`."""

import os

from tests.faults.apps import make_app

import failbetter

if os.environ.get("FAILBETTER_TEST_BROKEN"):
    raise RuntimeError("a module that cannot be imported")

app = make_app(engine=failbetter.RQ(os.environ["FAILBETTER_TEST_REDIS"]))
