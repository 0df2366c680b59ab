"""What an engine says of its own jobs, in the ledger's words (D2)."""

from __future__ import annotations

import pytest

from failbetter import Failure, Frame
from failbetter import fingerprint as mark_of
from failbetter.lifecycle import tracebacks
from failbetter.lifecycle.adopting import (
    Known,
    Sight,
    Step,
    ended_in_celery,
    ended_in_rq,
    lost,
    step,
    task_of,
)
from failbetter.lifecycle.states import Cause, Reason, State

PLAIN = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.11/site-packages/rq/worker.py", line 1430, in perform_job
    rv = job.perform()
         ^^^^^^^^^^^^^
  File "/srv/shop/mail.py", line 12, in send
    connect(host)
    ~~~~~~~^^^^^^
ConnectionError: no route to
mail.example
"""
CHAINED = """Traceback (most recent call last):
  File "/srv/shop/mail.py", line 3, in look_up
    return known[name]
KeyError: 'ann'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/shop/mail.py", line 5, in send
    raise NoSuchUser(name) from error
shop.errors.NoSuchUser: ann
"""
GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "/srv/shop/mail.py", line 9, in send_all
  |     raise ExceptionGroup("some", errors)
  | ExceptionGroup: some (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/srv/shop/mail.py", line 6, in send
    |     connect(host)
    | ConnectionError: refused
    +---------------- 2 ----------------
    | ValueError: no name
    +------------------------------------
"""
UNLOADABLE = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.11/site-packages/rq/job.py", line 1469, in perform
    self._result = self._execute()
  File "/srv/venv/lib/python3.11/site-packages/rq/job.py", line 531, in func
    return import_attribute(self.func_name)
  File "/srv/venv/lib/python3.11/site-packages/rq/utils.py", line 107, in import_attribute
    module = importlib.import_module(module_name)
