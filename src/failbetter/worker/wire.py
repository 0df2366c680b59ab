"""What supervisor and child say to each other.

Two sockets for each child. Hand-outs go over a SOCK_SEQPACKET pair, a job a message; the
supervisor keeps the child's end open too and can read back what the child has not yet taken.
Everything else goes over a stream, a JSON line a message, so that one look decodes many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.lifecycle.alerting import Watched
from failbetter.lifecycle.events import Hook
from failbetter.retention import Keep

if TYPE_CHECKING:
    from failbetter.ledger.claims import Claimed

MAX_HANDOUT = 128 * 1024
"""Bytes of a message."""

MAX_ARGS = 60 * 1024
"""Bytes of arguments in a hand-out; larger ones are asked for over the stream."""


class Handout(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A job on its way to a child."""

    id: int
    fence: int
    number: int
    charged: int
    """Attempts charged when this one is, too: what a backoff callable is given."""
    task: str
    queue: str
    expires_at: int | None
    epoch: int = 0
    """What to add to this host's monotonic clock (µs) for the ledger's time: the host's own clock
    may be wrong, or be set while a body runs."""
    version: int | None = None
    """Of what the job is about, if that has versions."""
    begin_by: int | None = None
    """Until when its body may begin, if a rate limit says so; after that, another permit is to be
    asked for."""


def handout_of(job: Claimed, epoch: int) -> Handout:
    """A claimed job as it is handed out."""
    return Handout(
        job.id,
        job.fence,
        job.starts + 1,
        job.attempts + 1,
        job.task,
        job.queue,
        job.expires_at,
        epoch,
        job.version,
        job.permit,
    )


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    """The child has loaded the app: what the supervisor must know of it."""

    url: str
    lease: float
    durable: bool
    fleet_folder: str | None
    schema: str | None
    code: str
    tasks: list[str]
    mirrors: dict[str, str] | None = None
    """The other databases with mirrored rows: name to URL; None: the app has no mirrors."""
    keep: Keep = Keep()
    """How long jobs are kept after their end."""
    hooks: list[Hook] = []
    """Which of the tasks are run when something happens."""
    alerts: list[Watched] = []
    """What is watched; not who is told."""
    files: list[tuple[str, str]] = []
    """The user's code: module name and path."""
    loaded: str = ""
    """Its fingerprint; see `code.LoadedCode.name`."""


class Unready(msgspec.Struct, array_like=True, frozen=True, tag="unready"):
    """The child could not load the app."""

    error: str


class Returned(msgspec.Struct, array_like=True, frozen=True, gc=False, tag="r"):
    """A body returned. Times in microseconds since the epoch."""

    id: int
    fence: int
    begun_at: int
    ended_at: int
    result: msgspec.Raw
    note: str | None


class Committed(msgspec.Struct, array_like=True, frozen=True, tag="c"):
    """A body's own transaction has written its job's success; there is nothing left to settle."""

    id: int
    fence: int


class Partial(msgspec.Struct, array_like=True, frozen=True, tag="p"):
    """A body returned after items of its job had failed; of the first of them, the error."""

    returned: Returned
    items: str
    error_type: str
    error_message: str
    traceback: str
    fingerprint: str


class Ended(msgspec.Struct, array_like=True, frozen=True, gc=False, tag="e"):
    """An attempt ended otherwise. `begun_at` None: its body had not begun."""

    id: int
    fence: int
    begun_at: int | None
    ended_at: int
    cause: str
    verdict: str
    delay: float | None
    at_least: bool
    uncertain: bool
    error_type: str | None
    error_message: str | None
    traceback: str | None
    fingerprint: str | None
    outage: bool = False
    """Whether the task's breaker counts it."""
    bases: tuple[str, ...] = ()
    missing: bool = False
    """Whether a record that the job refers to is not there."""
    newer: str | None = None
    """The fingerprint of the code that is on disk by now, if it is other than what it ran."""


class Request(msgspec.Struct, array_like=True, frozen=True, tag="q"):
    """A child asks for something that the ledger must do, and waits for the Reply."""

    request: int
    kind: str
    id: int
    fence: int
    name: str
    value: str | None


class Reply(msgspec.Struct, array_like=True, frozen=True, tag="a"):
    """The answer to a Request."""

    request: int
    status: str
    value: str | None


class Interrupt(msgspec.Struct, array_like=True, frozen=True, tag="i"):
    """The supervisor asks a child to stop one body: see `bodies.EXCEPTIONS`."""

    id: int
    fence: int
    why: str


FromChild = Hello | Unready | Returned | Partial | Committed | Ended | Request
ToChild = Reply | Interrupt

NULL = msgspec.Raw(b"null")

encode = msgspec.json.Encoder().encode
_decode_handout = msgspec.json.Decoder(Handout).decode


def pack_handout(handout: Handout, args: bytes) -> bytes:
    """A hand-out as one message. The arguments stand apart from it, as they are on the row.

    So that whatever a spoilt row holds, the message itself can be read. Too large ones are left
    out, to be asked for.
    """
    return encode(handout) + b"\n" + (args if len(args) <= MAX_ARGS else b"")


def unpack_handout(data: bytes) -> tuple[Handout, bytes | None]:
    """The hand-out and its arguments; None: ask for them."""
    head, _, args = data.partition(b"\n")
    return _decode_handout(head), args or None


class Lines:
    """Cuts a stream into messages."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._rest = b""
        self.spoilt = False
        """Whether something came that is no message: nothing after it can be trusted."""

    def feed(self, data: bytes) -> list[Any]:
        """The messages that `data` completes."""
        cut = data.rfind(b"\n") + 1
        if not cut:
            self._rest += data
            return []
        whole = self._rest + data[:cut] if self._rest else data[:cut]
        self._rest = data[cut:]
        try:
            return self._decoder.decode_lines(whole)
        except msgspec.MsgspecError:
            return self._up_to_nonsense(whole)

    def _up_to_nonsense(self, whole: bytes) -> list[Any]:
        found = []
        for line in whole.splitlines():
            try:
                found.append(self._decoder.decode(line))
            except msgspec.MsgspecError:
                self.spoilt = True
                break
        return found
