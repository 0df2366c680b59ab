"""Arguments: checked at enqueue, restored by annotation, refused with the argument's name."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from failbetter.errors import ConfigurationError, PayloadTooLarge
from failbetter.payload import Arguments

LIMIT = 1_000_000
T = TypeVar("T")


def codec(function: Callable[..., Any], limit: int = LIMIT) -> Arguments:
    return Arguments(function, "work", limit)


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns when it is called with the arguments as restored."""
    arguments = codec(function)
    restored, named = arguments.decode(arguments.encode(args, kwargs))
    return function(*restored, **named)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    labels: list[str] = dataclasses.field(default_factory=list)


class Card(msgspec.Struct):
    number: str
    limit: Decimal
    at: datetime


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    bones: int


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    size: int


UserId = NewType("UserId", int)
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Box(msgspec.Struct, Generic[T]):
    item: T


VALUES: list[tuple[Any, Any]] = [
    (int, 2**63),
    (int, -(2**63)),
    (int, 10**200),
    (float, 0.1),
    (str, "naïve ☃ \x00 \n"),
    (bool, True),
    (None, None),
    (bytes, b"\x00\xff"),
    (datetime, datetime(2026, 11, 22, 3, 28, 36, 123456, tzinfo=UTC)),
    (datetime, datetime(2026, 11, 22, 3, 28, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (datetime, datetime(2026, 11, 22, 3, 28)),  # noqa: DTZ001  # naive stays naive
    (date, date(2026, 11, 22)),
    (time, time(3, 28, 36)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (timedelta, -timedelta(seconds=5)),
    (uuid.UUID, uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (Decimal, Decimal("0.10")),
    (Decimal, Decimal("1E+50")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Word, Word.YES),
    (Point, Point(1, 2, ["a"])),
    (Card, Card("4111", Decimal("9.99"), datetime(2026, 1, 1, tzinfo=UTC))),
    (Cat | Dog, Dog(3)),
    (Pair, Pair(1, "r")),
    (Options, {"size": 3}),
    (UserId, UserId(7)),
    (Positive, 3),
    (Box[Point], Box(Point(1))),
    (list[Point], [Point(1), Point(2)]),
    (dict[str, Decimal], {"a": Decimal("1.5")}),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=5): 5}),
    (tuple[int, str], (1, "a")),
    (tuple[datetime, ...], (datetime(2026, 1, 1, tzinfo=UTC),)),
    (set[int], {1, 2}),
    (frozenset[Colour], frozenset({Colour.RED})),
    (Sequence[int], [1, 2]),
    (int | None, None),
    (datetime | None, datetime(2026, 1, 1, tzinfo=UTC)),
    (int | str, "5"),
    (Literal["a", 1], "a"),
    (list[int | None] | None, [1, None]),
    (list, [1, "a", None, {"b": [2.5]}]),
    (dict, {"a": {"b": [1]}}),
    (Any, 10**200),
    (Any, {"a": [1, 2.5, None, True, "x"]}),
    (object, 5),
]


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=lambda it: type(it).__name__)
def test_round_trip_by_annotation(hint: Any, value: Any) -> None:
    def work(value):  # type: ignore[no-untyped-def]
        return value

    work.__annotations__ = {"value": hint}
    back = there_and_back(work, value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, datetime):
        assert back.utcoffset() == value.utcoffset()


# -- every kind of parameter


def kinds(a, /, b, c=3, *rest: int, d, e=5, **more: str):  # type: ignore[no-untyped-def]
    return a, b, c, rest, d, e, more


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, 2), {"d": 4}),
        ((1,), {"b": 2, "d": 4}),
        ((1, 2, 9), {"d": 4, "e": 6}),
        ((1, 2, 9, 10, 11), {"d": 4}),
        ((1, 2), {"d": 4, "x": "y", "z": "z"}),
        ((1,), {"b": 2, "d": 4, "a": "taken by **more"}),
        ((1,), {"b": 2, "d": 4, "rest": "no clash", "more": "neither"}),
    ],
)
def test_every_kind_of_parameter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert there_and_back(kinds, *args, **kwargs) == kinds(*args, **kwargs)


