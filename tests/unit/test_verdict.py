"""Exceptions in the ledger's words: what they mean, and their text, bounded and masked."""

from __future__ import annotations

import dataclasses
import enum
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import failbetter
from failbetter import Discard, Fail, Release, Retry
from failbetter.errors import AttemptLost, Cancelled, EffectUncertain, Interrupted, TimedOut
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.states import Cause
from failbetter.limits import KEY_LENGTH
from failbetter.task import Options
from failbetter.worker.verdict import (
    DEFAULT_RELEASE,
    MAX_CAUSES,
    MAX_FRAMES,
    MAX_MESSAGE,
    MAX_TRACEBACK,
    as_failure,
    describe,
    judge,
    secret_texts,
    type_name,
)


def options(**given: Any) -> Options:
    return Options(policy=Policy(), **given)


def caught(raiser: Callable[[], Any]) -> BaseException:
    try:
        raiser()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# -- what it means


class Base(Exception):
    pass


class Middle(Base):
    pass


class Leaf(Middle):
    pass


@pytest.mark.parametrize(
    ("error", "given", "verdict"),
    [
        (ValueError(), {}, "retry"),
        (SystemExit(3), {}, "fail"),
        (KeyboardInterrupt(), {}, "fail"),
        (GeneratorExit(), {}, "fail"),
        (SystemExit(3), {"retry_on": (BaseException,)}, "retry"),
        (ValueError(), {"retry_on": (KeyError,)}, "fail"),
        (ValueError(), {"fail_on": (ValueError,)}, "fail"),
        (ValueError(), {"discard_on": (ValueError,)}, "discard"),
        (Leaf(), {"fail_on": (Middle,)}, "fail"),
        # The most specific type wins, whatever the option.
        (Leaf(), {"retry_on": (Leaf,), "fail_on": (Middle,), "discard_on": (Base,)}, "retry"),
        (Leaf(), {"retry_on": (Base,), "fail_on": (Leaf,), "discard_on": (Middle,)}, "fail"),
        (Leaf(), {"retry_on": (Middle,), "fail_on": (Base,), "discard_on": (Leaf,)}, "discard"),
        (Middle(), {"retry_on": (Exception,), "fail_on": (Leaf,)}, "retry"),
        # Named twice: what ends more gently.
        (Base(), {"retry_on": (Base,), "fail_on": (Base,), "discard_on": (Base,)}, "discard"),
        (Base(), {"retry_on": (Base,), "fail_on": (Base,)}, "fail"),
        (ExceptionGroup("g", [ValueError()]), {}, "retry"),
        (ExceptionGroup("g", [ValueError()]), {"fail_on": (ValueError,)}, "retry"),
    ],
)
def test_verdict(error: BaseException, given: dict[str, Any], verdict: str) -> None:
    judged = judge(error, options(**given), 1)
    assert (judged.cause, judged.verdict) == (Cause.RAISED, verdict)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Fail("no"), Cause.FAILED_BY_TASK),
        (Discard("done"), Cause.DISCARDED_BY_TASK),
        (Release(5), Cause.RELEASED),
        (Retry(5), Cause.RAISED),
        (TimedOut(), Cause.TIMED_OUT),
        (Interrupted(), Cause.INTERRUPTED),
        (Cancelled(), Cause.CANCELLED),
    ],
)
def test_what_was_said_or_done(error: BaseException, cause: Cause) -> None:
    # `fail_on` speaks of errors; what was said is none.
    assert judge(error, options(fail_on=(BaseException,)), 1).cause is cause


@pytest.mark.parametrize("error", [AttemptLost("lost"), EffectUncertain("doubt")])
def test_what_no_further_attempt_can_mend(error: Exception) -> None:
    judged = judge(error, options(), 1)
    assert (judged.cause, judged.verdict) == (Cause.RAISED, "fail")


class Busy(Exception):
    retry_after = 30


