"""What is called lost where a queue tells only its length: bounded both ways. C6, D1."""

from __future__ import annotations

from failbetter.engine import Ticket
from failbetter.engines.lost import FULL, GRACE, Lost
from failbetter.worker import dispatch

EVERY = 5.0
"""Seconds between two looks, as the dispatcher has it."""


class Broker:
    """Queues that are lists, and the ledger's waiting jobs. Time is what `look` says."""

    def __init__(self) -> None:
        self.queues: dict[str, list[int]] = {}
        self.waiting: dict[int, Ticket] = {}
        self.lost = Lost()
        self.now = 0.0
        self._ids = 0
        self.resent = 0

    def enqueue(self, count: int, queue: str = "default", priority: int = 0) -> list[int]:
        made = []
        for _ in range(count):
            self._ids += 1
            self._send(Ticket(self._ids, 0, "task", queue, priority, None))
            made.append(self._ids)
        return made

    def _send(self, ticket: Ticket) -> None:
        sent = Ticket(
            ticket.id, 0, "task", ticket.queue, ticket.priority, None, self._tick()
        )  # fmt: skip
        self.waiting[ticket.id] = sent
        self.queues.setdefault(ticket.queue, []).append(ticket.id)

    def _tick(self) -> int:
        self.now += 1e-6
        return round(self.now * 1e6)

    def work(self, count: int, queue: str = "default") -> None:
        for _ in range(count):
            self.waiting.pop(self.queues[queue].pop(0), None)

    def look(self) -> list[int]:
        """A whole round; what it says is lost is sent again."""
        self.now += EVERY
        found = []
        tickets = [self.waiting[number] for number in sorted(self.waiting)]
        for first in range(0, len(tickets), FULL):
            batch = tickets[first : first + FULL]
            lost = self.lost.look(batch, lambda queue: len(self.queues.get(queue, [])), self.now)
            for ticket in lost:
                self._send(ticket)
            found += [ticket.id for ticket in lost]
        self.resent += len(found)
        return found


def rounds(seconds: float) -> range:
    return range(round(seconds / EVERY) + 2)


def test_a_long_queue_that_nobody_works_on_is_left_alone() -> None:
    """A legitimate backlog is not sent again, however long it waits."""
    broker = Broker()
    broker.enqueue(5_000)
    for _ in rounds(600):
        assert broker.look() == []


def test_a_queue_that_is_worked_through_is_left_alone() -> None:
    broker = Broker()
    broker.enqueue(3_000)
    for _ in range(29):
        broker.work(100)
        broker.enqueue(10)
        assert broker.look() == []


def test_an_emptied_broker_is_filled_again_once() -> None:
    """All that waits is sent again, in bounded time, and then left alone."""
    broker = Broker()
    jobs = broker.enqueue(2_000)
    broker.look()
    broker.queues.clear()
    found: list[int] = []
    for _ in rounds(GRACE):
        found += broker.look()
    assert sorted(found) == jobs
    for _ in rounds(300):
        assert broker.look() == []


def test_what_is_only_just_missing_is_not_called_lost() -> None:
    """It may lie in a worker that has fetched it ahead."""
    broker = Broker()
    broker.enqueue(10)
    broker.queues.clear()
    assert broker.look() == []


def test_some_lost_of_many_are_found_by_the_queue_s_length() -> None:
    """The oldest are missing, as when a worker dies that had fetched them."""
    broker = Broker()
    jobs = broker.enqueue(1_000)
    broker.look()
    del broker.queues["default"][:20]
    found: list[int] = []
    for _ in rounds(GRACE + EVERY):
        found += broker.look()
    assert sorted(found) == jobs[:20]


def test_one_lost_among_the_messages_of_others_is_found_by_what_has_passed_it() -> None:
    """The queue never gets short, because others use it too."""
    broker = Broker()
    broker.queues["default"] = [-1] * 1_000
    (job,) = broker.enqueue(1)
    broker.queues["default"].remove(job)
    found: list[int] = []
    for _ in rounds(200):
        broker.work(50)
        broker.queues["default"] += [-1] * 49
        broker.enqueue(1)
        found += broker.look()
    assert job in found
    assert broker.resent <= 2


def test_what_a_busy_worker_holds_is_sent_again_only_once_while_it_waits_in_the_queue() -> None:
    broker = Broker()
    broker.enqueue(4)
    held = broker.queues["default"]
    broker.queues["default"] = []
    for _ in rounds(600):
        broker.look()
    assert broker.resent == len(held)


def test_queues_are_judged_apart() -> None:
    broker = Broker()
    broker.enqueue(50, "long")
    jobs = broker.enqueue(5, "short")
    broker.look()
    broker.queues["short"].clear()
    found: list[int] = []
    for _ in rounds(GRACE):
        found += broker.look()
    assert sorted(found) == jobs


def test_a_lower_priority_that_is_overtaken_is_not_lost() -> None:
    broker = Broker()
    low = broker.enqueue(5, priority=-1)
    for _ in rounds(200):
        for job in broker.enqueue(20):
            broker.queues["default"].remove(job)
            del broker.waiting[job]
        assert broker.look() == []
    assert set(low) <= set(broker.waiting)


def test_what_has_ended_is_forgotten() -> None:
    """Also where at each look only newer jobs wait than at the last."""
    broker = Broker()
    for _ in range(50):
        broker.enqueue(20)
        assert broker.look() == []
        broker.work(20)
    assert len(broker.lost) <= 40


def test_rounds_are_those_of_the_dispatcher() -> None:
    assert dispatch.BATCH == FULL
