"""The handle in a body: effects once, in doubt, taken back; against a ledger that is a dict."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import msgspec
import pytest

import failbetter
from failbetter import AttemptLost, EffectUncertain, NotInJob, RunningJob, current_job
from failbetter.running import current


class Answer(msgspec.Struct):
    status: str
    value: str | None = None


class Dict:
    """What the supervisor does for a body, in memory. `fence` is the job's current attempt."""

    def __init__(self) -> None:
        self.fence = 1
        self.rows: dict[str, tuple[int, bool, str | None]] = {}
        self.log: list[str] = []

    def ask(self, kind: str, number: int, fence: int, name: str, value: str | None) -> Answer:
        self.log.append(f"{kind} {name}")
        lost = fence != self.fence
        if kind == "intend":
            if lost:
                return Answer("lost")
            found = self.rows.get(name)
            if found is None:
                self.rows[name] = (fence, False, None)
                return Answer("go")
            return Answer("done", found[2]) if found[1] else Answer("uncertain")
        if kind == "done":
            self.rows[name] = (fence, True, value)
            return Answer("lost" if lost else "done")
        self.rows.pop(name)
        return Answer("lost" if lost else "go")

    def post(self, kind: str, number: int, fence: int, name: str, value: str | None) -> None:
        self.ask(kind, number, fence, name, value)


@pytest.fixture
def ledger() -> Dict:
    return Dict()


def attempt(ledger: Dict, fence: int = 1) -> RunningJob:
    ledger.fence = max(ledger.fence, fence)
    return RunningJob(7, fence, "charge", "default", fence, ledger)


def test_an_effect_runs_once_and_its_result_is_replayed(ledger: Dict) -> None:
    calls: list[int] = []

    def effect() -> dict[str, Any]:
        calls.append(1)
        return {"id": "ch_1", "cents": 100}

    assert attempt(ledger).once("charge", effect) == {"id": "ch_1", "cents": 100}
    assert attempt(ledger, 2).once("charge", effect) == {"id": "ch_1", "cents": 100}
    assert calls == [1]


def test_the_intention_is_written_before_and_the_result_after(ledger: Dict) -> None:
    attempt(ledger).once("a", lambda: ledger.log.append("effect"))
    assert ledger.log == ["intend a", "effect", "done a"]


def test_none_is_a_result_too(ledger: Dict) -> None:
    assert attempt(ledger).once("a", lambda: None) is None
    assert attempt(ledger, 2).once("a", lambda: pytest.fail("again")) is None


def test_an_exception_leaves_doubt(ledger: Dict) -> None:
    job = attempt(ledger)
    with pytest.raises(ZeroDivisionError):
        job.once("a", lambda: 1 / 0)
    assert job.uncertain
    later = attempt(ledger, 2)
    with pytest.raises(EffectUncertain, match="'a'"):
        later.once("a", lambda: pytest.fail("again"))
    assert later.uncertain


@pytest.mark.parametrize("said", [failbetter.Release, failbetter.Fail, KeyboardInterrupt])
def test_so_does_what_is_no_exception(ledger: Dict, said: type[BaseException]) -> None:
    def effect() -> None:
        raise said

    job = attempt(ledger)
    with pytest.raises(said):
        job.once("a", effect)
    assert job.uncertain


def test_an_exception_of_not_done_takes_the_intention_back(ledger: Dict) -> None:
    job = attempt(ledger)
    with pytest.raises(ZeroDivisionError):
        job.once("a", lambda: 1 / 0, not_done=(ArithmeticError,))
    assert not job.uncertain
    assert attempt(ledger, 2).once("a", lambda: "done") == "done"


def test_a_lost_attempt_begins_nothing(ledger: Dict) -> None:
    zombie = attempt(ledger)
    ledger.fence = 2
    with pytest.raises(AttemptLost):
        zombie.once("a", lambda: pytest.fail("ran"))


def test_an_attempt_lost_meanwhile_is_told_and_what_happened_is_kept(ledger: Dict) -> None:
    zombie = attempt(ledger)

    def effect() -> str:
        ledger.fence = 2
        return "sent"

    with pytest.raises(AttemptLost):
        zombie.once("a", effect)
    assert attempt(ledger, 2).once("a", lambda: pytest.fail("again")) == "sent"


def test_a_result_that_cannot_be_kept(ledger: Dict) -> None:
    job = attempt(ledger)
    with pytest.raises(TypeError, match="'a' happened"):
        job.once("a", object)
    # It has happened all the same, and must not happen again.
    assert not job.uncertain
    assert attempt(ledger, 2).once("a", lambda: pytest.fail("again")) is None


def test_effects_of_different_names_are_apart(ledger: Dict) -> None:
    job = attempt(ledger)
    assert job.once("a", lambda: 1) == 1
    assert job.once("b", lambda: 2) == 2


def test_an_effect_within_itself_is_refused(ledger: Dict) -> None:
    job = attempt(ledger)
    with pytest.raises(ValueError, match="under way"):
        job.once("a", lambda: job.once("a", lambda: 1))


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_an_effect_has_a_name(ledger: Dict, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        attempt(ledger).once(name, lambda: 1)
    assert ledger.log == []


def test_awaited_effects(ledger: Dict) -> None:
    async def effect() -> list[int]:
        await asyncio.sleep(0)
        return [1, 2]

    async def broken() -> None:
        raise OSError

    async def body() -> None:
        assert await attempt(ledger).aonce("a", effect) == [1, 2]
        assert await attempt(ledger, 2).aonce("a", effect) == [1, 2]
        job = attempt(ledger, 2)
        with pytest.raises(OSError):
            await job.aonce("b", broken, not_done=(OSError,))
        assert not job.uncertain
        with pytest.raises(OSError):
            await job.aonce("b", broken)
        assert job.uncertain

    asyncio.run(body())


def test_the_effect_key_is_the_same_in_every_attempt(ledger: Dict) -> None:
    key = attempt(ledger).effect_key("charge")
    assert key == attempt(ledger, 2).effect_key("charge")
    assert key != attempt(ledger).effect_key("refund")
    assert attempt(ledger).id in key


def test_there_is_no_current_job_outside_a_body() -> None:
    with pytest.raises(NotInJob):
        current_job()


def test_the_current_job_belongs_to_its_thread_and_context(ledger: Dict) -> None:
    job = attempt(ledger)
    token = current.set(job)
    try:
        assert current_job() is job
        seen: list[object] = []

        def elsewhere() -> None:
            try:
                seen.append(current_job())
            except NotInJob:
                seen.append(None)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert seen == [None]
    finally:
        current.reset(token)


def test_its_log_carries_the_jobs_keys(ledger: Dict, caplog: pytest.LogCaptureFixture) -> None:
    job = attempt(ledger, 3)
    with caplog.at_level(logging.INFO, "failbetter"):
        job.log.info("uploading %d", 5)
    record = caplog.records[-1]
    assert record.getMessage() == "[charge] uploading 5"
    assert vars(record)["job_id"] == job.id
    assert vars(record)["attempt"] == 3
    assert json.dumps(job.log_keys())


def test_a_wish_to_cancel(ledger: Dict) -> None:
    job = attempt(ledger)
    assert not job.cancelled
    job.ask_to_cancel()
    assert job.cancelled
