"""Reading jobs: one, pages, counts; filters that mean what they say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, new_job

from failbetter.ledger import claims, reads
from failbetter.ledger.endings import Error
from failbetter.ledger.filters import Filters
from failbetter.lifecycle.states import Cause

LATER = NOW + 60 * SECOND


def test_no_such_job(ledger: Ledger) -> None:
    assert reads.job(ledger.database, 5) is None
    assert reads.attempts_of(ledger.database, 5) == []
    assert reads.effects_of(ledger.database, 5) == []


# -- filters


@pytest.fixture
def store(worked: Ledger) -> dict[str, int]:
    """Jobs that differ in all that a filter can tell apart."""
    found: dict[str, int] = {}

    def failed(name: str, error: str, message: str, **given: Any) -> None:
        number = worked.add(**given)
        (job,) = worked.claim()
        said = Error(error, message, None, f"1-{error}")
        worked.end(job, Cause.RAISED, verdict="fail", error=said, now=LATER)
        found[name] = number

    failed("timeout", "socket.TimeoutError", "timed out after 5 s", task="upload", tags='["a"]')
    failed("percent", "shop.Broken", "100% wrong", task="up_load", tags='["a%","b"]')
    failed("under", "shop.orders.Broken", "a_b wrong", task="upXload", queue="images")
    failed("bang", "ValueError", "what! a wrong", task="up%load")
    failed("star", "NotBroken", "5 * 3", task="mail.send")
    found["done"] = worked.add(task="mail.receive", created_at=NOW - 9)
    worked.end(worked.claim_one(), now=LATER + 5)
    found["waiting"] = worked.add(task="mail.send", queue="images", created_at=NOW + 7)
    return found


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "timeout percent under bang star done waiting"),
        ({"states": ("failed",)}, "timeout percent under bang star"),
        ({"states": ("succeeded", "pending")}, "done waiting"),
        ({"states": ()}, ""),
        ({"task": "upload"}, "timeout"),
        ({"task": "up_load"}, "percent"),
        ({"task": "up%load"}, "bang"),
        ({"task": "up*load"}, "timeout percent under bang"),
        ({"task": "mail.*"}, "star done waiting"),
        ({"task": "*"}, "timeout percent under bang star done waiting"),
        ({"task": "Upload"}, ""),
        ({"task": ""}, ""),
        ({"queue": "images"}, "under waiting"),
        ({"queue": "image_"}, ""),
        ({"reason": "error"}, "timeout percent under bang star"),
        ({"reason": "lost"}, ""),
        ({"error": "Broken"}, "percent under"),
        ({"error": "shop.Broken"}, "percent"),
        ({"error": "shop.*"}, "percent under"),
        ({"error": "TimeoutError"}, "timeout"),
        ({"error": "ValueError"}, "bang"),
        ({"error": "broken"}, ""),
        ({"error": "Bro_en"}, ""),
        ({"error": "*Broken"}, "percent under star"),
        ({"message": "*timed out*"}, "timeout"),
        ({"message": "timed out"}, ""),
        ({"message": "*100%*"}, "percent"),
        ({"message": "*%*"}, "percent"),
        ({"message": "*_*"}, "under"),
        ({"message": "*!*"}, "bang"),
        ({"message": "*?*"}, ""),
        ({"message": "*[a-z]*"}, ""),
        ({"message": "*TIMED*"}, ""),
        ({"message": "*wrong"}, "percent under bang"),
        ({"message": "5 * 3"}, "star"),
        ({"tag": "a"}, "timeout"),
        ({"tag": "a%"}, "percent"),
        ({"tag": "b"}, "percent"),
        ({"tag": "A"}, ""),
        ({"tag": "*"}, ""),
        ({"fingerprint": "1-ValueError"}, "bang"),
        ({"since": LATER}, "timeout percent under bang star done"),
        ({"until": LATER}, "waiting"),
        ({"since": LATER + 1}, "done"),
        ({"since": NOW + 7, "until": NOW + 8}, "waiting"),
        ({"task": "up*load", "error": "Broken", "queue": "images"}, "under"),
        ({"task": "upload", "error": "Broken"}, ""),
    ],
)
def test_filters(
    worked: Ledger, store: dict[str, int], filters: dict[str, Any], expected: str
) -> None:
    filters = {name: (one,) if isinstance(one, str) else one for name, one in filters.items()}
    names = {number: name for name, number in store.items()}
    found = [names[row.id] for row in worked.rows(**filters)]
    assert sorted(found) == sorted(expected.split())
    assert reads.count(worked.database, Filters(**filters)) == len(found)
    keys = [number for number, _ in reads.keys(worked.database, Filters(**filters), 0, 100)]
    assert sorted(names[number] for number in keys) == sorted(found)


def test_ids(worked: Ledger, store: dict[str, int]) -> None:
    wanted = (store["done"], store["star"], 5)
    assert {row.id for row in worked.rows(ids=wanted)} == {store["done"], store["star"]}
    assert worked.rows(ids=()) == []


def test_a_quote_is_a_letter(worked: Ledger, store: dict[str, int]) -> None:
    for text in ("'; DROP TABLE jobs; --", '"', "\\", "?", ":x", "%s"):
        for name in ("task", "queue", "error", "message", "tag", "fingerprint", "reason"):
            assert worked.rows(**{name: (text,)}) == []
    assert reads.count(worked.database, Filters()) == 7


def test_which_filters_narrow() -> None:
    assert not Filters().narrow
    assert not Filters(states=("failed",)).narrow
    assert Filters(task=("x",)).narrow
    assert Filters(ids=()).narrow
    assert Filters(since=0).narrow


# -- pages


def test_pages_newest_first_without_gap_or_double(worked: Ledger) -> None:
    numbers = worked.insert(*(new_job() for _ in range(57)))
    pages = list(reads.pages(worked.database, Filters(), size=10))
    assert [len(page) for page in pages] == [10, 10, 10, 10, 10, 7]
    assert [row.id for page in pages for row in page] == numbers[::-1]


@pytest.mark.parametrize("limit", [0, 1, 10, 25, 57, 100])
def test_a_limit_is_over_all_pages(worked: Ledger, limit: int) -> None:
    numbers = worked.insert(*(new_job() for _ in range(57)))
    found = [row.id for page in reads.pages(worked.database, Filters(), limit, 10) for row in page]
    assert found == numbers[::-1][:limit]


def test_what_comes_while_paging_is_not_in_the_way(worked: Ledger) -> None:
    numbers = worked.insert(*(new_job() for _ in range(20)))
    pages = reads.pages(worked.database, Filters(states=("pending",)), size=5)
    found = [row.id for row in next(pages)]
    worked.insert(*(new_job() for _ in range(20)))
    for job in worked.claim(limit=3):
        worked.end(job)
    found += [row.id for page in pages for row in page]
    assert found == [number for number in numbers[::-1] if number not in numbers[:3]]


def test_keys_oldest_first_in_pages(worked: Ledger) -> None:
    numbers = worked.insert(*(new_job(unique="k" if n == 3 else None) for n in range(12)))
    found, after = [], 0
    while page := reads.keys(worked.database, Filters(), after, 5):
        found += page
        after = page[-1][0]
    assert found == [(number, place == 3) for place, number in enumerate(numbers)]


# -- counts


def counts_by(ledger: Ledger, states: list[str], limit: int) -> dict[str, int]:
    with ledger.database.look() as tx:
        return reads.counts_by(tx, states, limit)


def oldest_due(ledger: Ledger) -> int | None:
    with ledger.database.look() as tx:
        return reads.oldest_due(tx, NOW)


def test_counts_by_state(worked: Ledger) -> None:
    worked.fail()
    worked.fail()
    worked.add()
    states = ["pending", "running", "failed"]
    assert counts_by(worked, states, 3) == {"pending": 1, "running": 0, "failed": 2}
    assert counts_by(worked, states, 1) == {"pending": 1, "running": 0, "failed": 1}


def any_live(ledger: Ledger, queues: list[str]) -> bool:
    with ledger.database.look() as tx:
        return claims.any_live(tx, queues)


def test_whether_anything_is_live(worked: Ledger) -> None:
    assert not any_live(worked, [])
    worked.fail(queue="a")
    assert not any_live(worked, ["a"])
    worked.add(queue="b", run_at=LATER)
    assert any_live(worked, [])
    assert any_live(worked, ["a", "b"])
    assert not any_live(worked, ["a"])
    worked.begin(worked.claim_one(now=LATER))
    assert any_live(worked, ["b"])


def test_how_long_the_longest_waits(worked: Ledger) -> None:
    assert oldest_due(worked) is None
    worked.add(run_at=LATER)
    assert oldest_due(worked) is None
    worked.add(run_at=NOW - 5, priority=-9)
    worked.add(run_at=NOW - 3)
    assert oldest_due(worked) == NOW - 5
    worked.claim()
    assert oldest_due(worked) is None
