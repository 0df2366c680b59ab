"""Runs one page, as a reader would: `python runner.py PAGE` in an empty folder.

In a process of its own, so that pages share no modules and no open ledger. Ends with 0, or with
1 after saying which block of the page is not true.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# A page's own modules must not be found in the project, nor the project's taken for them.
sys.path[0] = str(Path(__file__).parents[2])
from tests.docs.pages import (  # noqa: E402
    ID,
    Block,
    Command,
    agrees,
    blocks,
    commands,
    pattern,
)

PATIENCE = 60.0
_PRINTS = re.compile(r"# -> (.*)$", re.MULTILINE)


class Untrue(Exception):
    """The page says something that is not so."""


class Page:
    """A page, its folder (the current one) and what runs there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.staying: list[subprocess.Popen[str]] = []
        self.ids: dict[str, str] = {}

    def run(self) -> None:
        """Every block, in order."""
        for block in blocks(self.path.read_text("utf-8")):
            if block.skipped:
                continue
            if block.file:
                Path(block.file).write_text(block.text, "utf-8")
            elif block.language == "python":
                self._python(block)
            elif block.language == "console":
                for command in commands(block):
                    self._command(command)

    def _where(self, line: int) -> str:
        return f"{self.path.name}:{line}"

    def _python(self, block: Block) -> None:
        name = self._where(block.line)
        linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, name, "exec"), self.namespace)
        shown = tuple(_PRINTS.findall(block.text))
        if not agrees(shown, printed.getvalue()):
            raise Untrue(f"{name}: the block says\n{shown}\nand prints\n{printed.getvalue()}")

    def _command(self, command: Command) -> None:
        if command.stays:
            self._stay(command)
            return
        done = subprocess.run(
            ["bash", "-c", self._real(command.text)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        self._learn_ids(command.output, done.stdout)
        if not agrees(command.output, done.stdout):
            raise Untrue(
                f"{self._where(command.line)}: $ {command.text}\n-- the page shows\n"
                + "\n".join(command.output)
                + f"\n-- it prints (exit code {done.returncode})\n{done.stdout}"
            )

    def _learn_ids(self, shown: tuple[str, ...], printed: str) -> None:
        """Which job of this run stands for which on the page."""
        theirs, ours = ID.findall("\n".join(shown)), ID.findall(printed)
        if len(theirs) == len(ours):
            self.ids.update(zip(theirs, ours, strict=True))

    def _real(self, command: str) -> str:
        return ID.sub(lambda found: self.ids.get(found[0], found[0]), command)

    def _stay(self, command: Command) -> None:
        """Start a worker; wait until it says what the page shows; stop it if that ends with ^C."""
        said = Path(f".said.{len(self.staying)}")
        with said.open("w") as sink:
            worker = subprocess.Popen(
                ["bash", "-c", f"exec {self._real(command.text)}"],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.staying.append(worker)
        before, stopped, after = _split(command.output)
        self._wait_for(command, before, said, worker)
        if not stopped:
            return
        worker.send_signal(signal.SIGINT)
        worker.wait(PATIENCE)
        if not agrees((*before, *after), said.read_text()):
            raise Untrue(f"{self._where(command.line)}: the worker said\n{said.read_text()}")

    def _wait_for(
        self, command: Command, lines: tuple[str, ...], said: Path, worker: subprocess.Popen[str]
    ) -> None:
        limit = time.monotonic() + PATIENCE
        while not agrees((*lines, "…"), said.read_text()):
            if time.monotonic() > limit or worker.poll() is not None:
                raise Untrue(
                    f"{self._where(command.line)}: $ {command.text}\n-- wanted\n"
                    f"{pattern(lines).pattern}\n-- it says\n{said.read_text()}"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Stop what stayed."""
        for worker in self.staying:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.staying:
            worker.wait(PATIENCE)


def _split(output: tuple[str, ...]) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    if "^C" not in output:
        return output, False, ()
    at = output.index("^C")
    return output[:at], True, output[at + 1 :]


def main(path: str) -> int:
    """Run the page; the exit code."""
    sys.path[0] = os.getcwd()
    page = Page(Path(path))
    try:
        page.run()
    except Untrue as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
