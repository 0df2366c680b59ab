"""The board: a small shared file on which children note the bodies they begin.

A child writes an entry before it begins a body; that costs a memory write and survives the death
of child and supervisor alike. From it the supervisor learns what has begun and since when, and,
should the supervisor die, a sweeper on the same host learns what had.

For each child a ring: a count, then `RING` entries of (job id, fence, monotonic nanoseconds).
More attempts than `RING` are never handed to one child without being ended in the ledger.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RING = 1024
_COUNT = struct.Struct("<q")
_ENTRY = struct.Struct("<qqq")
_REGION = _COUNT.size + RING * _ENTRY.size

Entry = tuple[int, int, int]


def create(path: Path, children: int) -> None:
    """Make an empty board for that many children."""
    with open(path, "xb") as file:
        # Not a sparse file: with a full disk, its first use would kill the child that notes on it.
        file.write(bytes(_REGION * children))


class Ring:
    """One child's part of a board."""

    def __init__(self, path: Path, child: int) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._base = _REGION * child
        self._count: int = _COUNT.unpack_from(self._map, self._base)[0]

    def begin(self, number: int, fence: int, at: int) -> None:
        """Note that the attempt's body begins now. For one thread at a time."""
        place = self._base + _COUNT.size + (self._count % RING) * _ENTRY.size
        _ENTRY.pack_into(self._map, place, number, fence, at)
        self._count += 1
        # The entry is written before it is counted, so a reader never sees half of one.
        _COUNT.pack_into(self._map, self._base, self._count)

    def news(self) -> list[Entry]:
        """The entries since the last call, oldest first."""
        count: int = _COUNT.unpack_from(self._map, self._base)[0]
        if count == self._count:
            return []
        first = max(self._count, count - RING)
        self._count = count
        return [self._entry(place % RING) for place in range(first, count)]

    def _entry(self, place: int) -> Entry:
        entry: Entry = _ENTRY.unpack_from(self._map, self._base + _COUNT.size + place * _ENTRY.size)
        return entry

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def begun(path: Path) -> set[tuple[int, int]] | None:
    """(job id, fence) of all that a board still holds; None when there is no board to read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    found = set()
    for base in range(0, len(content) - _REGION + 1, _REGION):
        count = _COUNT.unpack_from(content, base)[0]
        for place in range(min(count, RING)):
            number, fence, _ = _ENTRY.unpack_from(content, base + _COUNT.size + place * _ENTRY.size)
            found.add((number, fence))
    return found
