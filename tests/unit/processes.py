"""Other processes for tests: Python text run in a fresh interpreter, spoken to line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import IO


class Other:
    """A running program; `hear` reads its next line, `tell` writes it one."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _stream(self, stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream

    def hear(self) -> str:
        """The next line that the program prints; '' at its end."""
        return self._stream(self.process.stdout).readline().strip()

    def tell(self, line: str = "") -> None:
        """Write a line to the program's standard input."""
        stream = self._stream(self.process.stdin)
        stream.write(line + "\n")
        stream.flush()

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self.process.kill()
        self.process.wait(timeout=30)

    def end(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def other(program: str, *arguments: object) -> Iterator[Other]:
    """A program that is certainly gone after the block."""
    started = Other(program, *arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(timeout=30)
        for stream in (started.process.stdin, started.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def in_fork(work: Callable[[], object]) -> str:
    """What `work` returns in a forked process, as text; its exception, where it raises one."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
        child = os.fork()
    if child == 0:
        signal.alarm(30)  # one that waits for a lock nobody will release must not stay
        try:
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return answer
