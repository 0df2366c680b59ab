"""What happens to jobs, as hooks are told of it; and what is known of a hook."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

EventKind = Literal["failed", "discarded", "group_opened"]
FAILED: EventKind = "failed"
DISCARDED: EventKind = "discarded"
GROUP_OPENED: EventKind = "group_opened"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a job, or to a group of failures. What a hook is given.

    `id`: the same however often the hook runs for it. `kind`: `failed`, `discarded` or
    `group_opened`. `at`: when it happened (UTC). `job`: the job's id; of a group, that of the
    failed job that opened it, and so is what follows. `task`, `queue`, `reason`, `subject`, `tags`
    are the job's; `attempts` is how often it was begun. `error_type`, `error_message` (masked as
    the job keeps it) and `fingerprint` are of its last error, None without one. `reopened`: the
    group was resolved, and its cause has come back.
    """

    id: str
    kind: EventKind
    at: datetime
    job: str
    task: str
    queue: str
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    attempts: int = 0
    subject: str | None = None
    tags: tuple[str, ...] = ()
    reopened: bool = False

    @property
    def title(self) -> str:
        """In short, such as `upload_image: ConnectionError`."""
        return f"{self.task}: {self.error_type or self.reason or self.kind}"


class Hook(msgspec.Struct, frozen=True):
    """A task that is run when something happens; how its jobs are made.

    `policy`, `tags`: as rows keep them; `expires_after`: microseconds. `parameter`: of the
    function, which the event is given to. `only`: the tasks whose events are meant; None: all.
    """

    event: str
    task: str
    queue: str
    priority: int
    policy: str
    expires_after: int | None
    tags: str | None
    parameter: str
    only: tuple[str, ...] | None = None

    def means(self, event: Event) -> bool:
        """Whether it is to be run for the event."""
        return event.kind == self.event and (self.only is None or event.task in self.only)
