"""Holds mirrored rows against their jobs, and puts right what differs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from failbetter import ids, ledger
from failbetter.mirror.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from failbetter.ledger.database import Database
    from failbetter.ledger.elsewhere import Elsewhere
    from failbetter.ledger.mirrors import Seen

Finding = Literal["differs", "missing", "unknown"]

_PAGE = 200
# Seconds that a repair in another database may take: whoever has the courier's turn does it.
_DELIVERY = 15.0
# A job moves while it is looked at: then both are looked at again, so many times.
_LOOKS = 3


class MirrorRow(msgspec.Struct, frozen=True):
    """A mirrored row that is not as it should be.

    `job`: the id of the newest job of the row. `finding`: it `differs` from its job; there is no
    such row (`missing`); or it could not be looked at (`unknown`). `columns`: for each column
    that differs what it holds and what it should hold. `repaired`: whether it is right by now.
    `problem`: why it could not be looked at or repaired.
    """

    job: str
    table: str
    key: str
    finding: Finding
    columns: dict[str, tuple[Any, Any]]
    repaired: bool = False
    problem: str | None = None


class MirrorCheck(msgspec.Struct, frozen=True):
    """What a check found. `checked`: how many rows; `rows`: those that are not right."""

    checked: int
    rows: list[MirrorRow]

    @property
    def right(self) -> bool:
        """Whether every row says what its job does, or was made to."""
        return all(row.repaired for row in self.rows)


class Checker:
    """Looks at rows, wherever they are."""

    def __init__(self, database: Database, urls: Mapping[str, str]) -> None:
        self._database = database
        self._urls = urls
        self._own = ledger.elsewhere.Elsewhere(database.engine)
        self._others: dict[str, Elsewhere] = {}

    def check(self, *, dry_run: bool, limit: int | None) -> MirrorCheck:
        """Compare, and unless `dry_run` repair. Raises LedgerError."""
        checked = 0
        wrong: list[tuple[str, MirrorRow]] = []
        for key, seen in self._newest(limit):
            checked += 1
            found = self._look(key, seen)
            if found is not None:
                wrong.append((key, found))
        if not dry_run:
            wrong = self._repaired(wrong)
        for other in self._others.values():
            other.close()
        return MirrorCheck(checked, [row for _, row in wrong])

    def _newest(self, limit: int | None) -> Iterator[tuple[str, Seen]]:
        """The newest job of each mirrored row, the newest of all first."""
        below = None
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = ledger.mirrors.page(self._database, below, size)
            for _, key, seen in page:
                if seen is not None:
                    yield key, seen
            if len(page) < size:
                return
            below = page[-1][0]
            left = None if left is None else left - len(page)

    def _look(self, key: str, seen: Seen) -> MirrorRow | None:
        """The row if it is not right; None if it is."""
        for _ in range(_LOOKS):
            found = self._compare(seen)
            if found is None:
                return None
            with self._database.look() as tx:
                now = ledger.mirrors.newest(tx, key)
            if now is None or now == seen:
                return found
            seen = now
        return found

    def _compare(self, seen: Seen) -> MirrorRow | None:
        spec = seen.spec
        where = (ids.to_text(seen.id), spec.table, str(spec.value))
        place = self._place(spec.database)
        if place is None:
            return MirrorRow(*where, "unknown", {}, problem="the app does not name its database")
        try:
            rows = place.read(seen)
        except (LookupError, ledger.elsewhere.Unreachable) as error:
            return MirrorRow(*where, "unknown", {}, problem=str(error))
        if not rows:
            return MirrorRow(*where, "missing", {}, problem="there is no row of this key")
        wanted = seen.values("")
        differing = {
            name: (_shown(held[at]), wanted[at])
            for held in rows
            for at, name in enumerate(spec.columns)
            if not _alike(held[at], wanted[at], is_time=name == spec.ended_at)
        }
        return MirrorRow(*where, "differs", differing) if differing else None

    def _place(self, name: str | None) -> Elsewhere | None:
        if name is None:
            return self._own
        if name not in self._others and name in self._urls:
            self._others[name] = ledger.elsewhere.Elsewhere(self._urls[name])
        return self._others.get(name)

    def _repaired(self, wrong: list[tuple[str, MirrorRow]]) -> list[tuple[str, MirrorRow]]:
        numbers = [ids.from_text(row.job) for _, row in wrong if row.finding == "differs"]
        for at in range(0, len(numbers), _PAGE):
            with self._database.write() as tx:
                for number in numbers[at : at + _PAGE]:
                    ledger.outbox.put(tx, number)
        self._deliver(numbers)
        return [(key, self._again(key, row)) for key, row in wrong]

    def _deliver(self, numbers: list[int]) -> None:
        """Have what was put into the outbox delivered, by us or by a worker."""
        courier = Courier(self._database, self._urls)
        limit = time.monotonic() + _DELIVERY
        try:
            while numbers and time.monotonic() < limit:
                if courier.tick(time.monotonic()).delivered == 0:
                    time.sleep(0.1)
                with self._database.look() as tx:
                    numbers = [number for number in numbers if ledger.outbox.holds(tx, number)]
        finally:
            courier.close()

    def _again(self, key: str, row: MirrorRow) -> MirrorRow:
        """The row after the repair."""
        if row.finding != "differs":
            return row
        with self._database.look() as tx:
            seen = ledger.mirrors.newest(tx, key)
            why = ledger.outbox.error_of(tx, ids.from_text(row.job))
        still = None if seen is None else self._look(key, seen)
        if still is None:
            return msgspec.structs.replace(row, repaired=True)
        return msgspec.structs.replace(still, problem=still.problem or why or "it differs still")


def _alike(held: object, wanted: object, *, is_time: bool) -> bool:
    if held is None or wanted is None:
        return held is wanted
    if is_time:
        return _same_moment(held, str(wanted))
    if isinstance(held, bool) or isinstance(wanted, bool):
        return str(held).lower() in (str(wanted).lower(), str(int(bool(wanted))))
    return str(held).rstrip() == str(wanted).rstrip()  # a CHAR is padded with blanks


def _same_moment(held: object, wanted: str) -> bool:
    """Whether it is that time, to the second: not every column keeps fractions."""
    try:
        at = held if isinstance(held, datetime) else datetime.fromisoformat(str(held))
    except ValueError:
        return False
    expected = datetime.fromisoformat(wanted)
    if at.tzinfo is not None:
        at = at.astimezone(UTC).replace(tzinfo=None)
    return abs((at - expected).total_seconds()) < 1


def _shown(held: object) -> Any:
    plain = held is None or isinstance(held, (str, int, float))
    return held if plain else str(held)
