"""The wire between supervisor and child: messages are cut whole out of any stream of bytes."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from failbetter.worker.wire import (
    MAX_ARGS,
    Ended,
    FromChild,
    Handout,
    Hello,
    Interrupt,
    Lines,
    Reply,
    Request,
    Returned,
    ToChild,
    Unready,
    encode,
    pack_handout,
    unpack_handout,
)

texts = st.text(max_size=30)
maybe = st.none() | texts
ints = st.integers(0, 2**62)
raw = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).map(lambda value: msgspec.Raw(msgspec.json.encode(value)))
from_child = st.one_of(
    st.builds(
        Hello,
        url=texts,
        lease=st.floats(2, 100),
        durable=st.booleans(),
        fleet_folder=maybe,
        code=texts,
        tasks=st.lists(texts, max_size=3),
    ),
    st.builds(Unready, error=texts),
    st.builds(Returned, id=ints, fence=ints, begun_at=ints, ended_at=ints, result=raw, note=maybe),
    st.builds(
        Ended,
        id=ints,
        fence=ints,
        begun_at=st.none() | ints,
        ended_at=ints,
        cause=texts,
        verdict=texts,
        delay=st.none() | st.floats(0, 1e6),
        at_least=st.booleans(),
        uncertain=st.booleans(),
        error_type=maybe,
        error_message=maybe,
        traceback=maybe,
        fingerprint=maybe,
    ),
    st.builds(Request, request=ints, kind=texts, id=ints, fence=ints, name=texts, value=maybe),
)
to_child = st.one_of(
    st.builds(Reply, request=ints, status=texts, value=maybe),
    st.builds(Interrupt, id=ints, fence=ints, why=texts),
)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, cut at the given places."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(from_child, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_whatever_a_child_says_arrives_whole(said: list[object], places: list[int]) -> None:
    stream = b"".join(encode(message) + b"\n" for message in said)
    lines = Lines(FromChild)
    heard = [message for piece in cut(stream, places) for message in lines.feed(piece)]
    # A Raw is a view of its own bytes: compare what is written.
    assert [encode(message) for message in heard] == [encode(message) for message in said]


@given(st.lists(to_child, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_whatever_a_supervisor_says_arrives_whole(said: list[object], places: list[int]) -> None:
    stream = b"".join(encode(message) + b"\n" for message in said)
    lines = Lines(ToChild)
    heard = [message for piece in cut(stream, places) for message in lines.feed(piece)]
    assert heard == said


def test_byte_by_byte() -> None:
    message = Request(7, "intend", 1, 2, "naïve \n effect", '{"a":"\\n"}')
    lines = Lines(FromChild)
    stream = (encode(message) + b"\n") * 3
    heard = []
    for place in range(len(stream)):
        heard += lines.feed(stream[place : place + 1])
    assert heard == [message] * 3


def test_nothing_comes_of_half_a_message() -> None:
    lines = Lines(FromChild)
    assert lines.feed(b"") == []
    assert lines.feed(encode(Unready("x"))) == []
    assert lines.feed(b"\n") == [Unready("x")]


def test_what_came_before_nonsense_still_counts() -> None:
    lines = Lines(FromChild)
    good = encode(Unready("x")) + b"\n"
    assert lines.feed(good) == [Unready("x")]
    assert not lines.spoilt
    assert lines.feed(good + b'["nobody",1]\n' + good) == [Unready("x")]
    assert lines.spoilt


@given(
    st.builds(
        Handout,
        id=ints,
        fence=ints,
        number=ints,
        charged=ints,
        task=texts,
        queue=texts,
        expires_at=st.none() | ints,
    ),
    st.binary(),
)
def test_a_handout_survives(handout: Handout, args: bytes) -> None:
    there, taken = unpack_handout(pack_handout(handout, args))
    assert there == handout
    assert taken == (args or None)


def test_arguments_too_large_for_a_handout_are_asked_for() -> None:
    handout = Handout(1, 1, 1, 1, "task", "queue", None)
    there, taken = unpack_handout(pack_handout(handout, b"x" * (MAX_ARGS + 1)))
    assert there == handout
    assert taken is None
