"""The one door into running: the claim; and the way back for what was claimed and not begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import literal_column, null, select, true, tuple_, update

from failbetter.faultpoints import passing
from failbetter.ledger import holds, limits, supersession
from failbetter.ledger.acts import cancel_as_asked
from failbetter.ledger.mirrors import follow
from failbetter.ledger.prepared import ONE, ZERO, Prepared, b
from failbetter.ledger.schema import jobs, workers
from failbetter.ledger.supersession import About
from failbetter.lifecycle.decide import Facts
from failbetter.lifecycle.policy import Policy, from_json
from failbetter.lifecycle.states import State
from failbetter.limits import DRILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Update

    from failbetter.ledger.kinds import Kind, Tx


class Claimed(msgspec.Struct, gc=False):
    """A claimed job: all that its worker decides with. `fence` and `worker` are this attempt's.

    `worker` None: it is not claimed, but looked at by a sweeper.
    """

    id: int
    fence: int
    worker: int | None
    task: str
    queue: str
    priority: int
    run_at: int
    created_at: int
    expires_at: int | None
    starts: int
    attempts: int
    crashes: int
    losses: int
    hand_backs: int
    suspect: int
    released_since: int | None
    exclusive_key: str | None
    payload: str
    policy_text: str
    mirror_key: str | None
    fingerprint: str | None
    """Of the last failure, if it has failed before."""
    subject: str | None
    version: int | None
    permit: int | None = None
    """Of a rate limit's: until when (µs since the epoch) its body may begin. Not of its row."""

    @property
    def about(self) -> About | None:
        """What it is about, if that has versions."""
        if self.subject is None or self.version is None:
            return None
        return About(self.task, self.subject, self.version)

    def must_last(self, *, outlived: bool) -> bool:
        """Whether the claim must be on disk before the body begins.

        Else a power cut may undo it, and the body runs a second time, or its permit is forgotten;
        or a server's crash, which the worker outlives, and then it may run beside another one of
        its exclusive key.
        """
        if self.policy.on_lost == "fail" or self.permit is not None:
            return True
        return outlived and self.exclusive_key is not None

    @property
    def policy(self) -> Policy:
        """The policy of the job's task at the time it was enqueued."""
        return from_json(self.policy_text)

    def facts(self) -> Facts:
        """What a decision about this job needs to know."""
        return Facts(
            self.policy,
            self.attempts,
            self.crashes,
            self.losses,
            self.hand_backs,
            bool(self.suspect),
            self.released_since,
            self.expires_at,
            self.starts,
        )


class Lane(msgspec.Struct, frozen=True):
    """Waiting jobs that differ only in age. `run_at`: of the first of them.

    `line`: they wait for the limit `limit` in the line of this id; `run_at` is when one may begin.
    """

    rank: int
    queue: str
    careful: int
    run_at: int
    line: int | None = None
    limit: str = ""


def is_attempt() -> tuple[ColumnElement[bool], ...]:
    """Whether the row is still this attempt's; parameters: fence, worker.

    The fence alone does not tell two workers apart if a claim was lost in a server's crash. By a
    comparison that is of no use to an index: that of a worker's jobs may seem as good as their ids.
    """
    return jobs.c.fence == b("fence"), jobs.c.worker.is_not_distinct_from(b("worker"))


