"""The stable key of a failure's cause. Pure.

Version 2: the task; the type of the root cause; the innermost function that is the user's own with
its line's text; and of the message what is a cause itself. Nothing that changes from job to job
or machine to machine (ids, line numbers, paths, hosts, library versions) takes part. Each
fingerprint starts with its version, so that a better rule can stand beside the old one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from failbetter.lifecycle.chains import causes, flat
from failbetter.lifecycle.error_types import OS_ERRORS, kind_of
from failbetter.lifecycle.failure import Failure, Frame
from failbetter.lifecycle.frames import is_standard, module_name, package_name
from failbetter.lifecycle.messages import codes, errno, program, words

__all__ = ["VERSION", "Failure", "Frame", "fingerprint"]

VERSION = "2"
_FEW_WORDS = 4
_SENTENCE = 3
_DEEP = 40
_LONGEST = 300

_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
# Names that say nothing of what failed: decorators' and the like.
_NAMELESS = frozenset(
    {"<lambda>", "wrapper", "_wrapper", "wrapped", "wrapped_f", "inner", "_inner"}
)
# Raised by a clock from outside: where it struck is all that it tells.
_STRUCK = frozenset(
    {
        "rq.JobTimeoutException",
        "rq.HorseMonitorTimeoutException",
        "billiard.SoftTimeLimitExceeded",
        "billiard.TimeLimitExceeded",
        "celery.SoftTimeLimitExceeded",
        "failbetter.TimedOut",
        "failbetter.Stalled",
        "failbetter.Interrupted",
        "failbetter.Cancelled",
        "func_timeout.FunctionTimedOut",
    }
)
_HANDLER = re.compile(
    r"handle_death_penalty|soft_timeout_sighandler|_*(?:on|raise|handle|signal)?_*"
    r"(?:sig|alarm|sigalrm|signal|time_?d?_?out|time_limit|deadline)(?:_*(?:handler|raise|callback))?"
    r"|_*handler",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(r"time_?d?_?out|time_?limit|alarm|deadline", re.IGNORECASE)
# What these say beyond their type is data, once a line of the user's own is known.
_ALL_DATA = re.compile(
    r"(?:KeyError|IndexError|Unicode\w+Error|JSONDecodeError|ValidationError|AssertionError)$"
)
# Beside their status these say an address, and a phrase that each server words as it likes.
_STATUS_SAYS = frozenset(
    {
        "requests.HTTPError",
        "httpx.HTTPStatusError",
        "urllib.HTTPError",
        "aiohttp.ClientResponseError",
    }
)
_COMMANDS = ("subprocess.CalledProcessError", "subprocess.TimeoutExpired")
_QUOTED = re.compile(r"'([^'\n]{1,100})'")
_LITERAL = re.compile(r"\"[^\"]*\"|'[^']*'")
_FIELD = re.compile(r"\{[^{}]*\}|%[-\w(){}.]*|\\.")
_LETTERS = re.compile(r"[^\W\d]{2}")
_BLANK = re.compile(r"\s+|\\$")
_COMMENT = re.compile(r"\s{1,20}#(?!.*['\"]).*$")
_HANGING = re.compile(r",([)\]}])")


def fingerprint(failure: Failure) -> str:
    """The failure's fingerprint: a version, a dash and 16 hexadecimal digits.

    Failures of one cause share it, whichever job, machine, path or library version they are
    from; those of different causes do not. The task counts. Reads at most the first parts of long
    texts; never raises for any text.
    """
    chain = flat(failure)
    package = failure.task.partition(".")[0].lower() if "." in failure.task else ""
    own = [_own_frames(one, package) for one in chain]
    known = next((frames for frames in own if frames), [])
    counted = causes(chain)
    parts = [failure.task]
    for one in counted:
        mine = next(frames for other, frames in zip(chain, own, strict=True) if other is one)
        if not known:
            parts += _without_own(one)
        elif mine or one is not counted[-1]:
            parts += _with_own(one, mine)
        else:
            parts += _with_own(one, known)
    key = "\0".join(parts)
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{VERSION}-{digest[:16]}"


def _own_frames(failure: Failure, package: str) -> list[Frame]:
    """The user's own frames: also those of an installed package that the task itself is from."""
    frames = [
        frame
        for frame in failure.frames
        if (frame.is_own and not _is_compiled(frame))
        or (package and package_name(frame.file, frame.module) == package)
    ]
    if frames and frames[-1] is failure.frames[-1] and _is_struck(failure):
        return (_HANDLER.fullmatch(frames[-1].function) and frames[:-1]) or frames
    return frames


def _is_compiled(frame: Frame) -> bool:
    """Whether it is Cython's: a function by its whole name, in a file that is not there."""
    return not frame.code and frame.function.count(".") > 1 and "<" not in frame.function


