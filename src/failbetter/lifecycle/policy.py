"""A task's policy as data: what a supervisor decides with, kept on each job's row."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from failbetter.lifecycle.backoff import Backoff, Seconds, exponential

DEFAULT_BACKOFF = exponential(5, cap=3600)

Budget = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
OnLost = Literal["retry", "fail"]
Replay = Literal["safe", "confirm", "never"]
OnPartial = Literal["fail", "succeed"]


class Breaking(msgspec.Struct, frozen=True, omit_defaults=True):
    """When work of a dependency is held, and how it is let go of: see failbetter.Breaker."""

    name: str
    failures: Budget
    within: Seconds
    probe_every: Seconds
    rate: float | None = None


class Limiting(msgspec.Struct, frozen=True):
    """How many bodies may begin in which time, of all jobs of a name: see failbetter.RateLimit."""

    name: str
    count: Budget
    per: Seconds


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Budgets and limits; durations in seconds. A default policy is stored as `{}`."""

    max_attempts: Budget = 5
    backoff: Backoff = DEFAULT_BACKOFF
    timeout: Seconds | None = 3600.0
    release_within: Seconds = 86_400.0
    max_crashes: Budget = 3
    max_losses: Budget = 10
    on_lost: OnLost = "retry"
    replay: Replay = "safe"
    redact: tuple[str, ...] = ()
    """Parameters whose values are shown nowhere."""
    on_partial: OnPartial = "fail"
    recover_within: Seconds | None = None
    stalled_after: Seconds | None = None
    verify: bool = False
    """Whether the task has code that tells if an effect in doubt has happened."""
    breaker: Breaking | None = None
    silent: bool = False
    """Whether its jobs' ends are no events: those of hooks and alerts, so that nothing loops."""
    rate_limit: Limiting | None = None

    def to_json(self) -> str:
        """The policy as the row keeps it: only what differs from the defaults."""
        return _encoder.encode(self).decode()


UNREADABLE = Policy(max_attempts=1, max_crashes=1, max_losses=1, on_lost="fail")
"""For a row whose policy was spoilt: it may run once, and no worker stumbles over it."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Policy)
_cache: dict[str, Policy] = {}


def from_json(text: str) -> Policy:
    """The policy that a row keeps. Few distinct texts exist, so each is decoded once."""
    policy = _cache.get(text)
    if policy is None:
        if len(_cache) > 10_000:
            _cache.clear()
        try:
            policy = _decoder.decode(text)
        except msgspec.MsgspecError:
            policy = UNREADABLE
        _cache[text] = policy
    return policy
