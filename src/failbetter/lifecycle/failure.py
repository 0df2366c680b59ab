"""A failure of any origin, as data."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from failbetter.lifecycle.frames import is_library


class Frame(msgspec.Struct, frozen=True):
    """One frame of a traceback; `line` from 1, `code` the source line or ''.

    `module` is the name the frame's module was imported by, if known.
    """

    file: str
    function: str
    line: int = 0
    code: str = ""
    module: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the frame is the user's own code and not a library's."""
        return not is_library(self.file, self.module)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of any origin. `frames` outermost first; `causes` root cause first."""

    task: str
    error_type: str
    message: str = ""
    frames: Sequence[Frame] = ()
    causes: Sequence[Failure] = ()
