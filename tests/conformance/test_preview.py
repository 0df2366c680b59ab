"""A preview: a frozen list of failed jobs, and what a retry would make of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.conformance.kit import NOW, SECOND, Ledger, attempt_of

from failbetter import App, Jobs, OperationNotFound, Preview, Refused, ids
from failbetter.ledger import operations
from failbetter.ledger.filters import Filters
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause
from failbetter.triage import preview as previews

LATER = NOW + 3600 * SECOND
FAILED = Filters(states=("failed",))


def failed(ledger: Ledger, **filters: Any) -> Jobs:
    """The failed jobs, of those that match."""
    return Jobs(ledger.database, FAILED).where(**filters)


def verdicts(preview: Preview) -> dict[int, tuple[str, str | None]]:
    """What the preview says, by the job's number."""
    return {ids.from_text(one.id): (one.verdict, one.why) for one in preview}


def of(preview: Preview, number: int) -> tuple[str, str | None]:
    return verdicts(preview)[number]


def test_a_failed_job_is_ready(worked: Ledger) -> None:
    number = worked.fail()
    preview = failed(worked).preview()
    assert verdicts(preview) == {number: ("ready", None)}
    assert (preview.counts(), preview.total, preview.reasons()) == ({"ready": 1}, 1, [])


def test_an_empty_preview(worked: Ledger) -> None:
    preview = failed(worked).preview()
    assert (preview.counts(), preview.total, list(preview)) == ({"ready": 0}, 0, [])
    assert preview.retry().moved == 0


def test_a_preview_changes_nothing(worked: Ledger) -> None:
    number = worked.fail()
    before = worked.row(number)
    failed(worked).preview()
    assert worked.row(number) == before


def test_those_that_match_are_selected_newest_first(worked: Ledger) -> None:
    one, _, three = worked.fail(), worked.fail(task="other"), worked.fail()
    preview = failed(worked, task="work").preview()
    assert list(verdicts(preview)) == [three, one]
    assert preview.filters["task"] == "work"
    worked.fail()
    newest = failed(worked, task="work").limit(1).preview()
    assert newest.total == 1
    assert three not in verdicts(newest)


def test_many_are_selected_in_pages(worked: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "_PAGE", 3)
    numbers = {worked.fail() for _ in range(8)}
    assert set(verdicts(failed(worked).preview())) == numbers
    assert set(verdicts(Jobs(worked.database).limit(7).preview())) == set(sorted(numbers)[1:])


def test_what_fails_later_is_outside(worked: Ledger) -> None:
    worked.fail()
    preview = failed(worked).preview()
    late = worked.fail()
    assert late not in verdicts(preview)
    assert preview.retry().moved == 1
    assert worked.row(late).state == "failed"


def test_expired(worked: Ledger) -> None:
    number = worked.fail(expires_at=NOW + SECOND)
    assert of(failed(worked).preview(), number) == ("expired", "its time is over")


def test_no_task_of_that_name(worked: Ledger) -> None:
    worked.register(2, tasks='["work", "other"]')
    known, unknown = worked.fail(task="other"), worked.fail(task="gone")
    found = verdicts(failed(worked).preview())
    assert found[known] == ("ready", None)
    assert found[unknown][0] == "unknown_task"
    ours = Jobs(worked.database, FAILED, decoders={"gone": lambda text: text})
    assert of(ours.preview(), unknown) == ("ready", None)


def test_without_any_task_in_sight_none_is_unknown(worked: Ledger) -> None:
    number = worked.fail()
    worked.remove(1)
    assert of(failed(worked).preview(), number) == ("ready", None)


def test_arguments_that_no_longer_fit(worked: Ledger, app: App) -> None:
    @app.task(name="work")
    def work(n: int) -> None: ...

    good, bad = worked.fail(payload='{"n": 1}'), worked.fail(payload='{"m": 1}')
    long = worked.fail(payload='{"n": "' + "x" * 10_000 + '"}')
    secret = worked.fail(payload='{"n": "x"}', policy=Policy(redact=("n",)))
    found = verdicts(app.failed.preview())
    assert found[good] == ("ready", None)
    assert found[bad][0] == found[long][0] == found[secret][0] == "bad_arguments"
    assert "unknown field `m`" in str(found[bad][1])
    assert found[secret][1] == "its arguments no longer fit its task"


def test_older_than_the_last_success_of_its_subject(worked: Ledger) -> None:
    old, same, other, none = (
        worked.fail(subject="page", version=1),
        worked.fail(subject="page", version=2),
        worked.fail(subject="else", version=1),
        worked.fail(subject="page"),
    )
    worked.add(subject="page", version=2)
    worked.end(worked.claim_one())
    found = verdicts(failed(worked).preview())
    assert found[old] == ("superseded", "a newer job of its subject has succeeded")
    assert {found[number][0] for number in (same, other, none)} == {"ready"}


