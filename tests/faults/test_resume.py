"""What was interrupted goes on where it was: items, cursors, doubts, the body's own commits."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from tests.faults.apps import BAD
from tests.faults.harness import Site, Worker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter import Job

LISTS = ["mirror_all", "amirror_all", "mirror_each", "amirror_each"]


def items(site: Site, job: Job, what: str = "item") -> Counter[int]:
    """How often each item was begun (or, by `what`, done)."""
    words = [entry.what.split() for entry in site.log.entries(job=job)]
    return Counter(int(word[1]) for word in words if word[0] == what)


def kill_a_child(worker: Worker, rng: random.Random) -> None:
    children = worker.children()
    if children:
        rng.choice(children).kill()


@pytest.mark.parametrize("task", LISTS)
def test_a_list_goes_on_where_it_was(site: Site, task: str) -> None:
    """B8: whatever is killed, each item is done, and none that was told to be done is again."""
    rng = random.Random(site.seed)
    count = 60
    job = site.enqueue(task, count, 0.01)
    worker = site.worker()
    for turn in range(4):
        goal = rng.randint(turn * 12 + 2, turn * 12 + 10)
        wait_until(lambda goal=goal: len(items(site, job, "done")) >= goal, f"{goal} items")
        if rng.random() < 0.5:
            kill_a_child(worker, rng)
        else:
            worker.kill()
            worker = site.worker()
    site.wait_over([job])
    site.check()
    begun, done = items(site, job), items(site, job, "done")
    assert set(done) == set(range(count))
    # What ran when a kill struck is all that may be done twice: one item, or those beside it.
    beside = 4 if "each" in task else 1
    assert sum(done.values()) - count <= 4 * beside
    assert sum(begun.values()) - count <= 4 * beside
    progress = job.progress
    assert progress is not None
    assert (progress.done, progress.failed, progress.total) == (count, 0, count)


def test_a_group_of_items_is_all_that_is_done_again(site: Site) -> None:
    """B8: grouping is bounded by what the body says."""
    job = site.enqueue("mirror_all", 90, 0.005, 20)
    worker = site.worker()
    wait_until(lambda: len(items(site, job, "done")) >= 50, "50 items")
    worker.kill()
    site.worker()
    site.wait_over([job])
    site.check()
    done = items(site, job, "done")
    assert set(done) == set(range(90))
    assert sum(done.values()) - 90 <= 20


def test_progress_never_goes_back(site: Site) -> None:
    job = site.enqueue("mirror_all", 40, 0.02)
    worker = site.worker()
    seen = 0
    while not job.refresh().over:
        progress = job.progress
        now = 0 if progress is None else progress.done
        assert now >= seen
        if now >= 15 > seen:
            worker.kill()
            worker = site.worker(ready=False)
        seen = now
    assert job.state == "succeeded"
    site.check()


def test_items_that_fail_are_no_plain_success(site: Site) -> None:
    job = site.enqueue("some_fail", 10)
    site.drain()
    assert (job.refresh().state, job.reason) == ("failed", "partial")
    assert job.error_type == "failbetter.ItemsFailed"
    assert "2 items failed; the first: ConnectionError: no luck with" in (job.error_message or "")
    assert [item.key for item in job.failed_items()] == [str(n) for n in BAD]
    assert {item.error_type for item in job.failed_items()} == {"ConnectionError"}
    progress = job.progress
    assert progress is not None
    assert (progress.done, progress.failed, progress.total) == (8, 2, 10)
    (attempt,) = job.attempts
    assert (attempt.cause, attempt.state) == ("returned", "failed")


def test_a_task_may_be_content_with_a_part(site: Site) -> None:
    job = site.enqueue("some_may_fail", [1, 2, 3])
    none = site.enqueue("some_may_fail", list(BAD))
    whole = site.enqueue("some_may_fail", [1, 2])
    site.drain()
    assert (job.refresh().state, job.reason) == ("succeeded", "partial")
    assert job.result() == "came to the end"
    assert (none.refresh().state, none.reason) == ("failed", "partial")
    assert (whole.refresh().state, whole.reason) == ("succeeded", None)


def test_the_first_error_stops_and_a_later_attempt_goes_on(site: Site) -> None:
    job = site.enqueue("first_error_stops", 10)
    site.drain()
    assert (job.refresh().state, job.reason) == ("failed", "error")
    assert job.error_type == "ConnectionError"
    assert job.attempt == 2
    progress = job.progress
    assert progress is not None
    assert progress.done >= 3
    site.check()


def test_a_cursor_outlives_its_worker(site: Site) -> None:
    job = site.enqueue("by_cursor", 30, 0.02)
    worker = site.worker()
    wait_until(lambda: (found := job.progress) and found.done >= 10, "ten pages")
    worker.kill()
    site.worker()
    site.wait_over([job])
    site.check()
    starts = [entry.what for entry in site.log.entries(job=job) if entry.what.startswith("from")]
    assert starts[0] == "from 0"
    assert int(starts[1].split()[1]) >= 9
    progress = job.progress
    assert progress is not None
    assert (progress.done, progress.total) == (30, 30)


def test_no_progress_is_stalled(site: Site) -> None:
    """B2: by what the body gives a sign of, not by its age."""
    moving = site.enqueue("stuck", 0.1, 6)
    still = site.enqueue("stuck", 60.0)
    deaf = site.enqueue("stuck_in_c")
    site.drain(processes=3)
    assert moving.refresh().state == "succeeded"
    assert (still.refresh().state, still.reason) == ("failed", "stalled")
    assert "no progress for 0.5 s" in (still.error_message or "")
    assert (deaf.refresh().state, deaf.reason) == ("failed", "stalled")
    assert "was killed" in (deaf.error_message or "")
    assert still.attempts[0].cause == deaf.attempts[0].cause == "stalled"
    site.check()


def test_the_task_settles_a_doubt(site: Site, tmp_path: Path) -> None:
    """A10: after a death between intended and done, the task's verify decides."""
    happened, not_yet, unknown = (tmp_path / name for name in ("happened", "not-yet", "unknown"))
    for folder in (happened, not_yet, unknown):
        folder.mkdir()
    (not_yet / "die-before").touch()
    (unknown / "nobody-knows").touch()
    jobs = [site.enqueue("pay_and_see", str(folder)) for folder in (happened, not_yet, unknown)]
    site.drain()
    first, second, third = (job.refresh() for job in jobs)
    assert (first.state, first.result()) == ("succeeded", "seen")
    assert len(site.log.entries("effect charge", first)) == 1
    assert (second.state, second.result()) == ("succeeded", "done")
    assert len(site.log.entries("effect charge", second)) == 1
    assert (third.state, third.reason) == ("failed", "uncertain")
    assert len(site.log.entries("effect charge", third)) == 1
    # A person may know more.
    third.confirm(happened=True, result="asked the bank")
    (unknown / "nobody-knows").unlink()
    third.retry()
    site.drain()
    assert third.refresh().result() == "asked the bank"
    assert len(site.log.entries("effect charge", third)) == 1


