"""Effects that an earlier attempt left in doubt, put before their task's `verify`.

Before the body runs again each doubt is settled, or the job ends `failed(uncertain)` for a person
to settle. What `verify` raises counts as raised by the body: it is asked again later.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from failbetter.doubt import Doubt, Happened
from failbetter.errors import EffectUncertain
from failbetter.resume import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from failbetter.running import RunningJob

    Verify: TypeAlias = Callable[..., object]


def settle(running: RunningJob, verify: Verify, args: tuple[Any, ...], kwargs: Any) -> None:
    """Settle all doubts. Raises EffectUncertain, and whatever `verify` raises."""
    for doubt in running.doubts():
        running.settle(doubt, _answer(doubt, verify(doubt, *args, **kwargs)))


async def asettle(running: RunningJob, verify: Verify, args: tuple[Any, ...], kwargs: Any) -> None:
    """`settle` before an async body; `verify` may be async, too."""
    for doubt in await to_its_end(running.doubts):
        told = verify(doubt, *args, **kwargs)
        if inspect.isawaitable(told):
            told = await told
        await to_its_end(running.settle, doubt, _answer(doubt, told))


def _answer(doubt: Doubt, told: object) -> Happened | None:
    """What is told of the effect: that it happened, or (None) that it did not."""
    if isinstance(told, Happened):
        return told
    if told is True:
        return Happened()
    if told is False:
        return None
    if told is None:
        raise EffectUncertain(
            f"the task's verify does not know whether the effect {doubt.name!r} happened, which an"
            " earlier attempt began; the job ends failed(uncertain) for a person to settle"
        )
    if inspect.iscoroutine(told):
        told.close()
    raise TypeError(
        f"verify returned a {type(told).__name__} for the effect {doubt.name!r}; it returns True,"
        " Happened(result), False, or None when nobody knows"
    )
