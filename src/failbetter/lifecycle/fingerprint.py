"""The stable key of a failure's cause.

Version 1: the task, the error's type and the innermost function that is the user's own. Nothing
that changes from job to job (ids, line numbers, paths, addresses) takes part. Each fingerprint
starts with its version, so that a better rule can stand beside the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

VERSION = "1"
_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ", "<string>")


class Frame(msgspec.Struct, frozen=True):
    """One frame of a traceback; `line` from 1, `code` the source line or ''."""

    file: str
    function: str
    line: int = 0
    code: str = ""
    module: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the frame is the user's own code and not a library's."""
        path = self.file.replace("\\", "/")
        return not any(mark in path for mark in _LIBRARY)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of any origin. `frames` outermost first; `causes` root cause first."""

    task: str
    error_type: str
    message: str = ""
    frames: Sequence[Frame] = ()
    causes: Sequence[Failure] = ()


def fingerprint(failure: Failure) -> str:
    """The failure's fingerprint: a version, a dash and 16 hexadecimal digits. Pure."""
    innermost = next((frame for frame in reversed(failure.frames) if frame.is_own), None)
    where = f"{innermost.module or ''}:{innermost.function}" if innermost else ""
    key = "\0".join((failure.task, failure.error_type, where))
    return f"{VERSION}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
