"""What holds of the fingerprint of any failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.corpus.measure import load

from failbetter import Failure, Frame, fingerprint

CORPUS = [one.failure for one in load("shop.jsonl", "press.jsonl", "lab.jsonl")]

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
numbers = st.integers(0, 10**12)
idents = st.one_of(
    numbers.map(str),
    st.uuids().map(str),
    numbers.map(hex),
    st.tuples(names, numbers).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.tuples(names, names).map(lambda pair: f"/srv/{pair[0]}/{pair[1]}.csv"),
    st.tuples(names, names).map(lambda pair: f"{pair[0]}@{pair[1]}.example"),
    st.tuples(names, numbers).map(lambda pair: f"https://{pair[0]}.example:{pair[1] % 65536}/x"),
    st.ip_addresses().map(lambda address: f"{address}:5432"),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.text("abcdef xyz.,;", max_size=20).map(lambda text: f"'{text}'"),
)
prefixes = st.sampled_from(
    ["/app", "/home/ann/work/shop", "/srv/shop/releases/20240611", "C:\\work", "/opt/shop/current",
     "/usr/src/app", "/root/.shiv/shop_8c1f/x", "", "."]
)  # fmt: skip
frames = st.builds(
    Frame,
    file=st.text(max_size=40),
    function=st.text(max_size=20),
    line=st.integers(),
    code=st.text(max_size=60),
    module=st.none() | st.text(max_size=20),
)
failures = st.recursive(
    st.builds(Failure, task=st.text(), error_type=st.text(), message=st.text(),
              frames=st.lists(frames, max_size=5)),
    lambda inner: st.builds(Failure, task=st.text(), error_type=st.text(), message=st.text(),
                            frames=st.lists(frames, max_size=5),
                            causes=st.lists(inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@given(failures)
def test_it_never_raises_and_is_pure(failure: Failure) -> None:
    first = fingerprint(failure)
    assert first == fingerprint(failure)
    assert len(first) == 18
    assert first.startswith("2-")


@given(st.sampled_from(CORPUS), st.data())
def test_line_numbers_take_no_part(failure: Failure, data: st.DataObject) -> None:
    def shifted(one: Failure) -> Failure:
        moved = [replace(frame, line=data.draw(numbers)) for frame in one.frames]
        return replace(one, frames=moved, causes=[shifted(cause) for cause in one.causes])

    assert fingerprint(shifted(failure)) == fingerprint(failure)


@given(idents, idents, st.booleans())
def test_ids_hosts_paths_and_times_take_no_part(one: str, other: str, own_raises: bool) -> None:
    own = Frame("/app/shop/orders.py", "charge", 1, "raise Error(text)")
    library = Frame("/usr/lib/python3.11/json/decoder.py", "decode")

    def of(data: str) -> str:
        frames = [own] if own_raises else [own, library]
        message = f"the order {data} is not known here"
        return fingerprint(Failure(task="t", error_type="E", message=message, frames=frames))

    assert of(one) == of(other)


@given(prefixes, prefixes, st.sampled_from(["shop/orders.py", "shop/io/orders.py", "orders.py"]))
def test_folders_take_no_part(one: str, other: str, file: str) -> None:
    def of(prefix: str) -> str:
        path = f"{prefix}\\{file}".replace("/", "\\") if "\\" in prefix else f"{prefix}/{file}"
        return fingerprint(Failure(task="t", error_type="E", frames=[Frame(path, "charge")]))

    assert of(one) == of(other)


@given(st.sampled_from(CORPUS), st.lists(frames, max_size=4))
def test_who_called_takes_no_part(failure: Failure, callers: list[Frame]) -> None:
    if not any(frame.is_own for frame in failure.frames) or "Recursion" in failure.error_type:
        return
    called = replace(failure, frames=[*callers, *failure.frames])
    assert fingerprint(called) == fingerprint(failure)


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, "'" * 10**6, '"' * 10**6, "<" * 10**6, "1 " * 10**6, "exit " * 10**6,
     "a1" * 10**6, " " * 10**6, "\n" * 10**6, 'File "' * 10**6, "status code: " * 10**6,
     "Command '" * 10**5, "raise " * 10**6, "#" * 10**6, "{" * 10**6, "/" * 10**6, "." * 10**6,
     "\\" * 10**6, "(" * 10**6, "-" * 10**6, "\ud800" * 10**6, "'a'," * 10**6],
)  # fmt: skip
def test_huge_texts_cost_no_more_than_small_ones(text: str) -> None:
    """What runs away takes hours: the run's own time limit ends it."""
    frame = Frame(text, text, 1, text, text)
    inner = Failure(task="t", error_type=text, message=text, frames=[frame])
    remote = Failure(task="t", error_type="x._RemoteTraceback", message=text)
    fingerprint(Failure(task=text, error_type=text, message=text, frames=[frame] * 3,
                        causes=[remote, inner]))  # fmt: skip
