"""A supervisor's end of the line to a child: what was said before an end is heard after it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from failbetter.worker.process import Child
from failbetter.worker.wire import Hello, Reply, encode

HELLO = Hello("sqlite:///jobs.db", 30.0, True, None, None, "v1", ["work"])


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Child, socket.socket]]:
    """A child without a process, and its own end of the line."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)

    def start(child: Child, *_: object) -> None:
        child.stream = ours
        child.pid = 0

    monkeypatch.setattr(Child, "_start", start)
    child = Child(0, "app", 1, "text")
    yield child, theirs
    ours.close()
    theirs.close()


def test_the_last_words_of_a_child_that_takes_no_answer_any_more(
    ends: tuple[Child, socket.socket],
) -> None:
    """As when it asked for something, told its end and was gone: its end is no crash."""
    child, theirs = ends
    theirs.sendall(encode(HELLO) + b"\n")
    theirs.close()
    child.answer(Reply(1, "done", None))  # fails: nobody is there
    assert child.hear() == [HELLO]
    assert child.hear() == []
    assert not child.is_cut_off(1.0)
    assert child.is_cut_off(2.0)


def test_nobody_waits_for_an_answer_to_what_was_posted(ends: tuple[Child, socket.socket]) -> None:
    child, theirs = ends
    theirs.settimeout(5.0)
    child.answer(Reply(0, "done", None))
    child.answer(Reply(1, "done", None))
    assert theirs.recv(1000) == encode(Reply(1, "done", None)) + b"\n"