@pytest.mark.parametrize(
    ("replay", "why"),
    [
        ("confirm", "its task asks for it"),
        ("never", "its task says that it is never to be run again by hand"),
    ],
)
def test_a_task_that_wants_a_word_first(worked: Ledger, replay: Any, why: str) -> None:
    number = worked.fail(policy=Policy(replay=replay))
    assert of(failed(worked).preview(), number) == ("needs_confirmation", why)


def with_effects(ledger: Ledger, done: int, open_: int, *, uncertain: bool, **given: Any) -> int:
    """A failed job with effects, some of which happened."""
    number = ledger.add(**given)
    (job,) = (job for job in ledger.claim() if job.id == number)
    for at in range(done + open_):
        ledger.intend(job, f"e{at}")
    for at in range(done):
        ledger.done(job, f"e{at}")
    if uncertain:
        ledger.end(job, Cause.CRASHED, uncertain=True)
    else:
        ledger.end(job, Cause.RAISED, verdict="fail")
    return attempt_of(job)[0]


def test_effects_that_happened_need_a_word(worked: Ledger) -> None:
    number = with_effects(worked, 2, 1, uncertain=False)
    assert of(failed(worked).preview(), number) == ("needs_confirmation", "2 of 3 effects done")


def test_an_effect_in_doubt(worked: Ledger) -> None:
    number = with_effects(worked, 0, 1, uncertain=True)
    verdict, why = of(failed(worked).preview(), number)
    assert verdict == "uncertain"
    assert "failed confirm" in str(why)
    assert failed(worked).preview().retry(confirm=True).moved == 0


def test_a_doubt_that_the_task_can_settle_is_none(worked: Ledger) -> None:
    number = with_effects(worked, 0, 1, uncertain=True, policy=Policy(verify=True, max_crashes=1))
    assert of(failed(worked).preview(), number) == ("ready", None)


def test_a_live_job_has_its_key(worked: Ledger) -> None:
    number = worked.fail(unique="k")
    worked.add(unique="k", run_at=LATER)
    assert of(failed(worked).preview(), number) == ("duplicate", "a live job has its unique key")


def test_of_several_with_one_key_the_newest_is_ready(
    worked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "_PAGE", 2)
    numbers = [worked.fail(unique="k") for _ in range(5)]
    lone = worked.fail(unique="other")
    found = verdicts(failed(worked).preview())
    assert {number for number in found if found[number][0] == "ready"} == {numbers[-1], lone}
    assert {found[number][0] for number in numbers[:-1]} == {"duplicate"}


def test_what_has_not_failed_is_said_to_be_so(worked: Ledger) -> None:
    number = worked.add(run_at=LATER)
    preview = Jobs(worked.database).preview()
    assert of(preview, number) == ("not_failed", "not failed but pending")


def test_reasons_are_counted(worked: Ledger) -> None:
    for _ in range(3):
        worked.fail(policy=Policy(replay="confirm"))
    worked.fail(expires_at=NOW + SECOND)
    preview = failed(worked).preview()
    assert preview.counts() == {"ready": 0, "expired": 1, "needs_confirmation": 3}
    assert preview.reasons() == [
        ("needs_confirmation", "its task asks for it", 3),
        ("expired", "its time is over", 1),
    ]


# -- tokens


def test_a_token_opens_it_again_anywhere(
    worked: Ledger, connect: Callable[[], Ledger], app: App
) -> None:
    number = worked.fail()
    token = failed(worked).preview().token
    found = app.preview(token)
    assert (verdicts(found), found.total) == ({number: ("ready", None)}, 1)
    assert found.retry().id == token


def test_a_token_that_there_is_none_of(app: App) -> None:
    with pytest.raises(OperationNotFound, match="no preview or operation 0000000000005"):
        app.preview("0000000000005")
    with pytest.raises(ValueError, match="no job id"):
        app.preview("nonsense")


def test_a_token_serves_once(worked: Ledger, app: App) -> None:
    worked.fail()
    preview = failed(worked).preview()
    preview.retry()
    for act in (preview.retry, preview.discard):
        with pytest.raises(Refused, match="acted on already"):
            act()
    with pytest.raises(Refused, match="acted on already: it is an operation, done"):
        app.preview(preview.token)


def test_a_preview_of_which_the_end_is_missing(worked: Ledger, app: App) -> None:
    with worked.database.write() as tx:
        operations.create(tx, 5, "{}", NOW)
    with pytest.raises(OperationNotFound, match="never completed"):
        app.preview(ids.to_text(5))
    assert app.operations == []
