"""Error types under the one name that tells their cause."""

from __future__ import annotations

from functools import lru_cache

from failbetter.lifecycle.messages import errno

# One type under other names: of other Python versions, or moved within a library.
_RENAMED = {
    "IOError": "OSError",
    "EnvironmentError": "OSError",
    "WindowsError": "OSError",
    "socket.error": "OSError",
    "select.error": "OSError",
    "os.error": "OSError",
    "mmap.error": "OSError",
    "socket.timeout": "TimeoutError",
    "asyncio.TimeoutError": "TimeoutError",
    "asyncio.exceptions.TimeoutError": "TimeoutError",
    "concurrent.futures.TimeoutError": "TimeoutError",
    "concurrent.futures._base.TimeoutError": "TimeoutError",
    "multiprocessing.context.TimeoutError": "TimeoutError",
    "concurrent.futures._base.CancelledError": "CancelledError",
    "asyncio.exceptions.CancelledError": "CancelledError",
    "simplejson.errors.JSONDecodeError": "json.JSONDecodeError",
    "simplejson.scanner.JSONDecodeError": "json.JSONDecodeError",
    "requests.exceptions.JSONDecodeError": "json.JSONDecodeError",
    "ModuleNotFoundError": "ImportError",
    # A wait for an answer under the names that each layer gives it, not all of which are chained.
    "httpcore.ReadTimeout": "TimeoutError",
    "httpx.ReadTimeout": "TimeoutError",
    "requests.ReadTimeout": "TimeoutError",
    "urllib3.ReadTimeoutError": "TimeoutError",
}
# What Python makes of an OSError by its number; older Pythons and some libraries do not.
_BY_ERRNO = {
    1: "PermissionError",
    2: "FileNotFoundError",
    3: "ProcessLookupError",
    4: "InterruptedError",
    10: "ChildProcessError",
    11: "BlockingIOError",
    13: "PermissionError",
    17: "FileExistsError",
    20: "NotADirectoryError",
    21: "IsADirectoryError",
    32: "BrokenPipeError",
    103: "ConnectionAbortedError",
    104: "ConnectionResetError",
    110: "TimeoutError",
    111: "ConnectionRefusedError",
}
_BY_NAME = frozenset(_BY_ERRNO.values())
OS_ERRORS = frozenset({*_BY_NAME, "OSError"})


@lru_cache(maxsize=1024)
def canonical(error_type: str) -> str:
    """The type without where in its package it is defined, under its one name."""
    name = error_type.strip()[:400]
    for prefix in ("builtins.", "exceptions.", "__main__."):
        name = name.removeprefix(prefix)
    name = _RENAMED.get(name, name)
    package, dot, rest = name.partition(".")
    if name.startswith("botocore.errorfactory."):
        # Made as they come, of the code that the message has too; by some clients only.
        return "botocore.ClientError"
    short = f"{package}{dot}{rest.rpartition('.')[2]}"
    return _RENAMED.get(short, short)


def kind_of(error_type: str, message: str) -> str:
    """The canonical type; what tells of an OSError by its number goes by that one's name."""
    name = canonical(error_type)
    if name in _BY_NAME:
        return name
    number = errno(message, name)
    return _BY_ERRNO.get(number, name) if number is not None else name
