"""The demo's own application: what a user of failbetter would write.

A worker finds it as `failbetter.demo.tasks:app`. The ledger is `$FAILBETTER_URL`; which folder is
backed up, where the store is, and which file is poison come from `DEMO_…` in the environment.
"""

from __future__ import annotations

import hashlib
import os
import signal
import zlib
from pathlib import Path

import failbetter
from failbetter.demo.client import Objects, Office, RateLimited, Refused

app = failbetter.App()


class NotWhatWasSent(Exception):
    """The store gives back other bytes than it was sent."""


@app.task(
    queue="backup",
    max_attempts=3,
    backoff=[0.3, 0.6],
    max_crashes=3,
    timeout=20,
    release_within="2m",
)
def backup(name: str) -> None:
    """Back up one file: compress, hash, upload, verify, and give one receipt for it."""
    job = failbetter.current_job()
    objects = Objects(os.environ["DEMO_OBJECTS"])

    packed = zlib.compress(Path(os.environ["DEMO_FOLDER"], name).read_bytes())
    sha256 = hashlib.sha256(packed).hexdigest()

    if name == os.environ.get("DEMO_POISON"):
        os.kill(os.getpid(), signal.SIGKILL)  # what a bug in a C library can do

    try:
        objects.put(name, packed, sha256, idempotency_key=job.effect_key("upload"))
    except RateLimited as error:
        raise failbetter.Release(after=error.retry_after) from error
    except Refused as error:
        raise failbetter.Fail(f"refused by the store: {error}") from error

    if objects.get(name) != packed:
        raise NotWhatWasSent(name)

    office = Office(os.environ["DEMO_OFFICE"])
    job.once("receipt", lambda: office.receipt(name, sha256, job.effect_key("receipt")))
