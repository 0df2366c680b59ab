"""Hypothesis's settings, one place for all tests that use it.

`test`: the same examples for everyone and at every run, so that a red run is a change's doing.
`soak`: other examples each time; a failure prints what reproduces it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("test", derandomize=True, max_examples=100, **_SHARED)
settings.register_profile("soak", max_examples=5_000, **_SHARED)


def load() -> None:
    """Load the profile that FAILBETTER_TEST_PROFILE names, else `test`."""
    settings.load_profile(os.environ.get("FAILBETTER_TEST_PROFILE", "test"))