class Rude(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("no")


def test_retry_after_is_a_lower_bound_when_the_error_is_retried() -> None:
    judged = judge(Busy(), options(), 1)
    assert (judged.verdict, judged.delay, judged.at_least) == ("retry", 30, True)
    judged = judge(Busy(), options(fail_on=(Busy,)), 1)
    assert (judged.verdict, judged.delay) == ("fail", None)


@pytest.mark.parametrize(
    ("raiser", "delay"),
    [
        (lambda: Release(5), 5),
        (lambda: Release("2m"), 120),
        (lambda: Release(0), 0),
        (lambda: Release(Busy()), 30),
        (lambda: Release(ValueError()), DEFAULT_RELEASE),
        (lambda: Release(), DEFAULT_RELEASE),
    ],
)
def test_how_long_a_release_waits(raiser: Callable[[], Release], delay: float) -> None:
    assert judge(raiser(), options(), 1).delay == delay


def test_a_release_asks_what_it_was_raised_from() -> None:
    def explicit() -> None:
        raise Release from Busy()

    def implicit() -> None:
        try:
            raise Busy
        except Busy:
            raise Release  # noqa: B904  # the context is what is tested

    def other() -> None:
        raise Release from ValueError()

    assert judge(caught(explicit), options(), 1).delay == 30
    assert judge(caught(implicit), options(), 1).delay == 30
    assert judge(caught(other), options(), 1).delay == DEFAULT_RELEASE


def test_retry_says_its_own_delay_or_leaves_it_to_the_backoff() -> None:
    assert judge(Retry("1m"), options(), 1).delay == 60
    assert not judge(Retry("1m"), options(), 1).at_least
    assert judge(Retry(), options(), 1).delay is None


def test_a_callable_backoff_is_asked_in_the_child() -> None:
    asked: list[int] = []

    def delays(attempt: int) -> str:
        asked.append(attempt)
        return f"{attempt * 10}s"

    own = options(delays=delays)
    assert judge(ValueError(), own, 3).delay == 30
    assert judge(Retry(), own, 4).delay == 40
    assert judge(TimedOut(), own, 5).delay == 50
    assert asked == [3, 4, 5]
    # Not asked where it is not needed.
    assert judge(Retry(7), own, 1).delay == 7
    assert judge(Busy(), own, 1).delay == 30
    judge(SystemExit(), own, 1)
    assert asked == [3, 4, 5]


@pytest.mark.parametrize("value", ["soon", -1, None, object(), float("nan")])
def test_a_backoff_that_makes_no_sense_is_an_error_of_the_task(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        judge(ValueError(), options(delays=lambda attempt: value), 1)


def test_what_cannot_be_waited_is_an_error_of_the_body() -> None:
    for error in (Release("soon"), Release(-1), Retry("soon"), Retry(-1)):
        with pytest.raises(ValueError):
            judge(error, options(), 1)


def test_an_error_that_raises_when_asked_how_long() -> None:
    with pytest.raises(RuntimeError):
        judge(Rude(), options(), 1)


# -- its text


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Nested(Exception):
    class Inner(Exception):
        pass


def test_its_type_as_a_traceback_prints_it() -> None:
    for error in (
        ValueError("x"),
        Nested.Inner("x"),
        msgspec.ValidationError("x"),
        OSError(2, "x"),
    ):
        printed = traceback.format_exception_only(type(error), error)[-1]
        assert printed.startswith(f"{type_name(type(error))}: ")


def test_ours_are_named_as_users_import_them() -> None:
    assert type_name(Fail) == "failbetter.Fail"
    assert type_name(failbetter.EffectUncertain) == "failbetter.EffectUncertain"


@pytest.mark.parametrize("kind", [Hostile, Deadly, NotText])
def test_a_hostile_str_ends_nothing(kind: type[Exception]) -> None:
    def body() -> None:
        raise kind

    described = describe(caught(body), "t", [])
    assert described.type.endswith(kind.__name__)
    assert "cannot be shown" in described.message
    assert described.traceback
    assert described.fingerprint


def test_what_was_said_keeps_its_message() -> None:
    assert describe(Fail("not an image"), "t", []).message == "not an image"
    assert describe(Discard(""), "t", []).message == ""
    assert describe(Fail(ValueError("x")), "t", []).message == "x"  # type: ignore[arg-type]


class Slow(TimeoutError):
    pass


def test_what_its_type_derives_from() -> None:
    described = describe(Slow("x"), "t", [])
    assert described.bases == ("TimeoutError", "OSError", "Exception", "BaseException")
    long = type("X" * 300, (Nested.Inner, LookupError), {})
    named = f"{__name__}.Nested.Inner"
    assert describe(long("x"), "t", []).bases == (
        named, "LookupError", "Exception", "BaseException"
    )  # fmt: skip
    told = describe(type("Sub", (long,), {})("x"), "t", []).bases[0]
    assert told == f"{__name__}.{'X' * 300}"[:KEY_LENGTH]


def test_the_whole_chain_is_in_the_traceback() -> None:
    def body() -> None:
        try:
            try:
                _ = {}["key"]
            except KeyError as error:
                raise ValueError("the cause") from error
        except ValueError:
            raise OSError("the end")  # noqa: B904  # the context is what is tested

    described = describe(caught(body), "t", [])
    for part in ("KeyError", "ValueError: the cause", "OSError: the end", "direct cause", __file__):
        assert part in described.traceback
    assert described.type == "OSError"
    assert described.message == "the end"


def test_a_group_shows_its_members_and_notes_are_kept() -> None:
    def body() -> None:
        error = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        error.add_note("while syncing")
        raise error

    text = describe(caught(body), "t", []).traceback
    for part in ("several", "ValueError: one", "KeyError: 'two'", "while syncing"):
        assert part in text


def test_a_chain_that_bites_its_tail() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert "one" in describe(one, "t", []).traceback


def test_deep_recursion() -> None:
    def body() -> None:
        body()

    described = describe(caught(body), "t", [])
    assert described.type == "RecursionError"
    assert len(described.traceback) <= MAX_TRACEBACK + 100


def test_huge_messages_are_cut() -> None:
    described = describe(ValueError("x" * 5_000_000), "t", [])
    assert len(described.message) == MAX_MESSAGE
    assert len(described.traceback) <= MAX_TRACEBACK + 100
    assert "characters left out" in described.traceback
    assert described.traceback.startswith("ValueError")


def test_what_no_database_can_keep_is_replaced() -> None:
    described = describe(ValueError("a\ud800b\0c"), "t", [])
    for text in (described.message, described.traceback):
        text.encode()
        assert "\0" not in text
    assert described.message == "a?b\\0c"


def test_a_very_long_type_name_is_cut() -> None:
    kind = type("X" * 500, (Exception,), {})
    assert len(describe(kind(), "t", []).type) == 190


def test_the_fingerprint_is_the_causes_not_the_messages() -> None:
    def body(text: str) -> None:
        raise ValueError(text)

    def other() -> None:
        raise ValueError("1")

    one, two = (describe(caught(lambda text=text: body(text)), "t", []) for text in "12")  # type: ignore[misc]
    assert one.fingerprint == two.fingerprint
    assert describe(caught(other), "t", []).fingerprint != one.fingerprint


# -- as data, for the fingerprint


def test_its_frames_are_the_users_with_their_lines() -> None:
    def body() -> None:
        raise ValueError("x")

    failure = as_failure(caught(body), "t", [])
    last = failure.frames[-1]
    assert (last.function, last.code) == ("body", 'raise ValueError("x")')
    assert last.module == __name__
    assert last.file == __file__
    assert (failure.task, failure.error_type, failure.message) == ("t", "ValueError", "x")


def test_its_causes_are_root_first() -> None:
    def body() -> None:
        try:
            try:
                _ = {}["key"]
            except KeyError as error:
                raise ValueError("the cause") from error
        except ValueError:
            raise OSError("the end")  # noqa: B904  # the context is what is tested

    failure = as_failure(caught(body), "t", [])
    assert [cause.error_type for cause in failure.causes] == ["KeyError", "ValueError"]
    assert failure.causes[0].frames[-1].code == '_ = {}["key"]'


def test_a_suppressed_context_is_no_cause() -> None:
    def body() -> None:
        try:
            _ = {}["key"]
        except KeyError:
            raise ValueError("new") from None

    assert as_failure(caught(body), "t", []).causes == []


def test_the_first_member_of_a_group_is_its_cause() -> None:
    def body() -> None:
        raise ExceptionGroup("several", [ExceptionGroup("in", [KeyError("a")]), OSError("b")])

    failure = as_failure(caught(body), "t", [])
    assert [cause.error_type for cause in failure.causes] == ["KeyError", "ExceptionGroup"]


def test_a_chain_without_end_is_bounded() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert [cause.message for cause in as_failure(one, "t", []).causes] == ["other"]
    error = last = ValueError("0")
    for number in range(1, 50):
        last.__cause__ = ValueError(str(number))
        last = last.__cause__  # type: ignore[assignment]
    assert [cause.message for cause in as_failure(error, "t", []).causes[:2]] == ["49", "48"]
    assert len(as_failure(error, "t", []).causes) == MAX_CAUSES


def test_deep_frames_are_bounded_and_the_innermost_kept() -> None:
    def body(depth: int = 300) -> None:
        if depth:
            body(depth - 1)
        else:
            raise ValueError

    frames = as_failure(caught(body), "t", []).frames
    assert len(frames) == MAX_FRAMES
    assert frames[-1].code == "raise ValueError"


def test_secrets_are_masked_in_it() -> None:
    def body() -> None:
        try:
            raise KeyError("s3cret")
        except KeyError as error:
            raise ValueError("s3cret") from error

    failure = as_failure(caught(body), "t", ["s3cret"])
    assert "s3cret" not in failure.message + failure.causes[0].message


def test_the_cause_is_what_is_fingerprinted() -> None:
    def lookup(key: str) -> None:
        _ = {}[key]

    def body(key: str, kind: type[Exception]) -> None:
        try:
            lookup(key)
        except KeyError as error:
            raise kind(f"no {key}") from error

    def wrapped(key: str, kind: type[Exception]) -> str:
        return describe(caught(lambda: body(key, kind)), "t", []).fingerprint

    assert wrapped("a", ValueError) == wrapped("b", RuntimeError)
    assert wrapped("a", ValueError) == describe(caught(lambda: lookup("c")), "t", []).fingerprint


# -- masking


class Colour(enum.Enum):
    RED = "secretred"


@dataclasses.dataclass
class Login:
    user: str
    password: str


class Card(msgspec.Struct):
    number: str
    limit: Decimal


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("s3cret", "bad token s3cret!"),
        ("s3cret", "bad token 's3cret'"),
        (
            "pa'ss\\\"w\n",
            f"bad token {'pa' + chr(39) + 'ss' + chr(92) + chr(34) + 'w' + chr(10)!r}",
        ),
        ("a/b+c d=", "GET /?token=a%2Fb%2Bc%20d%3D"),
        ("a/b+c d=", "GET /?token=a%2Fb%2Bc+d%3D"),
        (41111234, "card 41111234 refused"),
        (b"bytes!", "got b'bytes!'"),
        (Decimal("123.45"), "amount 123.45"),
        (datetime(2026, 1, 2, tzinfo=UTC), "born 2026-01-02 00:00:00+00:00"),
        (datetime(2026, 1, 2, tzinfo=UTC), "born 2026-01-02T00:00:00Z"),
        (["first1", {"k": ("second2",)}], "first1 and second2"),
        ({"k": {"third3"}}, "third3"),
        (Login("ann", "hunter2"), "no entry with hunter2"),
        (Login("ann", "hunter2"), f"no entry for {Login('ann', 'hunter2')}"),
        (Card("4111", Decimal("99.5")), "4111 over 99.5"),
        (Colour.RED, "got secretred"),
        (Colour.RED, f"got {Colour.RED}"),
    ],
)
def test_redacted_values_are_masked_in_messages_and_tracebacks(value: Any, text: str) -> None:
    def body() -> None:
        raise ValueError(text)

    secrets = secret_texts({"token": value, "path": "cat.png"}, ("token",))
    described = describe(caught(body), "t", secrets)
    hidden = [found for found in secrets if found in described.message + described.traceback]
    assert not hidden
    assert "***" in described.message
    assert described.message != text


