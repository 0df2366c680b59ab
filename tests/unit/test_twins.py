"""Async twins: made by one rule, the same call in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

import failbetter
from failbetter.twins import twin


class Thing:
    def greet(self, name: str, *, loud: bool = False) -> str:
        """Say hello."""
        self.thread = threading.current_thread()
        if name == "nobody":
            raise LookupError(name)
        return name.upper() if loud else name

    agreet = twin(greet)


def test_the_twin_does_the_same_in_another_thread() -> None:
    thing = Thing()
    assert asyncio.run(thing.agreet("ann", loud=True)) == "ANN"
    assert thing.thread is not threading.current_thread()


def test_errors_come_through() -> None:
    with pytest.raises(LookupError):
        asyncio.run(Thing().agreet("nobody"))


def test_the_twin_says_what_it_is() -> None:
    assert Thing.agreet.__name__ == "agreet"
    assert Thing.agreet.__qualname__ == "Thing.agreet"
    assert Thing.agreet.__doc__ is not None
    assert "greet" in Thing.agreet.__doc__
    assert inspect.iscoroutinefunction(Thing.agreet)


BLOCKING = {
    failbetter.App: {"health"},
    failbetter.Task: {"enqueue", "enqueue_many"},
    failbetter.Call: {"enqueue", "enqueue_many"},
    failbetter.Job: {"refresh", "result", "cancel", "retry", "discard"},
    failbetter.RunningJob: {"once"},
}


@pytest.mark.parametrize("kind", BLOCKING, ids=lambda kind: kind.__name__)
def test_every_blocking_verb_has_a_twin_of_the_same_parameters(kind: type) -> None:
    for name in BLOCKING[kind]:
        plain, other = getattr(kind, name), getattr(kind, f"a{name}")
        assert inspect.iscoroutinefunction(other), name
        assert list(inspect.signature(plain).parameters) == list(
            inspect.signature(other).parameters
        ), name
