"""Work kept waiting on purpose: what is held, and how it is let go of.

A held queue is passed over by claims. Of a held task, group or dependency (a breaker's) a claim
comes across each job once, and *parks* it: the job waits without a rank, where no later claim sees
it, under the hold's id. So a pause costs nothing when it is made, however much it holds; and
letting go makes what is parked claimable again, some at a time, at its old place.

A claim reads the holds with a shared lock, so that nothing is parked under a hold which has
already let go of its last job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from sqlalchemy import delete, func, insert, null, select, update

from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import holds, jobs
from failbetter.lifecycle.policy import from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.kinds import Tx
    from failbetter.ledger.reads import JobRow

Kind = Literal["queue", "task", "group", "breaker"]


class HoldRow(msgspec.Struct, frozen=True):
    """A hold. Times in microseconds since the epoch; `rate` in jobs per 1,000 s.

    `active` None: it lets go of what it held.
    """

    id: int
    kind: Kind
    name: str
    active: int | None
    reason: str | None
    actor: str | None
    since: int
    rate: int | None
    let_go: int
    let_go_since: int | None
    probe_every: int | None
    probe_at: int | None
    probe: int | None
    probed: int | None


class Standing:
    """What is held at one moment."""

    def __init__(self, rows: Sequence[tuple[int, str, str, int | None]]) -> None:
        self._ids = {(kind, name): number for number, kind, name, _ in rows}
        self.queues = frozenset(name for kind, name in self._ids if kind == "queue")
        self._parks = len(self._ids) > len(self.queues)
        self._probes = {probe for *_, probe in rows if probe is not None}

    def __bool__(self) -> bool:
        return bool(self._ids)

    def keeps(self, job: Claimed) -> bool:
        """Whether the job must not begin now."""
        return job.queue in self.queues or self.parker_of(job) is not None

    def keeps_named(self, queue: str, task: str, fingerprint: str | None) -> bool:
        """Whether what belongs to these must wait."""
        names = (("queue", queue), ("task", task), ("group", fingerprint))
        return any(name in self._ids for name in names)

    def parker_of(self, job: Claimed) -> int | None:
        """The hold under which the job is to be parked."""
        if not self._parks:
            return None
        found = self._ids.get(("task", job.task))
        if found is None and job.fingerprint is not None:
            found = self._ids.get(("group", job.fingerprint))
        if found is None and job.id not in self._probes:
            found = self.breaker_of(job)
        return found

    def breaker_of(self, job: Claimed) -> int | None:
        """The open breaker of a dependency that the job needs."""
        breaker = job.policy.breaker
        return None if breaker is None else self._ids.get(("breaker", breaker.name))


_columns = [holds.c[name] for name in HoldRow.__struct_fields__]
_is_active = holds.c.active == ONE
_standing = select(holds.c.id, holds.c.kind, holds.c.name, holds.c.probe).where(_is_active)
STANDING = Prepared(_standing)
STANDING_LOCKED = Prepared(_standing.with_for_update(read=True))
ALL = Prepared(select(*_columns).order_by(holds.c.since, holds.c.id))
LETTING_GO = Prepared(select(*_columns).where(holds.c.active.is_(None)).order_by(holds.c.id))
ACTIVE = Prepared(
    select(*_columns).where(holds.c.kind == b("kind"), holds.c.name == b("name"), _is_active),
    "kind name",
)
BY_ID = Prepared(select(*_columns).where(holds.c.id == b("id")), "id")
MAKE = Prepared(
    lambda kind: kind.insert_unless(
        insert(holds).values(
            id=b("id"),
            kind=b("kind"),
            name=b("name"),
            active=ONE,
            reason=b("reason"),
            actor=b("actor"),
            since=b("since"),
            rate=b("rate"),
            let_go=ZERO,
            probe_every=b("probe_every"),
            probe_at=b("probe_at"),
        ),
        [holds.c.kind, holds.c.name, holds.c.active],
    ),
    "id kind name reason actor since rate probe_every probe_at",
)
END = Prepared(
    update(holds)
    .values(
        active=null(),
        rate=b("rate"),
        let_go_since=b("now"),
        probe=null(),
        probe_at=null(),
    )
    .where(holds.c.id == b("id"), _is_active),
    "rate now id",
)
COUNT_LET_GO = Prepared(
    update(holds)
    .values(let_go=holds.c.let_go + b("more"))
    .where(holds.c.id == b("id"), holds.c.let_go == b("before")),
    "more id before",
)
FORGET = Prepared(delete(holds).where(holds.c.id == b("id"), holds.c.active.is_(None)), "id")
PARK = Prepared(
    update(jobs)
    .values(
        held=b("held"),
        worker=null(),
        claimed=null(),
        fence=jobs.c.fence + ONE,
    )
    .where(jobs.c.id == b("id"), jobs.c.fence == b("fence"), jobs.c.claimed == ONE),
    "held id fence",
)
PARKED = Prepared(
    select(jobs.c.id)
    .where(jobs.c.held == b("held"))
    .order_by(jobs.c.id)
    .limit(b("limit"))
    .offset(ZERO),
    "held limit",
)
RELEASE = Prepared(
    update(jobs)
    .values(held=null(), rank=-jobs.c.priority)
    .where(jobs.c.id == b("id"), jobs.c.held == b("held"), jobs.c.live == ONE),
    "id held",
)
_some_parked = select(jobs.c.id).where(jobs.c.held == b("held")).limit(b("limit")).offset(ZERO)
COUNT_PARKED = Prepared(
    select(func.count()).select_from(_some_parked.subquery()),
    "held limit",
)


def standing(tx: Tx, *, to_claim: bool = False) -> Standing:
    """What is held. `to_claim`: and stays so until the transaction's end."""
    rows = tx.rows(STANDING_LOCKED if to_claim else STANDING)
    return Standing([(row[0], row[1], row[2], row[3]) for row in rows])


