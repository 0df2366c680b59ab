"""What can go wrong, in one line on stderr, and the exit code that says it to programs."""

from __future__ import annotations

import os
import sys
import traceback

import failbetter
from failbetter.cli import texts

OK = 0
REFUSED = 1
USAGE = 2
NO_INPUT = os.EX_NOINPUT  # 66
UNAVAILABLE = os.EX_UNAVAILABLE  # 69
BUG = os.EX_SOFTWARE  # 70
IO_ERROR = os.EX_IOERR  # 74
TRY_AGAIN = os.EX_TEMPFAIL  # 75
MISCONFIGURED = os.EX_CONFIG  # 78
INTERRUPTED = 130
BROKEN_PIPE = 141


class WrongUsage(Exception):
    """What was typed cannot be meant."""


class Misconfigured(Exception):
    """What a file or the environment says cannot be meant."""


class NoInput(Exception):
    """What is to be looked at cannot be."""


# The first that fits counts, so the special ones stand before their bases.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (WrongUsage, USAGE),
    (Misconfigured, MISCONFIGURED),
    (NoInput, NO_INPUT),
    (failbetter.UnknownTask, USAGE),
    (failbetter.PayloadTooLarge, USAGE),
    (failbetter.JobNotFound, REFUSED),
    (failbetter.OperationNotFound, REFUSED),
    (failbetter.Refused, REFUSED),
    (failbetter.ConfigurationError, MISCONFIGURED),
    (failbetter.SchemaMismatch, MISCONFIGURED),
    (failbetter.LedgerFull, IO_ERROR),
    (failbetter.LedgerError, UNAVAILABLE),
)


def settle(error: BaseException) -> int:
    """Say what went wrong, if there is somebody to hear it; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        silence()
        return BROKEN_PIPE
    for kind, code in _CODES:
        if isinstance(error, kind):
            complain(str(error))
            return code
    if isinstance(error, OSError):
        complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        silence()
        return IO_ERROR
    if os.environ.get("FAILBETTER_DEBUG"):
        traceback.print_exception(error)
    complain(
        f"this should not happen: {type(error).__name__}: {error}"
        " (FAILBETTER_DEBUG=1 shows where; please report it)"
    )
    return BUG


def complain(message: str) -> None:
    """One line on stderr."""
    tell(f"failbetter: {message}")


def tell(message: str) -> None:
    """A line on stderr that is no error: for a person, beside what goes to stdout."""
    if sys.stderr is not None:
        sys.stderr.write(texts.one_line(message) + "\n")


def silence() -> None:
    """Let the interpreter's own last flush of stdout go nowhere: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