def test_what_was_said_is_masked_too() -> None:
    assert describe(Fail("no s3cret please"), "t", ["s3cret"]).message == "no *** please"


def test_causes_are_masked_too() -> None:
    def body() -> None:
        try:
            raise KeyError("s3cret")
        except KeyError as error:
            raise ValueError("clean") from error

    assert "s3cret" not in describe(caught(body), "t", ["s3cret"]).traceback


def test_a_secret_at_the_cut_is_masked_first() -> None:
    text = "x" * (MAX_MESSAGE - 3) + "s3cret"
    assert describe(ValueError(text), "t", ["s3cret"]).message == "x" * (MAX_MESSAGE - 3) + "***"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    secrets = secret_texts({"a": ["token", "token-long"]}, ("a",))
    assert describe(ValueError("my token-long"), "t", secrets).message == "my ***"


def test_what_is_not_redacted_or_too_short_stays() -> None:
    assert secret_texts({"a": "hello", "b": "world"}, ("a", "none")) == ["hello"]
    assert secret_texts({"a": ["", "x", "ab", None, True, 5]}, ("a",)) == []


def test_a_value_without_a_text() -> None:
    assert secret_texts({"a": [Mute(), "plain"]}, ("a",)) == ["plain"]


@given(st.text(min_size=3, max_size=30), st.text(max_size=50), st.text(max_size=50))
def test_no_secret_comes_through(secret: str, before: str, after: str) -> None:
    secrets = secret_texts({"a": secret}, ("a",))
    message = describe(ValueError(before + secret + after), "t", secrets).message
    rest = message.replace("***", "")
    assert secret not in rest or secret in before + after or secret in "***"


@given(st.text(), st.lists(st.text(max_size=5), max_size=3))
def test_it_never_raises(text: str, secrets: list[str]) -> None:
    described = describe(ValueError(text), "t", [secret for secret in secrets if secret])
    described.message.encode()
    described.traceback.encode()
