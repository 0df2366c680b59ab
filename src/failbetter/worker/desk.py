"""The supervisor's desk: everything that its worker writes to the ledger, grouped into commits.

Endings, begun bodies, hand-backs, effects and the next claim go into one transaction; what came
in while it ran goes into the next. A ledger out of reach costs nothing but time: all stays on
the desk until it can be written.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import msgspec

from failbetter import ids
from failbetter.errors import LedgerError
from failbetter.faultpoints import passing
from failbetter.ledger import claims, holds, hooks, limits, registry, sending
from failbetter.ledger.endings import Error, Settlement, is_recorded, settle
from failbetter.lifecycle.decide import Items, Outcome, decide
from failbetter.lifecycle.states import Cause, State
from failbetter.worker.judgement import Undecided, judge
from failbetter.worker.outages import Outages, tell_opened
from failbetter.worker.requests import answer
from failbetter.worker.wire import Partial, Reply, Request, Returned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from failbetter.ledger.claims import Claimed
    from failbetter.ledger.database import Database
    from failbetter.ledger.kinds import Tx
    from failbetter.lifecycle.events import Hook

_logger = logging.getLogger("failbetter.worker")

# A supervisor must keep watch over its children, so it never waits long for its turn to write.
_TURN = 0.5
_LONGEST_PAUSE = 2.0


class Desk:
    """What waits to be written, and the writing."""

    def __init__(
        self,
        database: Database,
        worker: registry.Worker,
        held: Callable[[], set[tuple[int, int]]] = set,
        *,
        for_one: bool = False,
    ) -> None:
        """`held`: gives (id, fence) of all that is claimed and not put on the desk yet. `for_one`:
        the worker is registered with its first claim, and leaves with what it writes then."""
        self._database = database
        self.worker = worker
        self._held = held
        self._for_one = for_one
        self._leaving = False
        self._connection = self._connected()
        self._endings: list[Settlement] = []
        self._undecided: list[Undecided] = []
        self._begun: list[tuple[int, int, int, int]] = []
        self._begun_mirrored: list[tuple[int, str]] = []
        self._give_back: list[tuple[int, int, int]] = []
        self._requests: list[tuple[Request, Callable[[Reply], None]]] = []
        self._permits: list[tuple[str, int]] = []
        self._asked: list[tuple[Claimed, Request, Callable[[Reply], None]]] = []
        self._queues = msgspec.json.decode(worker.queues, type=list[str])
        self._failures = 0
        self._not_before = 0.0
        self.due: int | None = None
        """When the next waiting job falls due (µs since the epoch), as of the last claim."""
        self.more = False
        """Whether there may be more to claim than the last claim took."""
        self.idle = False
        """Whether the ledger says that this worker waits for work."""
        self.lost = False
        """Whether the ledger has declared this worker lost."""

    # -- put on the desk

    def returned(self, job: Claimed, message: Returned, code: str | None) -> None:
        """A body returned."""
        result = bytes(message.result).decode()
        self._endings.append(
            Settlement(
                job.id,
                job.fence,
                job.worker,
                job.starts + 1,
                job.priority,
                decide(job.facts(), _RETURNED, message.ended_at, random),
                Cause.RETURNED,
                message.begun_at,
                message.ended_at,
                self.worker.name,
                code,
                None if result == "null" else result,
                message.note,
                mirror_key=job.mirror_key,
                about=job.about,
            )
        )

    def partial(self, job: Claimed, message: Partial, code: str | None) -> None:
        """A body returned after some of its items had failed."""
        told = message.returned
        items: Items = message.items  # type: ignore[assignment]  # the child's own
        self._undecided.append(
            Undecided(
                job,
                Outcome(Cause.RETURNED, items=items),
                told.begun_at,
                told.ended_at,
                code,
                Error(
                    message.error_type,
                    message.error_message,
                    message.traceback,
                    message.fingerprint,
                ),
                result=bytes(told.result).decode(),
                note=told.note,
            )
        )

    def ended(self, one: Undecided) -> None:
        """Any other end: told by a child, or seen in its death."""
        self._undecided.append(one)

    def begun(self, job: Claimed, at: int) -> None:
        """A body has begun, and goes on."""
        self._begun.append((at, job.id, job.fence, self.worker.id))
        if job.mirror_key is not None:
            self._begun_mirrored.append((job.id, job.mirror_key))

    def give_back(self, job: Claimed) -> None:
        """A claimed job whose body will not begin here."""
        self.give_back_fence(job.id, job.fence)
        limiting = job.policy.rate_limit
        if limiting is not None and job.permit is not None:
            self._permits.append((limiting.name, job.permit))

    def give_back_fence(self, number: int, fence: int) -> None:
        """As `give_back`, for a job that is known by its id only."""
        self._give_back.append((number, fence, self.worker.id))

    def request(self, message: Request, reply: Callable[[Reply], None]) -> None:
        """A body asks for an effect to be written."""
        self._requests.append((message, reply))

    def ask_permit(self, job: Claimed, message: Request, reply: Callable[[Reply], None]) -> None:
        """A body was about to begin when its permit's term was over: it asks for another."""
        self._asked.append((job, message, reply))

    @property
    def must_write(self) -> bool:
        """Whether something waits to be written."""
        return bool(
            self._endings
            or self._undecided
            or self._requests
            or self._asked
            or self._begun
            or self._give_back
            or self._leaving
            or self._connected() not in (None, self._connection)
        )

    @property
    def waiting(self) -> int:
        """How many endings wait to be written."""
        return len(self._endings) + len(self._undecided)

    def may_write(self, now: float) -> bool:
        """Whether the ledger should be tried again by now (monotonic s)."""
        return now >= self._not_before

    def settling(self) -> set[tuple[int, int]]:
        """(id, fence) of all that waits here and the ledger still counts as held."""
        held = {(ending.id, ending.fence) for ending in self._endings}
        held |= {(one.job.id, one.job.fence) for one in self._undecided}
        return held | {(number, fence) for number, fence, _ in self._give_back}

    # -- write

    def write(self, room: int, now: float) -> list[Claimed]:
        """Write all there is and claim up to `room` jobs, in one transaction.

        On a ledger out of reach nothing is claimed, everything stays, and `may_write` is false
        for a while.
        """
        durable = bool(self.waiting or self._requests)
        self.more = False
        try:
            self._give_permits()
            found = None if self.must_write or self._failures else self._look()
            if found == []:
                return []
            with self._database.write(durable=durable, timeout=_TURN) as tx:
                connection = self._claim_again(tx)
                # Before all endings, because what an ended attempt told of its effects counts.
                replies = [(self._answer(tx, asked), reply) for asked, reply in self._requests]
                outages = Outages(tx)
                judged = [judge(tx, one, self.worker.name, outages) for one in self._undecided]
                refused = settle(tx, [*self._endings, *judged])
                if self._failures:
                    refused = [one for one in refused if not self._is_written(tx, one)]
                opened = outages.count()
                if self._begun:
                    claims.mark_begun(tx, self._begun, self._begun_mirrored)
                if self._give_back:
                    claims.give_back(tx, self._give_back, tx.now())
                claimed = self._claim(tx, room, found)
                self._give_back_permits(tx)
                if self._leaving:
                    registry.remove(tx, self.worker.id)
        except LedgerError as error:
            self.put_off(error, now)
            return []
        self._connection = connection
        passing("after_commit")
        for reply, send in replies:
            send(reply)
        self._after(judged, refused)
        tell_opened(opened)
        return claimed if durable or self._is_safe(claimed, now) else []

    def claim_one(self, number: int) -> Claimed | None:
        """Claim the job of that id; None: it may not begin now, and is sent again when it may.

        Raises LedgerError.
        """
        with self._database.write(durable=False) as tx:
            if self._for_one:
                registry.register(tx, self.worker)
            claimed = claims.claim_one(tx, self.worker.id, number, tx.now())
            if claimed is None:
                sending.mark_unsent(tx, [number])
                if self._for_one:
                    registry.remove(tx, self.worker.id)
        if claimed is None or self._is_safe([claimed], 0.0):
            return claimed
        self.give_back(claimed)
        self._leaving = self._for_one
        return None

    def leave(self) -> None:
        """Sign off with the next write."""
        self._leaving = True

    def _give_permits(self) -> None:
        """Answer those that ask for another permit: at once, in a transaction of its own.

        Because limits are locked last (see ledger.limits), and bodies wait to begin.
        """
        if not self._asked:
            return
        with self._database.write(timeout=_TURN) as tx:
            permits = limits.Permits(tx)
            given = []
            for job, message, _ in self._asked:
                limiting = job.policy.rate_limit
                assert limiting is not None
                stale = None if self._failures else job.permit
                given.append(permits.again(limiting, stale, int(message.value or 0)))
            permits.write()
        for (job, message, send), term in zip(self._asked, given, strict=True):
            job.permit = term
            send(Reply(message.request, "done", None if term is None else str(term)))
        self._asked.clear()

    def _give_back_permits(self, tx: Tx) -> None:
        # After a failure they may have been given back already, as another's would then be.
        if self._permits and not self._failures:
            permits = limits.Permits(tx)
            for name, term in self._permits:
                permits.give_back(name, term)
            permits.write()
            self.more = True

    def _connected(self) -> int | None:
        """Which connection in a row it is; None where there is but one, or none just now."""
        listens = self._database.listens
        return None if listens is None else listens[1]

    def _claim_again(self, tx: Tx) -> int | None:
        """On a new connection: the server that broke the old one may have forgotten claims."""
        connection = self._connected()
        if connection != self._connection:
            held = sorted(self._held() | self.settling())
            again = claims.claim_again(tx, self.worker.id, held)
            if again:
                _logger.warning("the server had lost %d of our claims; claimed them again", again)
        return connection

    def _is_safe(self, claimed: list[Claimed], now: float) -> bool:
        """See to it that claims which must last are on disk, with all that was written before.

        False: that could not be done. Then they go back with what else was never heard of.
        """
        outlived = self._database.kind.outlived
        if not any(job.must_last(outlived=outlived) for job in claimed):
            return True
        try:
            with self._database.write(timeout=_TURN) as tx:
                registry.set_idle(tx, self.worker.id, self.idle)
        except LedgerError as error:
            self.put_off(error, now)
            return False
        return True

    def _is_written(self, tx: Tx, ending: Settlement) -> bool:
        """Whether an earlier try wrote it after all, whose commit was not heard of."""
        return is_recorded(tx, ending.id, ending.fence, self.worker.name)

    def _look(self) -> list[claims.Lane]:
        """Where jobs are due: so many woken workers find none that this is done without locks."""
        with self._database.look() as tx:
            found, self.due = claims.look(tx, self._queues, tx.now())
        return found

    def _claim(self, tx: Tx, room: int, found: list[claims.Lane] | None) -> list[Claimed]:
        if room <= 0:
            return []
        now = tx.now()
        held = holds.standing(tx, to_claim=True)
        if found is None:
            found, self.due = claims.look(tx, self._queues, now, held)
        claimed, self.more, next_at = claims.claim_in(tx, self.worker.id, found, room, now, held)
        if next_at is not None and (self.due is None or next_at < self.due):
            self.due = next_at
        return claimed

    def _after(self, judged: list[Settlement], refused: list[Settlement]) -> None:
        if self._failures:
            _logger.warning("the ledger is back; everything that waited is written")
        for one, ending in zip(self._undecided, judged, strict=True):
            if not any(ending is late for late in refused):
                self._log(one.job, ending)
        for ending in refused:
            _logger.warning(
                "the late result of attempt %d changed nothing: the job was handed on meanwhile",
                ending.number,
                extra={"job_id": ids.to_text(ending.id), "attempt": ending.number},
            )
        self._failures = 0
        self._endings.clear()
        self._undecided.clear()
        self._begun.clear()
        self._begun_mirrored.clear()
        self._give_back.clear()
        self._permits.clear()
        self._requests.clear()
        self._leaving = False

    def put_off(self, error: LedgerError, now: float) -> None:
        """Try the ledger again only after a pause, which grows."""
        self._failures += 1
        pause = min(0.05 * 2 ** min(self._failures, 10), _LONGEST_PAUSE)
        self._not_before = now + pause
        if self._failures in (3, 30) or self._failures % 300 == 0:
            _logger.error(
                "%s. %d endings wait to be written; trying again every %g s",
                error,
                self.waiting,
                _LONGEST_PAUSE,
            )

    def _answer(self, tx: Tx, asked: Request) -> Reply:
        if asked.kind == "intend" and any(asked.id == one.job.id for one in self._undecided):
            # It died while it asked, so it has not begun the effect.
            return Reply(asked.request, "lost", None)
        return answer(tx, asked, self.worker.id, again=self._failures > 0)

    def _log(self, job: Claimed, ending: Settlement) -> None:
        to = ending.transition
        error = ending.error
        what = ending.cause.value
        if error is not None:
            what = f"{error.type}: {error.message}" if error.message else error.type
        extra = {
            "job_id": ids.to_text(job.id),
            "task": job.task,
            "attempt": ending.number,
            "queue": job.queue,
            "fingerprint": error.fingerprint if error else None,
        }
        if to.state is State.FAILED:
            _logger.error("[%s] failed(%s): %s", job.task, to.reason, what, extra=extra)
        elif to.state is State.PENDING:
            wait = max((to.run_at or 0) - ending.ended_at, 0) / 1e6
            _logger.warning(
                "[%s] %s: %s; runs again in %.1f s",
                job.task,
                ending.cause,
                what,
                wait,
                extra=extra,
            )
        else:
            _logger.info("[%s] %s(%s): %s", job.task, to.state, to.reason, what, extra=extra)

    # -- the worker's own row

    def renew(self, stopping: bool, swept_at: int | None = None) -> None:
        """Renew the lease. Sets `lost` when the ledger knows this worker no more.

        `swept_at`: when it last swept and could.
        """
        with self._database.write(durable=False, timeout=_TURN) as tx:
            self.lost = not registry.renew(tx, self.worker.id, tx.now(), stopping, swept_at)

    def note_idle(self, idle: bool) -> None:
        """Have producers elsewhere tell of new work from now on, or no more."""
        with self._database.write(durable=False, timeout=_TURN) as tx:
            registry.set_idle(tx, self.worker.id, idle)
        self.idle = idle

    def describe(self, code: str, tasks: list[str], known: Sequence[Hook]) -> None:
        """Note in the worker's row what a new child has loaded."""
        with self._database.write(durable=False, timeout=_TURN) as tx:
            registry.describe(tx, self.worker.id, code, msgspec.json.encode(tasks).decode())
            hooks.register(tx, known, tasks)

    def cancelled(self) -> list[tuple[int, int]]:
        """(id, fence) of held jobs that a person has cancelled."""
        with self._database.look() as tx:
            return registry.cancelled(tx, self.worker.id)

    def kept_back(self, waiting: Iterable[Claimed]) -> set[int]:
        """The ids of those that a person has held since they were claimed."""
        with self._database.look() as tx:
            held = holds.standing(tx)
        return {job.id for job in waiting if held.keeps(job)} if held else set()

    def forgotten(self, known: set[tuple[int, int]]) -> list[tuple[int, int]]:
        """What the ledger believes this worker to hold and it does not: a lost reply to a claim."""
        with self._database.look() as tx:
            return sorted(registry.held_fences(tx, self.worker.id) - known - self.settling())


_RETURNED = Outcome(Cause.RETURNED)