_lane = (jobs.c.rank, jobs.c.queue, jobs.c.careful)
CLAIMED_COLUMNS = (
    jobs.c.id,
    jobs.c.fence,
    jobs.c.worker,
    jobs.c.task,
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.run_at,
    jobs.c.created_at,
    jobs.c.expires_at,
    jobs.c.starts,
    jobs.c.attempts,
    jobs.c.crashes,
    jobs.c.losses,
    jobs.c.hand_backs,
    jobs.c.suspect,
    jobs.c.released_since,
    jobs.c.exclusive_key,
    jobs.c.payload,
    jobs.c.policy,
    jobs.c.mirror_key,
    jobs.c.fingerprint,
    jobs.c.subject,
    jobs.c.version,
)
_in_lane = (
    jobs.c.rank == b("rank"),
    jobs.c.queue == b("queue"),
    jobs.c.careful == b("careful"),
    jobs.c.run_at <= b("now"),
)
_take = {
    "rank": null(),
    "worker": b("worker"),
    "claimed": ONE,
    "fence": jobs.c.fence + ONE,
}
_first_of_lane = select(*_lane, jobs.c.run_at).limit(ONE).offset(ZERO)
# The next lane in three looks, each one seek in the index: databases do not seek well by a
# comparison of whole rows.
NEXT_IN_QUEUE = Prepared(
    _first_of_lane.where(
        jobs.c.rank == b("rank"), jobs.c.queue == b("queue"), jobs.c.careful > b("careful")
    ).order_by(jobs.c.careful, jobs.c.run_at),
    "rank queue careful",
)
NEXT_QUEUE = Prepared(
    _first_of_lane.where(jobs.c.rank == b("rank"), jobs.c.queue > b("queue")).order_by(
        jobs.c.queue, jobs.c.careful, jobs.c.run_at
    ),
    "rank queue",
)
NEXT_RANK = Prepared(
    _first_of_lane.where(jobs.c.rank > b("rank")).order_by(*_lane, jobs.c.run_at),
    "rank",
)
_walk = _first_of_lane.where(jobs.c.rank.is_not(None)).order_by(*_lane, jobs.c.run_at)
_walked = select(_walk.subquery("first")).cte("lane", recursive=True)
_next = (
    _walk.where(tuple_(*_lane) > tuple_(_walked.c.rank, _walked.c.queue, _walked.c.careful))
    .correlate(_walked)
    .lateral("next")
)
_lanes_walked = _walked.union_all(select(*_next.c).select_from(_walked.join(_next, true())))
# The same walk from lane to lane, in one round trip, on servers whose planner seeks by row values.
ALL_LANES = Prepared(select(_lanes_walked))
# Only a registered worker may claim. The lock keeps a sweeper from declaring it lost before this
# claim of its is to be seen.
_registered = (
    select(workers.c.id)
    .where(workers.c.id == b("worker"))
    .with_for_update(read=True, key_share=True)
    .scalar_subquery()
    .is_not(None)
)


def _claim_of(kind: Kind, *also: ColumnElement[bool]) -> Update:
    oldest_of_lane = (
        select(jobs.c.id)
        .where(*_in_lane, *also)
        .order_by(jobs.c.run_at)
        .limit(b("limit"))
        .offset(ZERO)
        .with_for_update(skip_locked=True)
    )
    return (
        update(jobs)
        .values(_take)
        .where(_registered, kind.among(jobs.c.id, oldest_of_lane))
        .returning(*CLAIMED_COLUMNS)
    )


_CLAIM_ORDER = "worker worker rank queue careful now limit"
CLAIM = Prepared(lambda kind: _claim_of(kind, *kind.left_alone), _CLAIM_ORDER)
# Also what was not left alone: somebody's claim of it may have been undone.
CLAIM_ANY = Prepared(_claim_of, _CLAIM_ORDER)
_holder = jobs.alias("holder")
_key_is_free = ~(
    select(ONE)
    .where(_holder.c.exclusive_key == jobs.c.exclusive_key, _holder.c.claimed == ONE)
    .exists()
)
CLAIM_IN_LINE = Prepared(
    lambda kind: (
        update(jobs)
        .values(held=null(), **_take)
        .where(
            _registered,
            kind.among(
                jobs.c.id,
                select(jobs.c.id)
                .where(jobs.c.held == b("line"))
                .order_by(jobs.c.id)
                .limit(b("limit"))
                .offset(ZERO)
                .with_for_update(skip_locked=True),
            ),
        )
        .returning(*CLAIMED_COLUMNS)
    ),
    "worker worker line limit",
)
FREE_IN_LINE = Prepared(
    select(jobs.c.id, jobs.c.exclusive_key)
    .where(jobs.c.held == b("line"), _key_is_free)
    .order_by(jobs.c.id)
    .limit(b("limit"))
    .offset(ZERO),
    "line limit",
)
FREE_TO_RUN = Prepared(
    select(jobs.c.id, jobs.c.exclusive_key)
    .where(*_in_lane, _key_is_free)
    .order_by(jobs.c.run_at)
    .limit(b("limit"))
    .offset(ZERO),
    "rank queue careful now limit",
)
_take_one = (
    update(jobs)
    .where(jobs.c.id == b("id"), jobs.c.live == ONE, jobs.c.claimed.is_(None))
    .returning(*CLAIMED_COLUMNS)
)
CLAIM_ONE = Prepared(
    _take_one.values(_take).where(jobs.c.held.is_(None), _key_is_free, _registered),
    "worker id worker",
)
CLAIM_ONE_IN_LINE = Prepared(
    _take_one.values(held=null(), **_take).where(
        jobs.c.held == b("line"), _key_is_free, _registered
    ),
    "worker id line worker",
)
PLACE = Prepared(
    select(
        jobs.c.rank,
        jobs.c.queue,
        jobs.c.careful,
        jobs.c.run_at,
        jobs.c.held,
        jobs.c.priority,
        jobs.c.exclusive_key,
    ).where(
        jobs.c.id == b("id"), jobs.c.live == ONE, jobs.c.claimed.is_(None), jobs.c.origin.is_(None)
    ),
    "id",
)
REGISTERED = Prepared(
    select(workers.c.id).where(workers.c.id == b("id")).with_for_update(read=True, key_share=True),
    "id",
)
CLAIM_AGAIN = Prepared(
    update(jobs)
    .values(_take)
    .where(
        jobs.c.id == b("id"),
        jobs.c.fence == b("before"),
        jobs.c.live == ONE,
        jobs.c.claimed.is_(None),
    ),
    "worker id before",
)
CLAIMED_QUEUES = Prepared(select(jobs.c.queue).distinct().where(jobs.c.worker.is_not(None)))
MARK_BEGUN = Prepared(
    update(jobs)
    .values(state=literal_column(f"'{State.RUNNING}'"), begun_at=b("begun_at"))
    .where(jobs.c.id == b("id"), *is_attempt()),
    "begun_at id fence worker",
)
GIVE_BACK = Prepared(
    update(jobs)
    .values(
        rank=-jobs.c.priority,
        worker=null(),
        claimed=null(),
        fence=jobs.c.fence + ONE,
    )
    .where(jobs.c.id == b("id"), *is_attempt()),
    "id fence worker",
)