def park(tx: Tx, claimed: Sequence[Claimed], held: Standing) -> list[Claimed]:
    """Park what is held of jobs that were just claimed; those that are not."""
    parked = [
        (hold, job.id, job.fence) for job in claimed if (hold := held.parker_of(job)) is not None
    ]
    if not parked:
        return list(claimed)
    tx.many(PARK, parked)
    gone = {number for _, number, _ in parked}
    return [job for job in claimed if job.id not in gone]


def make(
    tx: Tx,
    number: int,
    kind: Kind,
    name: str,
    reason: str | None,
    actor: str | None,
    *,
    rate: int | None = None,
    probe_every: int | None = None,
) -> tuple[HoldRow, bool]:
    """Hold what the name stands for: the hold, and whether this made it or there was one already.

    `rate`: at which it will let go. `probe_every` (µs): lets a job through now and then, to see.
    """
    now = tx.now()
    probe_at = None if probe_every is None else now + probe_every
    while True:
        made = tx.run(MAKE, number, kind, name, reason, actor, now, rate, probe_every, probe_at)
        found = active(tx, kind, name)
        if found is not None:
            return found, bool(made)
        # The one that was there has ended in between: now there is room for this one.


def active(tx: Tx, kind: Kind, name: str) -> HoldRow | None:
    """The hold on what the name stands for."""
    row = tx.row(ACTIVE, kind, name)
    return None if row is None else HoldRow(*row)


def one(tx: Tx, number: int) -> HoldRow | None:
    """The hold of an id."""
    row = tx.row(BY_ID, number)
    return None if row is None else HoldRow(*row)


def end(tx: Tx, hold: HoldRow, rate: int | None) -> bool:
    """Hold no more, and begin to let go of what is parked. False: somebody else has done so."""
    return bool(tx.run(END, rate, tx.now(), hold.id))


def let_go_some(tx: Tx, number: int, limit: int) -> int | None:
    """Make up to `limit` parked jobs claimable, as many as the hold's rate allows by now.

    How many it were; None when the hold has let go of its last one, or there is none such.
    """
    hold = one(tx, number)
    if hold is None or hold.active:
        return None
    room = min(limit, _allowed(hold, tx.now()))
    if room <= 0:
        return 0
    found = [(row[0], number) for row in tx.rows(PARKED, number, room)]
    if not found:
        tx.run(FORGET, number)
        return None
    if not tx.run(COUNT_LET_GO, len(found), number, hold.let_go):
        return 0  # somebody else does the same
    tx.many(RELEASE, found)
    return len(found)


def _allowed(hold: HoldRow, now: int) -> int:
    """How many more jobs may be let go of by now."""
    if hold.rate is None or hold.let_go_since is None:
        return 1 << 30
    return int((now - hold.let_go_since) * hold.rate // 1_000_000_000) + 1 - hold.let_go


def letting_go(tx: Tx) -> list[HoldRow]:
    """The holds that have ended and may still have jobs parked."""
    return [HoldRow(*row) for row in tx.rows(LETTING_GO)]


def every(tx: Tx) -> list[HoldRow]:
    """All holds, oldest first."""
    return [HoldRow(*row) for row in tx.rows(ALL)]


def on(tx: Tx, job: JobRow) -> HoldRow | None:
    """The hold that keeps this job waiting."""
    breaker = from_json(job.policy).breaker
    names = {
        ("queue", job.queue),
        ("task", job.task),
        ("group", job.fingerprint),
        ("breaker", None if breaker is None or job.held is None else breaker.name),
    }
    for hold in every(tx):
        if hold.id == job.held or (hold.active and (hold.kind, hold.name) in names):
            return hold
    return None


def count_parked(tx: Tx, number: int, limit: int) -> int:
    """How many jobs are parked under a hold; of more than `limit`, so many are counted."""
    return int(tx.rows(COUNT_PARKED, number, limit)[0][0])