ModuleNotFoundError: No module named 'shop.mail'
"""


def test_a_traceback_is_read_back_with_its_frames() -> None:
    found = tracebacks.read("shop.mail.send", PLAIN)
    assert found is not None
    assert (found.error_type, found.message) == ("ConnectionError", "no route to\nmail.example")
    assert found.frames[-1] == Frame("/srv/shop/mail.py", "send", 12, "connect(host)")
    assert [frame.is_own for frame in found.frames] == [False, True]


def test_causes_come_first_and_groups_by_their_first_member() -> None:
    chained = tracebacks.read("t", CHAINED)
    assert chained is not None
    assert [one.error_type for one in chained.causes] == ["KeyError"]
    assert chained.error_type == "shop.errors.NoSuchUser"
    group = tracebacks.read("t", GROUP)
    assert group is not None
    assert (group.error_type, group.message) == ("ExceptionGroup", "some (2 sub-exceptions)")
    assert [one.error_type for one in group.causes] == ["ConnectionError"]
    assert group.causes[0].frames == [Frame("/srv/shop/mail.py", "send", 6, "connect(host)")]


def test_a_text_groups_as_the_exception_itself_would() -> None:
    """D3: what RQ kept as text has the fingerprint of the same failure of our own."""
    ours = Failure(
        task="shop.mail.send",
        error_type="ConnectionError",
        message="no route to mail.example",
        frames=[Frame("/app/shop/mail.py", "send", 80, "connect(host)", "shop.mail")],
    )
    theirs = tracebacks.read("shop.mail.send", PLAIN)
    assert theirs is not None
    assert mark_of(theirs) == mark_of(ours)


@pytest.mark.parametrize("text", ["", "no traceback", "Traceback (most recent call last):\n", "\0"])
def test_what_is_no_traceback_is_none(text: str) -> None:
    assert tracebacks.read("t", text) is None


@pytest.mark.parametrize(
    ("text", "cause", "reason", "evidence"),
    [
        (PLAIN, Cause.RAISED, Reason.ERROR, {}),
        (UNLOADABLE, Cause.UNLOADABLE, Reason.UNLOADABLE, {}),
        (
            "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9); ",
            Cause.CRASHED,
            Reason.CRASHED,
            {"signal": 9},
        ),
        (
            "Work-horse terminated unexpectedly; waitpid returned 256; ",
            Cause.CRASHED,
            Reason.CRASHED,
            {"exit_code": 1},
        ),
        (
            "Moved to FailedJobRegistry, due to AbandonedJobError, at 2026-01-01",
            Cause.LOST,
            Reason.LOST,
            {},
        ),
        ("Job was stuck in intermediate queue.", Cause.LOST, Reason.LOST, {}),
        ("", Cause.RAISED, Reason.ERROR, {}),
        (
            PLAIN.replace("ConnectionError", "rq.timeouts.JobTimeoutException"),
            Cause.TIMED_OUT,
            Reason.TIMEOUT,
            {},
        ),
    ],
)
def test_what_rq_keeps_of_an_end_is_called_by_its_cause(
    text: str, cause: Cause, reason: Reason, evidence: dict[str, int]
) -> None:
    found = ended_in_rq("shop.mail.send", text)
    assert (found.cause, found.reason, found.evidence) == (cause, reason, evidence)


@pytest.mark.parametrize(
    ("kind", "text", "cause", "evidence"),
    [
        ("ConnectionError", PLAIN, Cause.RAISED, {}),
        (
            "billiard.exceptions.WorkerLostError",
            "Worker exited prematurely: signal 9 (SIGKILL) Job: 0.",
            Cause.CRASHED,
            {"signal": 9},
        ),
        ("billiard.TimeLimitExceeded", "TimeLimitExceeded(1,)", Cause.TIMED_OUT, {}),
        ("billiard.exceptions.Terminated", "15", Cause.CANCELLED, {}),
    ],
)
def test_what_celery_tells_of_an_end_is_called_by_its_cause(
    kind: str, text: str, cause: Cause, evidence: dict[str, int]
) -> None:
    found = ended_in_celery("shop.mail.send", kind, text)
    assert (found.cause, found.evidence) == (cause, evidence)


def test_a_retry_of_celery_is_called_by_what_it_is_for() -> None:
    text = CHAINED.replace("shop.errors.NoSuchUser: ann", "celery.exceptions.Retry: Retry in 1s")
    found = ended_in_celery("t", "celery.exceptions.Retry", text)
    assert found.trouble.failure.error_type == "KeyError"


def test_a_task_is_what_the_description_calls() -> None:
    assert task_of("shop.mail.send('ann', retry=True)", "mail") == "shop.mail.send"
    assert task_of("mail to ann (urgent)", "mail") == "job in mail"


def seen(**given: object) -> Sight:
    """A job that failed, unless said otherwise."""
    fields: dict[str, object] = {
        "name": "a", "task": "t", "queue": "q", "mark": "2", "state": State.FAILED,
        "reason": Reason.ERROR, "cause": Cause.RAISED, "run": "r", "created_at": 1, "run_at": 1,
        **given,
    }  # fmt: skip
    return Sight(**fields)  # type: ignore[arg-type]


WAITS = {"state": State.PENDING, "reason": None, "cause": None, "run": None}


@pytest.mark.parametrize(
    ("known", "sight", "expected"),
    [
        # From its first trouble on, and not before.
        (None, seen(), Step(anew=True, records=True)),
        (None, seen(**WAITS), None),
        (None, seen(state=State.SUCCEEDED, cause=Cause.RETURNED), None),
        # Seen again: nothing.
        (Known(State.FAILED, 1, "2", "r"), seen(), None),
        # The same end told of in other words is no second attempt.
        (Known(State.FAILED, 1, "1", "r"), seen(), Step(moves=False)),
        (Known(State.FAILED, 1, "1", "q"), seen(), Step(records=True)),
        # Retried and not put back yet: its old end is no news.
        (Known(State.PENDING, 1, "1", "r", to_send=True), seen(), Step(moves=False)),
        (Known(State.PENDING, 1, "1", "q", to_send=True), seen(), Step(records=True)),
        # Requeued there by somebody else.
        (Known(State.FAILED, 1, "1", "r"), seen(**WAITS), Step()),
        # Its id was given again, or it runs anew after its end.
        (Known(State.FAILED, 0, "1", "q"), seen(), Step(anew=True, records=True)),
        (Known(State.SUCCEEDED, 1, "1", "q"), seen(), Step(anew=True, records=True)),
        # An engine that does not say when it was made: by its id it is the same.
        (Known(State.FAILED, 7, "1", "q"), seen(created_at=None), Step(records=True)),
        (Known(State.SUCCEEDED, 1, "1", "q"), seen(**WAITS), Step(moves=False)),
        # What a person has discarded here stays so, as long as nothing new happens there.
        (Known(State.DISCARDED, 1, "1", "r"), seen(), Step(moves=False)),
    ],
)
def test_how_the_ledger_follows(known: Known | None, sight: Sight, expected: Step | None) -> None:
    assert step(known, sight) == expected


def test_an_execution_is_lost_when_its_worker_is_seen_gone_or_long_silent() -> None:
    def why(**given: object) -> tuple[str, bool] | None:
        fields = {"silent": 1.0, "interval": 30.0, "over": False, "process_gone": None, **given}
        return lost(**fields)  # type: ignore[arg-type]

    assert why() is None
    assert why(silent=50.0) is None
    found = why(silent=51.0)
    assert found is not None
    assert not found[1]
    # A process that is seen to live is only silent.
    assert why(silent=51.0, process_gone=False) is None
    gone = why(process_gone=True)
    assert gone is not None
    assert gone[1]
    assert why(over=True, process_gone=False) is not None