# -- the body's own commits


@pytest.fixture
def books(site: Site) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(site.url)
    site.app.database.ensure_schema()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE books (n INTEGER)")
    yield engine
    engine.dispose()


def booked(books: sqlalchemy.Engine) -> list[int]:
    with books.connect() as connection:
        return sorted(row[0] for row in connection.exec_driver_sql("SELECT n FROM books"))


@pytest.mark.parametrize("point", ["before_own_commit", "after_own_commit"])
def test_writes_and_success_are_one_commit(
    site: Site, books: sqlalchemy.Engine, point: str
) -> None:
    """Promise 9: exactly once, wherever its process is killed."""
    site.enqueue_many("book", [(n,) for n in range(20)])
    worker = site.worker(fault=f"{point}:5")
    wait_until(lambda: worker.text().count("killed by signal 9") >= 3, "three deaths")
    site.wait_all_over()
    site.check()
    assert booked(books) == list(range(20))
    assert {job.state for job in site.app.jobs} == {"succeeded"}
    assert {job.result() for job in site.app.jobs} == set(range(20))


def test_nothing_is_left_of_what_did_not_commit(site: Site, books: sqlalchemy.Engine) -> None:
    bad = site.enqueue("book_badly", 1)
    slow = site.enqueue("book_too_slowly", 2)
    effect = site.enqueue("book_and_ask", 3, "effect")
    cursor = site.enqueue("book_and_ask", 4, "cursor")
    site.drain()
    assert booked(books) == []
    errors = [job.refresh().error_type for job in (bad, slow, effect, cursor)]
    assert errors == ["ValueError", "TimeoutError", "RuntimeError", "RuntimeError"]
    site.check()


def test_what_follows_the_commit_changes_nothing(site: Site, books: sqlalchemy.Engine) -> None:
    raising = site.enqueue("book_and_raise", 1)
    session = site.enqueue("book_in_session", 2)
    enqueueing = site.enqueue("book_and_ask", 3, "enqueue")
    worker = site.drain()
    assert booked(books) == [1, 2, 3]
    assert (raising.refresh().state, raising.result()) == ("succeeded", 2)
    assert "had committed the job's success" in worker.text()
    assert session.refresh().state == enqueueing.refresh().state == "succeeded"
    assert site.app.jobs.where(task="work", state="succeeded").count() == 1


def test_a_lost_attempt_commits_nothing(site: Site, books: sqlalchemy.Engine) -> None:
    """Promise 3: a worker that was frozen past its lease is too late, whatever its body wrote."""
    job = site.enqueue("book_late", 1, 4.0)
    frozen = site.worker(lease=2)
    site.log.wait_for("start", job)
    frozen.freeze()
    second = site.worker(lease=2)
    wait_until(lambda: job.refresh().attempt == 2, "another attempt", 60)
    site.wait_over([job], 60)
    wait_until(lambda: site.log.entries("raise AttemptLost", job), "the first to be refused")
    frozen.thaw()
    frozen.wait_said("AttemptLost|changed nothing|was declared lost")
    second.kill()
    frozen.kill()
    assert booked(books) == [1]
    site.check()
