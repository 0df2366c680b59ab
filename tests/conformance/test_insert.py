"""Inserting jobs: one, many, all or none; and at most one live job of a unique key."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.conformance.kit import NOW, Ledger, ending, new_job, unlike

from failbetter import ids
from failbetter.errors import LedgerError
from failbetter.ledger.enqueue import insert_jobs
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause


def test_one_job_as_it_was_given(ledger: Ledger) -> None:
    given = new_job(
        Policy(max_attempts=7, redact=("token",)),
        task="upload",
        queue="images",
        priority=-7,
        run_at=NOW + 5,
        expires_at=NOW + 9,
        payload='{"path":"☃.png"}',
        unique="upload:a",
        exclusive="upload:b",
        subject="image:1",
        tags='["a"]',
    )
    (number,) = ledger.insert(given)
    row = ledger.row(number)
    assert (row.task, row.queue, row.priority) == ("upload", "images", -7)
    assert (row.run_at, row.created_at, row.expires_at) == (NOW + 5, NOW, NOW + 9)
    assert (row.payload, row.policy) == (given.payload, given.policy)
    assert (row.unique_key, row.exclusive_key, row.subject) == ("upload:a", "upload:b", "image:1")
    assert row.tags == '["a"]'
    assert (row.state, row.reason, row.fence, row.worker) == ("pending", None, 0, None)
    assert (row.starts, row.attempts, row.crashes, row.losses, row.hand_backs) == (0, 0, 0, 0, 0)
    assert (row.begun_at, row.ended_at, row.result, row.error_type) == (None, None, None, None)
    assert ledger.attempts(number) == []


def test_many_keep_their_order(ledger: Ledger) -> None:
    numbers = ledger.insert(*(new_job(payload=f'{{"n":{n}}}') for n in range(1_500)))
    assert numbers == sorted(set(numbers))
    assert [row.id for row in ledger.rows()] == numbers[::-1]
    assert ledger.row(numbers[7]).payload == '{"n":7}'


def test_none_at_all(ledger: Ledger) -> None:
    assert insert_jobs(ledger.database, []) == []


@pytest.mark.parametrize("keys", [False, True])
def test_all_or_none(ledger: Ledger, keys: bool) -> None:
    unique = {"unique": "k"} if keys else {}
    bad = new_job(task=None, unique="bad") if keys else new_job(task=None)
    with pytest.raises(LedgerError):
        ledger.insert(new_job(**unique), new_job(), bad, new_job())
    assert ledger.rows() == []


def test_a_drawn_id_that_is_taken_is_drawn_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (taken,) = ledger.insert(new_job())
    before = ledger.row(taken)
    draws = iter([taken, taken, taken + 5])
    monkeypatch.setattr(ids, "take", lambda count: next(draws))
    assert ledger.insert(new_job(task="other")) == [taken + 5]
    assert unlike(before, ledger.row(taken)) == {}


def test_a_clock_that_is_stuck_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = ledger.insert(new_job())
    monkeypatch.setattr(ids, "take", lambda count: taken)
    with pytest.raises(LedgerError, match="clock"):
        ledger.insert(new_job())
    assert len(ledger.rows()) == 1


# -- unique


def test_a_second_enqueue_returns_the_live_job(ledger: Ledger) -> None:
    database = ledger.database
    (first,) = insert_jobs(database, [new_job(unique="k")])
    (second,) = insert_jobs(database, [new_job(unique="k", task="other")])
    assert first == (first[0], True)
    assert second == (first[0], False)
    assert len(ledger.rows()) == 1


def test_other_keys_and_no_keys_are_free(ledger: Ledger) -> None:
    assert (
        len(set(ledger.insert(*(new_job(unique=key) for key in ("a", "b", "A", None, None))))) == 5
    )


def test_within_one_call_too(ledger: Ledger) -> None:
    found = insert_jobs(
        ledger.database, [new_job(unique="a"), new_job(), new_job(unique="a"), new_job(unique="b")]
    )
    assert [created for _, created in found] == [True, True, False, True]
    assert found[2][0] == found[0][0]
    assert len(ledger.rows()) == 3


def test_it_is_live_while_it_runs_and_waits_for_a_retry(worked: Ledger) -> None:
    first = worked.add(unique="k")
    job = worked.claim_one()
    assert worked.add(unique="k") == first
    worked.begin(job)
    assert worked.add(unique="k") == first
    worked.end(job, Cause.RAISED)
    assert worked.add(unique="k") == first


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.RETURNED, {}),
        (Cause.RAISED, {"verdict": "fail"}),
        (Cause.RAISED, {"verdict": "discard"}),
        (Cause.CANCELLED, {}),
    ],
)
def test_its_key_is_free_once_it_is_over(
    worked: Ledger, cause: Cause, said: dict[str, str]
) -> None:
    first = worked.add(unique="k")
    worked.end(worked.claim_one(), cause, **said)
    second = worked.add(unique="k")
    assert second != first
    assert worked.add(unique="k") == second


def test_a_cancelled_wait_frees_the_key(ledger: Ledger) -> None:
    first = ledger.add(unique="k")
    assert ledger.cancel(first)
    assert ledger.add(unique="k") != first


def test_many_producers_make_one(ledger: Ledger, connect: Callable[[], Ledger]) -> None:
    found: list[tuple[int, bool]] = []
    start = threading.Barrier(4)
    producers = [connect() for _ in range(4)]

    def produce(producer: Ledger) -> None:
        start.wait()
        for key in range(25):
            found.extend(insert_jobs(producer.database, [new_job(unique=f"k{key}")]))

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in producers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100
    assert sum(created for _, created in found) == 25
    assert len(ledger.rows()) == 25


# -- texts of every kind

TEXTS = [
    "plain",
    "tab\tnew\nline\rback\\slash",
    "\\N",
    "NULL",
    "",
    '{curly,"quoted"}',
    "'; DROP TABLE failbetter_jobs; --",
    "100 % %s ? :name $1",
    "ü \u2028 \U0001f4a5",
]


@pytest.mark.parametrize("unique", [False, True])
def test_texts_come_back_as_they_were(ledger: Ledger, unique: bool) -> None:
    """In bulk they are written into the driver's own formats."""
    new = [
        new_job(payload=text, subject=text or None, unique=f"key {text}" if unique else None)
        for text in TEXTS
    ]
    numbers = ledger.insert(*new)
    rows = [ledger.row(number) for number in numbers]
    assert [row.payload for row in rows] == TEXTS
    assert [row.subject for row in rows] == [text or None for text in TEXTS]
    ledger.register(1)
    jobs = sorted(ledger.claim(), key=lambda job: job.id)
    ledger.settle(*(ending(job, result=job.payload, note=job.payload) for job in jobs))
    assert [ledger.row(number).result for number in numbers] == TEXTS


def test_many_of_which_some_are_live(ledger: Ledger) -> None:
    (live,) = ledger.insert(new_job(unique="k3"))
    found = insert_jobs(ledger.database, [new_job(unique=f"k{n}") for n in (1, 2, 3, 4, 4, 5)])
    assert [created for _, created in found] == [True, True, False, True, False, True]
    assert found[2][0] == live
    assert found[3][0] == found[4][0]
    assert len(ledger.rows()) == 5