def _is_struck(failure: Failure) -> bool:
    """Whether a clock raised it from outside, in whatever code was running."""
    kind = kind_of(failure.error_type, "")
    if kind in _STRUCK:
        return True
    last = failure.frames[-1].function if failure.frames else ""
    return bool(_TIMEOUT.search(kind) and _HANDLER.fullmatch(last[:100]))


def _with_own(failure: Failure, own: Sequence[Frame]) -> list[str]:
    kind = kind_of(failure.error_type, failure.message)
    if kind == "RecursionError" and own:
        # At which of the functions that call each other the limit is reached is chance.
        return [kind, min(_place(own[: len(own) - i]) for i in range(min(_DEEP, len(own))))]
    place = _place(own) if own else ""
    if _is_struck(failure):
        return [kind, place]
    code = _code(own[-1].code) if own else ""
    return [kind, place, code, *_codes(failure, kind), *_telling_words(failure, kind, own)]


def _telling_words(failure: Failure, kind: str, own: Sequence[Frame]) -> Sequence[str]:
    """The message's words, where the line of the user's own does not say it all."""
    if kind == "ImportError":
        return _QUOTED.findall(failure.message[:400])[:1]
    code = own[-1].code[:_LONGEST] if own else ""
    raised = own and failure.frames[-1:] == own[-1:] and (not code or _is_raise(code))
    if raised and _says_itself(code):
        return ()
    named = _named_in(code, failure.message)
    if (kind in OS_ERRORS and kind != "OSError") or errno(failure.message, kind) is not None:
        return ()
    if _ALL_DATA.search(kind) or kind in _STATUS_SAYS:
        return named
    found = words(failure.message, quoted=False)
    # One or two words, of a line that has none, are a value: `raise UnknownCity(city)`.
    return (*found, *named) if len(found) >= _SENTENCE or not raised else named


def _named_in(code: str, message: str) -> Sequence[str]:
    """What the message quotes that the source line names too, and so no data: a field's name."""
    return [
        name
        for name in _QUOTED.findall(message[:400])
        if f".{name}" in code or f"'{name}'" in code or f'"{name}"' in code
    ]


def _without_own(failure: Failure) -> list[str]:
    kind = kind_of(failure.error_type, failure.message)
    if _is_struck(failure):
        return [kind]
    if kind in OS_ERRORS and kind != "OSError":
        return [kind, _library(failure.frames, with_function=False)]
    number = errno(failure.message, kind)
    untold = number is None and kind not in _STATUS_SAYS
    said = words(failure.message, quoted=True) if untold else ()
    where = _library(failure.frames, with_function=len(said) < _FEW_WORDS)
    return [kind, where, *_codes(failure, kind), *said]


def _library(frames: Sequence[Frame], *, with_function: bool) -> str:
    """The package that failed: the innermost that is not Python's own, if there is one."""
    if not frames:
        return ""
    installed = (one for one in reversed(frames) if not is_standard(one.file, one.module))
    frame = next(installed, frames[-1])
    package = package_name(frame.file, frame.module)
    return f"{package}:{_function(frame)}" if with_function else package


def _codes(failure: Failure, kind: str) -> Sequence[str]:
    found = codes(failure.message, kind)
    if kind in OS_ERRORS and kind != "OSError":
        found = tuple(code for code in found if not code.startswith("errno"))
    if kind in _COMMANDS:
        return (*found, program(failure.message))
    return found


def _place(own: Sequence[Frame]) -> str:
    """The innermost own function, by module and name; a nameless one by that which holds it."""
    frame = own[-1]
    if frame.function in _COMPREHENSIONS or (frame.function in _NAMELESS and not frame.code):
        named = (one for one in reversed(own) if one.function not in _COMPREHENSIONS)
        frame = next((one for one in named if one.function not in _NAMELESS), frame)
    module = module_name(frame.file, frame.module, frame.code)
    return f"{module}:{_function(frame)}"


def _function(frame: Frame) -> str:
    return frame.function.rpartition(".")[2]


def _code(line: str) -> str:
    """The source line whatever formatter it went through: quotes and blanks do not count."""
    text = line[:_LONGEST].strip().partition("\n")[0]
    text = _COMMENT.sub("", text)
    return _HANGING.sub(r"\1", _BLANK.sub("", text)).replace('"', "'")


def _is_raise(code: str) -> bool:
    return code.lstrip().startswith(("raise", "assert"))


def _says_itself(code: str) -> bool:
    """Whether a line that raises has words of its own."""
    literals = "".join(_LITERAL.findall(code))
    return _LETTERS.search(_FIELD.sub("", literals)) is not None