_BELOW_ALL = -(1 << 31)
# Batches of a lane that are looked through in one transaction for what is not held.
_TURNS_IN_LANE = 4
# Who is passed over for so long (µs) at the head of a lane is looked at again.
_PASSED_OVER = 100_000


def lanes(tx: Tx, queues: Sequence[str]) -> list[Lane]:
    """The lanes in which jobs wait, best first. `queues` empty: all but those of drills.

    With queues given, they go before one another in that order; within, by priority; what waited
    for a limit first; then by the age of the lane's first job. A few index looks for each lane,
    however many jobs there are.
    """
    all_lanes = _lanes_at_once(tx) if tx.kind.walks_indexes else _lanes_one_by_one(tx)
    all_lanes += [
        Lane(line.rank, line.queue, line.careful, line.next_at, line.id, line.name)
        for line in limits.every_line(tx)
    ]
    found = [lane for lane in all_lanes if _meant(lane.queue, queues)]
    order = {queue: place for place, queue in enumerate(queues)}
    found.sort(
        key=lambda lane: (order.get(lane.queue, 0), lane.rank, lane.line is None, lane.run_at)
    )
    return found


def _meant(queue: str, queues: Sequence[str]) -> bool:
    return queue in queues if queues else not queue.startswith(DRILL)


def _lanes_one_by_one(tx: Tx) -> list[Lane]:
    found = []
    row = tx.row(NEXT_RANK, _BELOW_ALL)
    while row is not None:
        lane = Lane(*row)
        found.append(lane)
        row = (
            tx.row(NEXT_IN_QUEUE, lane.rank, lane.queue, lane.careful)
            or tx.row(NEXT_QUEUE, lane.rank, lane.queue)
            or tx.row(NEXT_RANK, lane.rank)
        )
    return found


def _lanes_at_once(tx: Tx) -> list[Lane]:
    return [Lane(*row) for row in tx.rows(ALL_LANES)]


def any_live(tx: Tx, queues: Sequence[str]) -> bool:
    """Whether any job of these queues (none given: of all but drills') waits or is claimed.

    What is held on purpose is not waited for; what waits for a rate limit is.
    """
    held = holds.standing(tx).queues
    if any(lane.queue not in held for lane in lanes(tx, queues)):
        return True
    return any(_meant(row[0], queues) for row in tx.rows(CLAIMED_QUEUES))


