"""The bodies that every system runs: the same functions, wrapped by each system's own decorator.

A job's only argument is its number. Jobs used to warm a system up have negative numbers.
"""

from __future__ import annotations

import os
import time

from bench import marks

_STRIDE = int(os.environ.get(marks.STRIDE, "0")) or 1 << 62
_CPU_SECONDS = 0.001
_seen = False


def noop(n: int) -> int:
    """Nothing. The first one of a process and every STRIDE-th job leave a mark."""
    global _seen
    if not _seen or n % _STRIDE == 0:
        _seen = True
        marks.write(n)
    return n + 1


def spin(n: int) -> int:
    """One millisecond of this thread's CPU time, however busy the machine is."""
    noop(n)
    end = time.thread_time() + _CPU_SECONDS
    while time.thread_time() < end:
        pass
    return n + 1


def touch(n: int) -> int:
    """Leaves a mark, to tell when it was picked up."""
    marks.write(n)
    return n + 1


def fail(n: int) -> int:
    """Fails with a message that differs from job to job."""
    raise ConnectionError(f"no route to the host of job {n}")


def linger(n: int) -> int:
    """Runs long enough for its row to be looked at."""
    marks.write(n)
    time.sleep(1.0)
    return n + 1


def brief(n: int) -> int:
    """Waits for a moment, and leaves a mark at its end."""
    time.sleep(0.005)
    marks.write(n)
    return n + 1


ALL = {body.__name__: body for body in (noop, spin, touch, fail, linger, brief)}