def test_defaults_are_those_of_the_code_that_runs_the_job() -> None:
    def then(a: int, b: int = 1) -> tuple[int, int]:
        return a, b

    def now(a: int, b: int = 2, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    stored = codec(then).encode((7,), {})
    assert stored == '{"a":7}'
    args, kwargs = codec(now).decode(stored)
    assert now(*args, **kwargs) == (7, 2, 3)


def test_a_default_in_the_middle_is_left_to_the_code() -> None:
    def work(a: int = 1, b: int = 2, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    assert there_and_back(work, c=9) == (1, 2, 9)
    assert there_and_back(work, 5, c=9) == (5, 2, 9)


def test_no_parameters() -> None:
    def work() -> str:
        return "ran"

    assert there_and_back(work) == "ran"
    assert codec(work).encode((), {}) == "{}"


def test_names_that_look_like_ours() -> None:
    def work(self: int, tag: str, _x: int, json: int, class_: int) -> tuple[object, ...]:
        return self, tag, _x, json, class_

    assert there_and_back(work, 1, "t", 2, 3, class_=4) == (1, "t", 2, 3, 4)


def test_what_is_stored_is_readable() -> None:
    def work(path: str, when: datetime, *more: int, **named: Colour) -> None: ...

    when = datetime(2026, 1, 2, tzinfo=UTC)
    stored = codec(work).encode(("a.png", when, 1, 2), {"paint": Colour.RED})
    assert msgspec.json.decode(stored) == {
        "path": "a.png",
        "when": "2026-01-02T00:00:00Z",
        "more": [1, 2],
        "named": {"paint": "red"},
    }


# -- refused, by name


class Opaque:
    pass


def typed(path: str, count: int = 1, *, when: datetime | None = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "path"),
        (("a",), {"nope": 1}, "nope"),
        (("a", 1, 2), {}, "positional"),
        (("a",), {"path": "b"}, "path"),
        ((5,), {}, "argument 'path': expected `str`, got `int`"),
        (("a", "5"), {}, "argument 'count': expected `int`, got `str`"),
        (("a", True), {}, "argument 'count'"),
        (("a", 1.5), {}, "argument 'count'"),
        (("a",), {"when": "tomorrow"}, "argument 'when'"),
        (("a",), {"when": 5}, "argument 'when'"),
        ((None,), {}, "argument 'path'"),
        ((Opaque(),), {}, "argument 'path'"),
        (("a", 10**5000), {}, "argument 'count'"),
        (("\ud800",), {}, "argument 'path'"),
    ],
)
def test_what_does_not_fit_is_a_type_error_that_names_it(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match="work") as caught:
        codec(typed).encode(args, kwargs)
    assert says in str(caught.value)
    assert str(caught.value).startswith("work(): ")


def test_the_place_inside_an_argument_is_named() -> None:
    def work(points: list[Point]) -> None: ...

    with pytest.raises(TypeError, match=r"argument 'points'.*points\[1\]\.x"):
        codec(work).encode(([Point(1), Point("a")],), {})  # type: ignore[arg-type]


def test_a_bad_one_among_many() -> None:
    def work(*numbers: int, **named: int) -> None: ...

    with pytest.raises(TypeError, match=r"argument 'numbers'.*numbers\[2\]"):
        codec(work).encode((1, 2, "3"), {})
    with pytest.raises(TypeError, match="argument 'named'"):
        codec(work).encode((), {"a": 1, "b": "2"})


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal(1),
        uuid.UUID(int=1),
        b"x",
        {1, 2},
        Point(1),
        Card("4111", Decimal(1), datetime(2026, 1, 1, tzinfo=UTC)),
        Colour.RED,
        Level.LOW,
        Opaque(),
        len,
        Path("/x"),
        1j,
        float("nan"),
        float("inf"),
        {1: "a"},
        {"a": [datetime(2026, 1, 1, tzinfo=UTC)]},
        [{"b": {"c": {1}}}],
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("where", ["bare", "any", "inside", "rest"])
def test_without_an_annotation_only_what_json_has(value: Any, where: str) -> None:
    def bare(value): ...  # type: ignore[no-untyped-def]
    def any(value: Any) -> None: ...
    def inside(value: dict[str, Any]) -> None: ...
    def rest(*value): ...  # type: ignore[no-untyped-def]

    given = {"k": value} if where == "inside" else value
    with pytest.raises(TypeError, match="argument 'value'"):
        codec(locals()[where]).encode((given,), {})


