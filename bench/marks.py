"""Where bodies note when they ran: fixed-size records appended to a file.

Standard library only and quick to import, because workers of every system import it. The clock
is CLOCK_MONOTONIC, which all processes of one machine share.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

FILE = "BENCH_MARKS"
STRIDE = "BENCH_STRIDE"

_RECORD = struct.Struct("<qq")
_file: int | None = None


class Mark(NamedTuple):
    """Job `number` began its body at `ns` nanoseconds of the monotonic clock."""

    number: int
    ns: int


def write(number: int) -> None:
    """Note that the body of job `number` began now.

    One `write` to a file opened for appending is not torn by other processes' writes.
    """
    global _file
    now = time.monotonic_ns()
    if _file is None:
        _file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_file, _RECORD.pack(number, now))


def read(path: Path) -> list[Mark]:
    """All marks written so far, in the order in which they arrived."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [Mark(*record) for record in _RECORD.iter_unpack(data)]
