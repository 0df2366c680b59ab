"""A rate limit: no more bodies begin in a time than something can take."""

from __future__ import annotations

import dataclasses

from failbetter.durations import Duration, seconds
from failbetter.lifecycle.policy import Limiting

_NAME = 100
_SHORTEST, _LONGEST = 0.01, 366 * 86_400.0


@dataclasses.dataclass(frozen=True)
class RateLimit:
    """Lets no more than `count` bodies begin in any time of the length `per` (a duration).

    Over all workers, by the ledger's clock. What has to wait for that spends nothing: no attempt,
    no release. `name`: of what is spared, for tasks that use the same; else the limit is its
    task's alone. Of jobs of one limit that say different figures, the newest one's count.

    Raises TypeError or ValueError for what cannot be: a count from 1 to 1,000,000, a `per` from
    0.01 s to 366 days.
    """

    count: int
    per: Duration
    name: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.policy("task")

    def policy(self, task: str) -> Limiting:
        """What the rows of that task's jobs keep of it."""
        if isinstance(self.count, bool) or not isinstance(self.count, int):
            raise TypeError(f"a rate limit's count is a whole number, not {self.count!r}")
        if not 1 <= self.count <= 1_000_000:
            raise ValueError(f"a rate limit's count is 1 to 1,000,000, not {self.count!r}")
        per = seconds(self.per)
        if not _SHORTEST <= per <= _LONGEST:
            raise ValueError(f"a rate limit's `per` is 0.01 s to 366 days, not {self.per!r}")
        if self.name is None:
            return Limiting(task, self.count, per)
        if not isinstance(self.name, str):
            raise TypeError(f"a rate limit's name is a text, not {self.name!r}")
        if not 0 < len(self.name.strip()) <= _NAME:
            raise ValueError(
                f"a rate limit's name is a text of 1 to {_NAME} characters, not {self.name!r}"
            )
        return Limiting(self.name, self.count, per)
