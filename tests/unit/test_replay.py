"""What there is against running a job again with other arguments (issue 5, item 5)."""

from __future__ import annotations

import pytest

from failbetter.lifecycle.policy import Replay
from failbetter.lifecycle.replay import NEVER_AGAIN, against_editing


@pytest.mark.parametrize(
    ("replay", "done", "in_doubt", "why"),
    [
        ("safe", 0, 0, None),
        ("safe", 2, 1, "2 of 3 effects done"),
        ("safe", 0, 1, "an effect of it is in doubt"),
        ("confirm", 0, 0, "its task asks for it"),
        ("confirm", 1, 0, "1 of 1 effects done"),
    ],
)
def test_what_needs_a_word(replay: Replay, done: int, in_doubt: int, why: str | None) -> None:
    found = against_editing(replay, done, in_doubt, confirmed=False)
    assert found is None if why is None else why in str(found)
    assert against_editing(replay, done, in_doubt, confirmed=True) is None


@pytest.mark.parametrize("confirmed", [False, True])
def test_no_word_makes_up_for_never(confirmed: bool) -> None:
    assert against_editing("never", 0, 0, confirmed=confirmed) == NEVER_AGAIN
