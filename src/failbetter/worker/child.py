"""A child process: loads the user's app and runs bodies. Started by a supervisor, never by hand."""

from __future__ import annotations

import argparse
import atexit
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from failbetter import logs
from failbetter.board import Ring
from failbetter.worker.appload import load_app, loaded_code
from failbetter.worker.bodies import STACKS_SIGNAL, Concurrent, OneByOne
from failbetter.worker.channel import Channel
from failbetter.worker.execute import Executor
from failbetter.worker.wire import Hello, Unready

EX_CONFIG = 78
_PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor hands out no more."""
    options = _parser().parse_args(argv)
    _die_with_supervisor(options.supervisor)
    # A SIGTERM to the whole control group, or Ctrl-C in a terminal, is the supervisor's to act
    # on. Handled rather than ignored, because programs that a body starts would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: None)
    faulthandler.register(STACKS_SIGNAL, options.stacks, all_threads=True)
    logs.configure(options.log_format, options.log_level)
    for inherited in (options.channel, options.handouts, options.stacks):
        os.set_inheritable(inherited, False)  # programs that bodies start have no use for them
    channel = Channel(socket.socket(fileno=options.channel))
    source = socket.socket(fileno=options.handouts)
    since = time.time()
    try:
        app = load_app(options.app)
        loaded = loaded_code(app, since, options.seen)
        code = app.code_version or loaded.name
    except BaseException as error:  # whatever the user's module does on import
        lines = traceback.format_exception(error)
        channel.tell(Unready("".join(lines)[-8_000:]))
        return EX_CONFIG
    channel.tell(
        Hello(
            app.url,
            app.lease,
            app.durable,
            None if app.fleet_folder is None else str(app.fleet_folder),
            app.schema,
            code,
            sorted(app.tasks),
            app.mirror_urls if app.mirrors else None,
            app.keep,
            app.hooks,
            app.watched,
            loaded.files,
            loaded.name,
        )
    )
    # The board is the supervisor's to make, which it can only once it knows the ledger.
    told = sys.stdin.buffer.readline().decode().rstrip("\n")
    if not told:
        return 0
    worker, index, board = told.split(" ", 2)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    executor = Executor(app, channel, Ring(Path(board), int(index)), int(worker), code, loaded)
    way: OneByOne | Concurrent
    if options.slots == 1:
        way = OneByOne(executor, options.stacks)
    else:
        way = Concurrent(executor, options.stacks, options.slots)
    channel.on_interrupt = way.interrupt
    channel.start()
    way.run(source)
    logs.flush()
    atexit._run_exitfuncs()
    # Threads that the user's code left behind must not keep the process.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="failbetter.worker.child")
    parser.add_argument("app")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--handouts", type=int, required=True)
    parser.add_argument("--stacks", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    parser.add_argument("--seen")
    parser.add_argument("--log-format", default="text")
    parser.add_argument("--log-level", default="INFO")
    return parser


def _die_with_supervisor(supervisor: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the kernel was told.
    if os.getppid() != supervisor:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