def test_recursion_without_end_is_refused() -> None:
    def work(value): ...  # type: ignore[no-untyped-def]

    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((TypeError, RecursionError)):
        codec(work).encode((loop,), {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("hint", [float, list[float], float | None, dict[str, float | None]])
def test_a_number_that_json_has_not_is_never_silently_another(value: float, hint: Any) -> None:
    def work(value):  # type: ignore[no-untyped-def]
        return value

    work.__annotations__ = {"value": hint}
    wrapped: Any = value
    if hint == list[float]:
        wrapped = [value]
    elif hint not in (float, float | None):
        wrapped = {"k": value}
    with pytest.raises(TypeError, match="argument 'value'"):
        codec(work).encode((wrapped,), {})


def test_the_size_limit() -> None:
    def work(text: str) -> None: ...

    small = codec(work, limit=20)
    assert small.encode(("x" * 9,), {}) == '{"text":"' + "x" * 9 + '"}'
    with pytest.raises(PayloadTooLarge, match=r"take 21 bytes as JSON, the limit is 20"):
        small.encode(("x" * 10,), {})
    with pytest.raises(PayloadTooLarge):
        small.encode(("☃" * 4,), {})  # three bytes each


# -- restored


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ("{}", "'path' is missing"),
        ('{"path":5}', "str"),
        ('{"path":"a","count":"b"}', "int"),
        ("[]", "object"),
        ("", "truncated"),
        ('{"path":"a"', "truncated"),
    ],
)
def test_what_does_not_fit_any_more_is_a_value_error(stored: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        codec(typed).decode(stored)


def test_an_argument_that_the_code_no_longer_takes_is_not_dropped() -> None:
    """Running without it would be running something else."""
    with pytest.raises(ValueError, match="gone"):
        codec(typed).decode('{"path":"a","gone":1}')


def test_bytes_and_raw_are_read_too() -> None:
    for raw in (b'{"path":"a"}', msgspec.Raw(b'{"path":"a"}')):
        assert codec(typed).decode(raw) == ((), {"path": "a"}) or codec(typed).decode(raw) == (
            ("a",),
            {},
        )


# -- tasks that cannot be


def test_an_annotation_that_names_nothing() -> None:
    def work(value): ...  # type: ignore[no-untyped-def]

    work.__annotations__ = {"value": "Nowhere"}
    with pytest.raises(ConfigurationError, match="Nowhere"):
        codec(work).encode((1,), {})


def test_a_type_that_json_cannot_tell_apart() -> None:
    def work(value: Point | Card) -> None: ...

    with pytest.raises(ConfigurationError, match="task work"):
        codec(work).encode((Point(1),), {})


def test_a_class_of_ones_own_is_refused_when_given() -> None:
    def work(value: Opaque) -> None: ...

    with pytest.raises((TypeError, ConfigurationError), match="work"):
        codec(work).encode((Opaque(),), {})


# -- any JSON, any type

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    json_values,
    st.lists(json_values, max_size=3),
    st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), json_values, max_size=3),
)
def test_any_json_survives_unannotated(one: Any, rest: list[Any], named: dict[str, Any]) -> None:
    def work(first, /, *others, **more):  # type: ignore[no-untyped-def]
        return first, others, more

    assert there_and_back(work, one, *rest, **named) == (one, tuple(rest), named)


moments = st.datetimes(timezones=st.none() | st.just(UTC))


@given(
    moments,
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(Colour),
    st.builds(Point, st.integers(-(2**63), 2**63), st.integers(0, 9), st.lists(st.text("ab"))),
    st.dictionaries(st.integers(-(2**63), 2**63), st.binary(max_size=9), max_size=3),
)
def test_any_typed_value_survives(
    at: datetime,
    wait: timedelta,
    ident: uuid.UUID,
    price: Decimal,
    colour: Colour,
    point: Point,
    table: dict[int, bytes],
) -> None:
    def work(
        at: datetime,
        wait: timedelta,
        ident: uuid.UUID,
        price: Decimal,
        colour: Colour,
        point: Point,
        table: dict[int, bytes],
    ) -> tuple[object, ...]:
        return at, wait, ident, price, colour, point, table

    given = (at, wait, ident, price, colour, point, table)
    assert there_and_back(work, *given) == given