def look(
    tx: Tx, queues: Sequence[str], now: int, held: holds.Standing | None = None
) -> tuple[list[Lane], int | None]:
    """The lanes in which jobs are due, best first; and when the next falls due of those not yet.

    `held`: what is held, if that is known already.
    """
    passed_over = (holds.standing(tx) if held is None else held).queues
    found = [lane for lane in lanes(tx, queues) if lane.queue not in passed_over]
    later = [lane.run_at for lane in found if lane.run_at > now]
    return [lane for lane in found if lane.run_at <= now], min(later, default=None)


def claim(
    tx: Tx, worker: int, queues: Sequence[str], limit: int, now: int
) -> tuple[list[Claimed], int | None]:
    """Claim up to `limit` jobs; with the time at which the next job falls due (None: none waits).

    Only a registered worker may claim: one that was declared lost meanwhile gets nothing.
    """
    held = holds.standing(tx, to_claim=True)
    found, due = look(tx, queues, now, held)
    claimed, _, next_at = claim_in(tx, worker, found, limit, now, held)
    return claimed, min((at for at in (due, next_at) if at is not None), default=None)


def claim_in(
    tx: Tx, worker: int, found: Sequence[Lane], limit: int, now: int, held: holds.Standing
) -> tuple[list[Claimed], bool, int | None]:
    """Claim up to `limit` jobs of the lanes that `look` has found, and park what is held of them.

    Also whether there may be more: so there may when as many as asked for were claimed, or when
    a lane was left because so much of it was held. And when the next of those may begin that were
    found to have to wait for a limit. `held`: as it stays until the transaction's end.
    """
    claimed: list[Claimed] = []
    left_off = False
    permits = limits.Permits(tx)
    turn = _Turn(tx, worker, now, held, permits)
    for lane in found:
        if len(claimed) >= limit:
            break
        if lane.queue not in held.queues:
            claim = _claim_in_line if lane.line is not None else _claim_free
            more, is_through = claim(turn, lane, limit - len(claimed))
            claimed += more
            left_off = left_off or not is_through
    permits.write()
    may_be_more = left_off or permits.more or len(claimed) >= limit
    if claimed:
        passing("after_claim")
    return claimed, may_be_more, permits.next_at()


def claim_one(tx: Tx, worker: int, number: int, now: int) -> Claimed | None:
    """Claim the job of that id, if it may begin now; None: it may not, or has no claim to wait for.

    By the rules of every claim: what is held is parked, and what is out of date ends.
    """
    held = holds.standing(tx, to_claim=True)
    found = tx.row(PLACE, number)
    if found is None:
        return None
    rank, queue, careful, run_at, parked, priority, key = found
    if queue in held.queues or run_at > now:
        return None
    permits = limits.Permits(tx)
    values: tuple[int, ...]
    if parked is None:
        lane = Lane(rank, queue, careful, run_at)
        statement, values = CLAIM_ONE, (worker, number, worker)
    else:
        line = limits.line_with(tx, parked)
        if line is None or permits.room(line.name) <= 0:
            return None
        lane = Lane(-priority, queue, careful, run_at, line.id, line.name)
        statement, values = CLAIM_ONE_IN_LINE, (worker, number, line.id, worker)
    if careful and not tx.try_lock(f"exclusive {key}"):
        return None
    claimed = [Claimed(*row) for row in tx.rows(statement, *values)]
    if lane.line is not None:
        permits.end_if_empty(lane.line, lane.limit)
    turn = _Turn(tx, worker, now, held, permits)
    may_begin = _those_that_may_begin(turn, lane, claimed)
    permits.write()
    if may_begin:
        passing("after_claim")
    return may_begin[0] if may_begin else None


class _Turn(NamedTuple):
    """A worker's turn to claim: one transaction."""

    tx: Tx
    worker: int
    now: int
    held: holds.Standing
    permits: limits.Permits


def _claim_free(turn: _Turn, lane: Lane, limit: int) -> tuple[list[Claimed], bool]:
    """Of one lane, what is not held; and whether it was looked through."""
    claim = _claim_carefully if lane.careful else _claim_lane
    free: list[Claimed] = []
    for _ in range(_TURNS_IN_LANE):
        asked = limit - len(free)
        claimed = claim(turn.tx, turn.worker, lane, asked, turn.now)
        may_begin = _those_that_may_begin(turn, lane, claimed)
        free += may_begin
        # What was parked has made room for others.
        if len(may_begin) == len(claimed) or len(claimed) < asked:
            return free, True
    return free, False


