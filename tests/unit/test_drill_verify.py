"""The drill's checks can fail: each spoilt thing is found, and by the check that is for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from failbetter.drill.book import Book, Entry
from failbetter.drill.tasks import effect_name, held_at
from failbetter.drill.verify import AttemptSeen, Check, JobSeen, Seen, Strike, verify

CRASH = AttemptSeen(1, "crashed", {"signal": 9})
LOSS = AttemptSeen(2, "lost", {"lease": 30})
STOP = AttemptSeen(3, "interrupted")

LIST = JobSeen(
    "list", "list", 3, "succeeded", None, (CRASH, LOSS, STOP, AttemptSeen(4, "returned")),
    done=3, total=3,
)  # fmt: skip
EFFECTS = JobSeen(
    "effects", "effects", 2, "succeeded", None, (AttemptSeen(1, "returned"),),
    {effect_name(0): True, effect_name(1): True}, 2, 0, 2,
)  # fmt: skip
FRAGILE = JobSeen(
    "fragile", "fragile", 1, "failed", "lost", (AttemptSeen(1, "lost", {"lease": 30}),)
)


def entries(job: str, *said: tuple[int, str, int]) -> list[Entry]:
    return [Entry(job, attempt, what, item, 100 + attempt) for attempt, what, item in said]


GOOD = Seen(
    [LIST, EFFECTS, FRAGILE],
    [
        Strike("child killed", frozenset({("list", 1)})),
        Strike("worker killed", frozenset({("list", 2), ("fragile", 1)})),
        Strike("worker stopped", frozenset({("list", 3)})),
    ],
    [
        *entries("list", (1, "begin", 0), (1, "done", 0), (1, "begin", 1)),
        *entries("fragile", (1, "begin", 0)),
        *entries("list", (2, "begin", 1), (2, "done", 1), (2, "begin", 2)),
        *entries("list", (3, "begin", 2), (4, "begin", 2), (4, "done", 2)),
        *entries("effects", (1, "begin", 0), (1, "done", 0), (1, "begin", 1), (1, "done", 1)),
    ],
    ["failbetter-effects-effect-0", "failbetter-effects-effect-1"],
    {"list": [0, 1, 1, 2, 3]},
    [("a child's", 0.2)],
)

ENDS = "every job has its right end"
RECORD = "every interruption is on record with its evidence"
EFFECT = "no effect twice, none missing"
ITEMS = "no item lost, none again but what was struck"
PROGRESS = "progress is complete and never went back"
ONCE = "no job ran twice at once"
TIME = "deaths noticed within 2 s"


def with_job(job: JobSeen, **changes: object) -> Seen:
    found = [replace(one, **changes) if one is job else one for one in GOOD.jobs]  # type: ignore[arg-type]
    return replace(GOOD, jobs=found)


def with_attempt(changed: AttemptSeen) -> Seen:
    found = tuple(changed if one.number == changed.number else one for one in LIST.attempts)
    return with_job(LIST, attempts=found)


def without(*gone: Entry) -> Seen:
    return replace(GOOD, entries=[entry for entry in GOOD.entries if entry not in gone])


def then(*more: Entry) -> Seen:
    return replace(GOOD, entries=[*GOOD.entries, *more])


def wrong(seen: Seen) -> list[Check]:
    return [check for check in verify(seen) if not check.ok]


def test_a_good_drill_passes() -> None:
    assert wrong(GOOD) == []


def test_what_was_not_struck_is_not_expected_to_have_failed() -> None:
    whole = replace(FRAGILE, state="succeeded", reason=None, attempts=(AttemptSeen(1, "returned"),))
    done = then(*entries("fragile", (1, "done", 0)))
    strikes = [replace(one, victims=one.victims - {("fragile", 1)}) for one in GOOD.strikes]
    assert wrong(replace(done, jobs=[LIST, EFFECTS, whole], strikes=strikes)) == []


@pytest.mark.parametrize(
    ("seen", "name", "told"),
    [
        (with_job(LIST, state="pending"), ENDS, "is pending, not succeeded"),
        (with_job(LIST, state="running"), ENDS, "is running"),
        (with_job(LIST, state="failed", reason="lost"), ENDS, "is failed(lost), not succeeded"),
        (with_job(LIST, reason="partial"), ENDS, "is succeeded(partial)"),
        (with_job(FRAGILE, state="succeeded", reason=None), ENDS, "not failed(lost)"),
        (with_job(FRAGILE, reason="crashed"), ENDS, "not failed(lost)"),
        (with_job(LIST, attempts=LIST.attempts[1:]), RECORD, "attempt 1, child killed, is not"),
        (with_attempt(replace(CRASH, cause="lost")), RECORD, "ended as lost, not crashed"),
        (with_attempt(replace(CRASH, evidence={"signal": 15})), RECORD, "signal 9"),
        (with_attempt(replace(LOSS, evidence={})), RECORD, "how its worker was lost"),
        (with_attempt(AttemptSeen(4, "crashed")), RECORD, "nobody struck it"),
        (replace(GOOD, effects=[*GOOD.effects, GOOD.effects[0]]), EFFECT, "happened 2 times"),
        (replace(GOOD, effects=GOOD.effects[1:]), EFFECT, "effect-0 happened 0 times"),
        (replace(GOOD, effects=[*GOOD.effects, "failbetter-x-y"]), EFFECT, "that no job has"),
        (with_job(EFFECTS, effects={effect_name(0): True}), EFFECT, "knows nothing of effect-1"),
        (
            with_job(EFFECTS, effects={effect_name(0): True, effect_name(1): False}),
            EFFECT,
            "effect-1 is in doubt",
        ),
        (without(*entries("list", (2, "done", 1))), ITEMS, "item 1 was never done"),
        (
            then(*entries("list", (4, "begin", 0), (4, "done", 0))),
            ITEMS,
            "item 0 of attempt 1 was done again",
        ),
        (
            then(*entries("effects", (1, "begin", 0), (1, "done", 0))),
            ITEMS,
            "item 0 of attempt 1 was done again",
        ),
        (
            then(*entries("effects", (2, "begin", 1), (2, "done", 1))),
            ITEMS,
            "item 1 of attempt 1 was done again",
        ),
        (then(*entries("stranger", (1, "begin", 0))), ITEMS, "is none of the drill's"),
        (with_job(LIST, done=2), PROGRESS, "2 of 3 items"),
        (with_job(LIST, total=None), PROGRESS, "3 of None items"),
        (with_job(LIST, failed=1), PROGRESS, "1 failed"),
        (with_job(LIST, done=None), PROGRESS, "None of 3"),
        (replace(GOOD, samples={"list": [0, 2, 1]}), PROGRESS, "went back from 2 to 1"),
        (then(*entries("list", (2, "done", 2))), ONCE, "attempt 2 went on while attempt 4 ran"),
        (replace(GOOD, delays=[("a child's", 9.0)]), TIME, "after 9.0 s"),
    ],
)  # fmt: skip
def test_what_is_spoilt_is_found(seen: Seen, name: str, told: str) -> None:
    found = {check.name: check for check in wrong(seen)}
    assert name in found
    assert any(told in problem for problem in found[name].wrong), found[name].wrong
    assert found[name].means


def test_each_way_to_spoil_it_is_of_one_respect() -> None:
    """A check that says no to everything would prove nothing."""
    for seen, name in (
        (with_job(LIST, done=2), PROGRESS),
        (replace(GOOD, effects=GOOD.effects[1:]), EFFECT),
        (with_attempt(replace(LOSS, evidence={})), RECORD),
        (replace(GOOD, delays=[("a child's", 9.0)]), TIME),
    ):
        assert [check.name for check in wrong(seen)] == [name]


# -- the book


def test_a_book_keeps_what_bodies_say(tmp_path: Path) -> None:
    book = Book(tmp_path)
    assert (book.entries(), book.effects()) == ([], [])
    book.begin("a", 1, 0)
    book.effect("key")
    book.done("a", 1, 0)
    assert [(one.attempt, one.what, one.item) for one in book.entries()] == [
        (1, "begin", 0),
        (1, "done", 0),
    ]
    assert book.effects() == ["key"]


def test_half_a_line_is_no_line(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.effect("whole")
    with (tmp_path / "effects").open("a") as file:
        file.write("half")
    assert book.effects() == ["whole"]


def test_nobody_is_held_once_the_drill_says_go(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.go()
    book.hold()


@pytest.mark.parametrize("attempt", range(1, 10))
def test_a_list_is_held_within_it(attempt: int) -> None:
    assert all(0 <= held_at(attempt, items) < items for items in (1, 2, 3, 20))
