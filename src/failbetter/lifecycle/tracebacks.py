"""A traceback as text, read back into a failure: what fingerprints are made of.

For what other systems keep of an error. Bounded, and never raises for any text.
"""

from __future__ import annotations

import re

from failbetter.lifecycle.failure import Failure, Frame

_LONGEST = 200_000
_MOST_FRAMES = 200
_MOST_CAUSES = 8
_HEAD = "Traceback (most recent call last):"
_BETWEEN = re.compile(
    r"^(?:During handling of the above exception, another exception occurred"
    r"|The above exception was the direct cause of the following exception):$",
    re.MULTILINE,
)
_FRAME = re.compile(r'  File "([^"\n]{1,1000})", line (\d{1,9})(?:, in (\S[^\n]{0,300}))?$')
_MARKS = re.compile(r"[\s~^]+$")
_ERROR = re.compile(r"([^\W\d][\w.<>]{0,299})(?::(?: |$)(.*))?$", re.DOTALL)
# How the members of a group, and the group itself, are set off.
_SET_OFF = re.compile(r"^ *[+|](?:-[-+ \d]*)? ?", re.MULTILINE)


def read(task: str, text: str) -> Failure | None:
    """The failure that the text tells of, with its causes, root cause first.

    None: the text is no traceback. Of what is longer than 200,000 characters, its end is read.
    """
    text = text[-_LONGEST:]
    if "Exception Group Traceback" in text:
        text = _SET_OFF.sub("", text)
    found = [one for part in _BETWEEN.split(text) for one in _all_of(task, part)]
    if not found:
        return None
    *causes, last = found
    return Failure(
        task=task,
        error_type=last.error_type,
        message=last.message,
        frames=last.frames,
        causes=causes[-_MOST_CAUSES:],
    )


def _all_of(task: str, part: str) -> list[Failure]:
    """One exception; of a group, its first member before it."""
    _, *parts = part.split(_HEAD)
    found = [one for each in parts[:2] if (one := _one(task, each)) is not None]
    return found[::-1]


def _one(task: str, text: str) -> Failure | None:
    """What stands below a traceback's headline."""
    frames: list[Frame] = []
    lines = text.strip("\n").split("\n")
    at = 0
    while at < len(lines) and (not lines[at] or lines[at].startswith("  ")):
        found = _FRAME.match(lines[at])
        at += 1
        if found is None:
            continue
        code = ""
        if at < len(lines) and lines[at].startswith("    ") and not _MARKS.fullmatch(lines[at]):
            code = lines[at].strip()
        frames.append(Frame(found[1], found[3] or "", int(found[2]), code))
    said = _ERROR.match("\n".join(lines[at:]).strip("\n"))
    if said is None:
        return None
    return Failure(
        task=task, error_type=said[1], message=said[2] or "", frames=frames[-_MOST_FRAMES:]
    )