def _claim_in_line(turn: _Turn, lane: Lane, limit: int) -> tuple[list[Claimed], bool]:
    """Of one line, what may begin now; and whether no more may."""
    assert lane.line is not None
    tx, worker = turn.tx, turn.worker
    asked = min(limit, turn.permits.room(lane.limit))
    if asked <= 0:
        return [], True
    if lane.careful:
        free = tx.rows(FREE_IN_LINE, lane.line, asked)
        claimed = _claim_keys(tx, free, CLAIM_ONE_IN_LINE, worker, lane.line, worker)
    else:
        rows = tx.rows(CLAIM_IN_LINE, worker, worker, lane.line, asked)
        claimed = sorted((Claimed(*row) for row in rows), key=lambda job: job.id)
    turn.permits.end_if_empty(lane.line, lane.limit)
    may_begin = _those_that_may_begin(turn, lane, claimed)
    return may_begin, len(may_begin) == len(claimed)


def _those_that_may_begin(turn: _Turn, lane: Lane, claimed: list[Claimed]) -> list[Claimed]:
    """Of what was just claimed, what nothing keeps; the rest is parked, or has come to its end."""
    not_held = holds.park(turn.tx, claimed, turn.held)
    in_date = supersession.let_through(turn.tx, turn.worker, not_held, turn.now)
    return turn.permits.let_through(in_date, lane, turn.now)


def _claim_lane(tx: Tx, worker: int, lane: Lane, limit: int, now: int) -> list[Claimed]:
    def run(statement: Prepared, limit: int) -> list[Claimed]:
        values = (worker, worker, lane.rank, lane.queue, lane.careful, now, limit)
        return [Claimed(*row) for row in tx.rows(statement, *values)]

    claimed = run(CLAIM, limit)
    if tx.kind.left_alone and len(claimed) < limit and lane.run_at < now - _PASSED_OVER:
        claimed += run(CLAIM_ANY, limit - len(claimed))
    # The order of RETURNING is not defined.
    claimed.sort(key=lambda job: (job.run_at, job.id))
    return claimed


def _claim_carefully(tx: Tx, worker: int, lane: Lane, limit: int, now: int) -> list[Claimed]:
    free = tx.rows(FREE_TO_RUN, lane.rank, lane.queue, lane.careful, now, limit)
    return _claim_keys(tx, free, CLAIM_ONE, worker, worker)


def _claim_keys(
    tx: Tx, free: Sequence[tuple[int, str]], statement: Prepared, worker: int, *others: int
) -> list[Claimed]:
    """Claim the first job of each exclusive key. `free`: (id, key) each."""
    first_of_key = {key: number for number, key in reversed(free)}
    claimed = []
    for key, number in first_of_key.items():
        if not tx.try_lock(f"exclusive {key}"):
            continue  # another worker is about to claim one of this key
        rows = tx.rows(statement, worker, number, *others)
        claimed += [Claimed(*row) for row in rows]
    claimed.sort(key=lambda job: (job.run_at, job.id))
    return claimed


def claim_again(tx: Tx, worker: int, held: Sequence[tuple[int, int]]) -> int:
    """Claim again what a worker holds, (id, fence) each, and the ledger may not know of any more.

    What was claimed and not yet on disk when a server crashed waits there as before: unless another
    worker was quicker, the attempt goes on. How many it were.
    """
    if not held or tx.row(REGISTERED, worker) is None:
        return 0
    return tx.many(CLAIM_AGAIN, [(worker, number, fence - 1) for number, fence in held])


def mark_begun(
    tx: Tx, begun: Sequence[tuple[int, int, int, int]], mirrored: Sequence[tuple[int, str]] = ()
) -> None:
    """Write that bodies have begun: (begun_at, id, fence, worker) each. A lost attempt changes
    nothing.

    `mirrored`: of those with a mirror, (id, mirror key).
    """
    tx.many(MARK_BEGUN, begun)
    if mirrored:
        follow(tx, mirrored)


def give_back(tx: Tx, claimed: Sequence[tuple[int, int, int]], now: int) -> int:
    """Make claimed jobs whose body has not begun claimable again, at their old place.

    `claimed`: (id, fence, worker) each.
    """
    passing("in_hand_back")
    given_back = tx.many(GIVE_BACK, claimed)
    cancel_as_asked(tx, [number for number, _, _ in claimed], now)
    return given_back
