"""Lists in a body: what is asked and told, when, and what becomes of failures; no ledger needed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import failbetter
from failbetter import AttemptLost, RunningJob, resume
from failbetter.resume import item_key

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer(msgspec.Struct):
    status: str
    value: str | None = None


class Book:
    """What a supervisor keeps of lists, in memory; every request and its items are in `told`."""

    def __init__(self) -> None:
        self.done: dict[str, set[str]] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.told: list[tuple[str, Any]] = []
        self.posted: list[tuple[str, Any]] = []
        self.cursor: str | None = None
        self.lost = False

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Answer:
        given = None if value is None else msgspec.json.decode(value)
        self.told.append((kind, given))
        if self.lost:
            return Answer("lost")
        return Answer("done", self._do(kind, name, given, value))

    def post(self, kind: str, number: int, fence: int, name: str, value: str | None) -> None:
        given = None if value is None else msgspec.json.decode(value)
        self.posted.append((kind, given))
        self._do(kind, name, given, value)

    def _do(self, kind: str, name: str, given: Any, value: str | None) -> str | None:
        done, failed = self.done.setdefault(name, set()), self.failed.setdefault(name, {})
        if kind == "start":
            return f"[{len(done)},{len(failed)}]"
        if kind == "advance":
            done.update(given["finished"])
            failed.update({key: error for key, error, _ in given["failed"]})
            return msgspec.json.encode(sorted(done & set(given["ask"]))).decode()
        if kind == "close":
            return '{"count":0,"keys":[]}'
        if kind == "save_cursor":
            self.cursor = value
        return self.cursor if kind == "cursor" else None

    @property
    def asked(self) -> list[str]:
        """All keys that were asked about."""
        return [key for kind, given in self.told if kind == "advance" for key in given["ask"]]


@pytest.fixture
def book() -> Book:
    return Book()


def attempt(book: Book, number: int = 1) -> RunningJob:
    return RunningJob(7, number, "mirror", "default", number, book)


def test_each_item_is_told_before_the_next_begins(book: Book) -> None:
    seen = []
    for item in attempt(book).remaining(["a", "b", "c"]):
        seen.append((item, sorted(book.done["items"])))
    assert seen == [("a", []), ("b", ["a"]), ("c", ["a", "b"])]
    assert book.done["items"] == {"a", "b", "c"}


def test_an_exception_leaves_its_item_unfinished(book: Book) -> None:
    job = attempt(book)
    with pytest.raises(ValueError, match="no"):
        for item in job.remaining(["a", "b", "c"]):
            if item == "b":
                raise ValueError("no")
    job.leave()
    assert book.done["items"] == {"a"}
    assert list(attempt(book, 2).remaining(["a", "b", "c"])) == ["b", "c"]


def test_finished_items_are_passed_over_many_at_a_time(book: Book) -> None:
    keys = [str(n) for n in range(5_000)]
    book.done["items"] = set(keys[:4_900])
    assert list(attempt(book).remaining(keys)) == keys[4_900:]
    most = max(len(given["ask"]) for kind, given in book.told if kind == "advance")
    assert most == 1_000
    asked = sum(1 for kind, given in book.told if kind == "advance" and len(given["ask"]) > 1)
    assert asked < 20


def test_groups_are_told_together_and_no_fewer_at_the_end(book: Book) -> None:
    job = attempt(book)
    behind = []
    for item in job.remaining(range(25), every=10):
        behind.append(item - len(book.done["items"]))
    assert max(behind) == 9
    assert len(book.done["items"]) == 25
    assert len([kind for kind, _ in book.told if kind == "advance"]) <= 5


def test_a_group_that_is_not_full_is_told_with_the_end_of_the_body(book: Book) -> None:
    job = attempt(book)
    with pytest.raises(ValueError):
        for item in job.remaining(range(25), every=10):
            if item == 13:
                raise ValueError
    job.leave()
    assert book.done["items"] == {str(n) for n in range(13)}


def test_the_list_is_read_no_further_than_said(book: Book) -> None:
    read = 0

    def lazily() -> Iterator[int]:
        nonlocal read
        for n in range(100):
            read += 1
            yield n

    stream = attempt(book).remaining(lazily())
    next(stream)
    assert read == 1
    next(stream)
    assert read == 2


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_key_that_comes_twice_is_one_item(book: Book, concurrency: int) -> None:
    ran = []
    attempt(book).each(["a", "b", "a", "a", "b"], ran.append, concurrency=concurrency)
    assert sorted(ran) == ["a", "b"]


def test_keys_by_a_function(book: Book) -> None:
    items = [{"id": 1}, {"id": 2}]
    assert list(attempt(book).remaining(items, key=lambda item: item["id"])) == items
    assert book.done["items"] == {"1", "2"}


@pytest.mark.parametrize(
    ("value", "key"),
    [("a", "a"), (1, "1"), (None, "null"), ((1, "x"), '[1,"x"]'), ("\ud800\0", "?\ufffd")],
)
def test_keys_as_the_ledger_keeps_them(value: object, key: str) -> None:
    assert item_key(value) == key


def test_long_keys_stay_apart() -> None:
    one, other = item_key("x" * 500 + "1"), item_key("x" * 500 + "2")
    assert one != other
    assert len(one) <= 190


def test_what_is_no_key_says_what_to_do(book: Book) -> None:
    with pytest.raises(TypeError, match="give key="):
        list(attempt(book).remaining([object()]))


def test_two_lists_need_two_names(book: Book) -> None:
    job = attempt(book)
    assert list(job.remaining(["a"])) == ["a"]
    with pytest.raises(ValueError, match="name= of its own"):
        job.remaining(["a"])
    assert list(job.remaining(["a"], name="others")) == ["a"]


@pytest.mark.parametrize(
    "given",
    [{"every": 0}, {"every": 10_001}, {"name": ""}, {"name": "x" * 101}],
)
def test_what_cannot_be(book: Book, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        attempt(book).remaining(["a"], **given)
    assert book.told == []


@pytest.mark.parametrize("given", [{"concurrency": 0}, {"errors": "ignore"}])
def test_what_each_cannot_do(book: Book, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        attempt(book).each(["a"], print, **given)


def test_functions_that_would_never_run(book: Book) -> None:
    async def later(item: str) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="aeach"):
        attempt(book).each(["a"], later)
    with pytest.raises(TypeError, match="is a function"):
        attempt(book).each(["a"], "print")  # type: ignore[arg-type]


def test_a_lost_attempt_stops(book: Book) -> None:
    stream = attempt(book).remaining(["a", "b"])
    next(stream)
    book.lost = True
    with pytest.raises(AttemptLost):
        next(stream)


# -- failures


def unlucky(item: int) -> None:
    if item % 3 == 2:
        raise ConnectionError(f"no luck with {item}")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_failures_are_collected(book: Book, concurrency: int) -> None:
    job = attempt(book)
    found = job.each(range(9), unlucky, errors="collect", concurrency=concurrency)
    assert (found.done, found.skipped, found.failed, found.vanished) == (6, 0, 3, 0)
    assert isinstance(found.first_error, ConnectionError)
    assert book.failed["items"] == dict.fromkeys(["2", "5", "8"], "ConnectionError")
    assert job.items_outcome == "some"
    assert job.failed_items[0] == 3


def test_all_failing_is_none_and_earlier_success_counts(book: Book) -> None:
    job = attempt(book)
    job.each([2, 5], unlucky, errors="collect")
    assert job.items_outcome == "none"
    book.done["items"] = {"1"}
    later = attempt(book, 2)
    assert later.each([1, 2, 5], unlucky, errors="collect").skipped == 1
    assert later.items_outcome == "some"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_first_failure_is_raised_when_the_others_have_ended(
    book: Book, concurrency: int
) -> None:
    job = attempt(book)
    with pytest.raises(ConnectionError, match="no luck with 2"):
        job.each(range(9), unlucky, concurrency=concurrency)
    job.leave()
    assert {"0", "1"} <= book.done["items"]
    assert len(book.done["items"]) <= 1 + concurrency
    assert book.failed["items"] == {}


@pytest.mark.parametrize("said", [failbetter.Release(5), failbetter.Fail("no"), AttemptLost("x")])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_is_said_of_the_whole_job_ends_it(
    book: Book, said: BaseException, concurrency: int
) -> None:
    def say(item: int) -> None:
        raise said

    with pytest.raises(type(said)):
        attempt(book).each(range(9), say, errors="collect", concurrency=concurrency)


def test_threads_know_their_job(book: Book) -> None:
    job = attempt(book)
    token = failbetter.running.current.set(job)
    try:
        seen = []

        def look(item: int) -> None:
            seen.append((failbetter.current_job(), threading.current_thread().name))

        job.each(range(4), look, concurrency=2)
    finally:
        failbetter.running.current.reset(token)
    assert {found for found, _ in seen} == {job}
    assert all(name.startswith("failbetter-item") for _, name in seen)


# -- async


def test_async_lists(book: Book) -> None:
    async def body() -> list[str]:
        return [item async for item in attempt(book).aremaining(["a", "b"])]

    assert asyncio.run(body()) == ["a", "b"]
    assert book.done["items"] == {"a", "b"}


def test_async_items_beside_each_other(book: Book) -> None:
    beside: list[int] = []
    running = 0

    async def mirror(item: int) -> None:
        nonlocal running
        running += 1
        beside.append(running)
        await asyncio.sleep(0.01)
        running -= 1
        unlucky(item)

    job = attempt(book)
    found = asyncio.run(job.aeach(range(9), mirror, concurrency=3, errors="collect"))
    assert (found.done, found.failed) == (6, 3)
    assert max(beside) == 3


def test_an_async_failure_waits_for_the_others(book: Book) -> None:
    ended = []

    async def mirror(item: int) -> None:
        if item == 0:
            raise ConnectionError
        await asyncio.sleep(0.01)
        ended.append(item)

    with pytest.raises(ConnectionError):
        asyncio.run(attempt(book).aeach(range(9), mirror, concurrency=3))
    assert ended == [1, 2]


def test_a_cancelled_body_leaves_no_items_running(book: Book) -> None:
    cancelled = []
    begun: list[int] = []
    running = asyncio.Event()

    async def mirror(item: int) -> None:
        begun.append(item)
        if len(begun) == 2:
            running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    async def body() -> None:
        working = asyncio.ensure_future(attempt(book).aeach(range(9), mirror, concurrency=2))
        await running.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(body())
    assert sorted(cancelled) == [0, 1]
    assert book.done["items"] == set()


# -- cursor and count


def test_a_cursor(book: Book) -> None:
    job = attempt(book)
    assert job.cursor is None
    job.save_cursor({"page": 2})
    assert job.cursor == {"page": 2}
    assert attempt(book, 2).cursor == {"page": 2}
    with pytest.raises(TypeError, match="cursor"):
        job.save_cursor(object())
    assert book.cursor == '{"page":2}'


def test_counts_are_told_now_and_then_and_at_the_end(book: Book) -> None:
    job = attempt(book)
    for n in range(100):
        job.progress(n, 100)
    job.leave()
    told = [given["done"] for kind, given in book.posted if kind == "count"]
    assert told[0] == 0
    assert told[-1] == 99
    assert len(told) < 10
    with pytest.raises(ValueError):
        job.progress(-1)


def test_the_first_request_is_the_first_look(book: Book) -> None:
    """A list that nobody goes through costs nothing."""
    attempt(book).remaining(["a"])
    assert book.told == []
    assert resume.MOST_GROUPED == 10_000
