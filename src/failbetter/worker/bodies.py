"""The ways a child runs bodies: one after another in its main thread, or several at once.

With one body at a time, it has the main thread to itself, where signals can reach it even in a
blocking call. With more, sync bodies run in threads and async ones on one event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from failbetter.errors import Cancelled, Interrupted, Stalled, TimedOut
from failbetter.worker.wire import MAX_HANDOUT, unpack_handout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failbetter.worker.execute import Attempt, Executor
    from failbetter.worker.wire import Handout, Interrupt

EXCEPTIONS: dict[str, type[BaseException]] = {
    "timeout": TimedOut,
    "stalled": Stalled,
    "stop": Interrupted,
    "lost": Interrupted,
    "cancel": Cancelled,
}

# A signal that programs leave alone; real-time ones exist on Linux only.
INTERRUPT_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR1 - 4) + 4
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 5) + 5


_TRIES = 50


def handouts(source: socket.socket) -> Iterator[tuple[Handout, bytes | None]]:
    """The hand-outs and their arguments as they come, until the supervisor closes its end."""
    while True:
        data = source.recv(MAX_HANDOUT)
        if not data:
            return
        yield unpack_handout(data)


class OneByOne:
    """Runs each body in the main thread; async ones by running a loop there until they are done."""

    def __init__(self, executor: Executor, stacks: int) -> None:
        self._executor = executor
        self._stacks = stacks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._attempt: Attempt | None = None
        self._in_body = False
        self._asked: Interrupt | None = None
        self._main = threading.main_thread().ident or 0
        signal.signal(INTERRUPT_SIGNAL, self._on_signal)

    def run(self, source: socket.socket) -> None:
        """Run hand-outs until there will be no more."""
        for handout, args in handouts(source):
            self.run_one(handout, args)

    def close(self) -> None:
        """Close the loop on which async bodies ran."""
        if self._loop is not None:
            asyncio.set_event_loop(None)
            self._loop.close()
            self._loop = None

    def interrupt(self, message: Interrupt) -> None:
        """Stop the running body, if it is the one meant. Called from the line's thread."""
        attempt = self._attempt
        if attempt is None or not _is(attempt, message):
            return
        if message.why == "cancel":
            attempt.running.ask_to_cancel()
        self._asked = message
        for _ in range(_TRIES):
            signal.pthread_kill(self._main, INTERRUPT_SIGNAL)
            time.sleep(0.01)
            if self._is_heeded():
                return

    def _is_heeded(self) -> bool:
        return self._asked is None

    def _on_signal(self, _signal: int, _frame: object) -> None:
        if self._executor.is_telling:
            return  # the line's thread will try again
        message, attempt = self._asked, self._attempt
        self._asked = None
        if message is None or attempt is None or not self._in_body or not _is(attempt, message):
            return
        if self._task is not None and self._loop is not None:
            _note_stack(self._task, self._stacks)
            self._task.cancel(message.why)
            self._loop.call_soon_threadsafe(lambda: None)  # wakes a loop that waits for events
        else:
            raise EXCEPTIONS[message.why]

    def run_one(self, handout: Handout, args: bytes | None) -> None:
        """Run one, here and now."""
        attempt = self._executor.prepare(handout, args)
        if attempt is None:
            return
        self._attempt = attempt
        self._executor.enter(attempt)
        try:
            try:
                self._in_body = True
                value = self._call(attempt)
                self._in_body = False
            finally:
                self._in_body = False
        except BaseException as error:
            self._attempt = None
            self._executor.raised(attempt, error)
        else:
            self._attempt = None
            self._executor.returned(attempt, value)

    def _call(self, attempt: Attempt) -> Any:
        if not attempt.task.is_async:
            return attempt.run()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(attempt.arun())
        try:
            return self._loop.run_until_complete(self._task)
        except asyncio.CancelledError as error:
            raise _translated(error) from None
        finally:
            self._task = None


class Concurrent:
    """Runs up to `slots` bodies at once; takes a hand-out only when one is free."""

    def __init__(self, executor: Executor, stacks: int, slots: int) -> None:
        self._executor = executor
        self._stacks = stacks
        self._free = threading.Semaphore(slots)
        self._threads = concurrent.futures.ThreadPoolExecutor(slots, "failbetter-body")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._in_threads: dict[tuple[int, int], tuple[Attempt, int]] = {}
        self._struck: set[tuple[int, int]] = set()
        self._on_loop: dict[tuple[int, int], tuple[Attempt, asyncio.Task[Any]]] = {}
        self._slots = slots

    def run(self, source: socket.socket) -> None:
        """Run hand-outs until there will be no more, and what runs has ended."""
        stream = handouts(source)
        while True:
            self._free.acquire()
            found = next(stream, None)
            if found is None:
                break
            self._start(*found)
        for _ in range(self._slots - 1):
            self._free.acquire()

    def run_one(self, handout: Handout, args: bytes | None) -> None:
        """Run one and wait for its end; a sync body in this thread."""
        self._free.acquire()
        attempt = self._executor.prepare(handout, args)
        if attempt is None:
            self._free.release()
        elif attempt.task.is_async:
            asyncio.run_coroutine_threadsafe(self._run_async(attempt), self._own_loop()).result()
        else:
            self._run_sync(attempt)

    def _start(self, handout: Handout, args: bytes | None) -> None:
        attempt = self._executor.prepare(handout, args)
        if attempt is None:
            self._free.release()
        elif attempt.task.is_async:
            asyncio.run_coroutine_threadsafe(self._run_async(attempt), self._own_loop())
        else:
            self._threads.submit(self._run_sync, attempt)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_loop, args=(self._loop,), name="failbetter-loop", daemon=True
            ).start()
        return self._loop

    def close(self) -> None:
        """Let go of the threads and the loop. No body runs any more."""
        self._threads.shutdown(wait=False)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def _run_sync(self, attempt: Attempt) -> None:
        key = (attempt.handout.id, attempt.handout.fence)
        self._executor.enter(attempt)
        try:
            try:
                with self._lock:
                    self._in_threads[key] = (attempt, threading.get_ident())
                value = attempt.run()
            finally:
                self._leave_table(key)
        except BaseException as error:
            self._executor.raised(attempt, error)
        else:
            self._executor.returned(attempt, value)
        finally:
            self._free.release()

    def _leave_table(self, key: tuple[int, int]) -> None:
        """Once out of the table no exception is raised in this thread; one on its way is recalled.

        It would else strike later, while the body's end is told.
        """
        with self._lock:
            self._in_threads.pop(key, None)
            if key in self._struck:
                self._struck.discard(key)
                me = ctypes.c_ulong(threading.get_ident())
                ctypes.pythonapi.PyThreadState_SetAsyncExc(me, None)

    async def _run_async(self, attempt: Attempt) -> None:
        key = (attempt.handout.id, attempt.handout.fence)
        self._executor.enter(attempt)
        # A task of its own, so that a cancellation ends the body and not this report of it.
        body = asyncio.ensure_future(_caught(attempt))
        self._on_loop[key] = (attempt, body)
        try:
            await asyncio.wait([body])
        finally:
            del self._on_loop[key]
        try:
            if body.cancelled():
                self._executor.raised(attempt, _cancellation(body))
            else:
                value, error = body.result()
                if error is not None:
                    self._executor.raised(attempt, error)
                else:
                    self._executor.returned(attempt, value)
        finally:
            self._free.release()

    def interrupt(self, message: Interrupt) -> None:
        """Stop the body that is meant, if it still runs. Called from the line's thread."""
        key = (message.id, message.fence)
        with self._lock:
            found = self._in_threads.get(key)
            if found is not None:
                if message.why == "cancel":
                    found[0].running.ask_to_cancel()
                self._struck.add(key)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(found[1]), ctypes.py_object(EXCEPTIONS[message.why])
                )
                return
        on_loop = self._on_loop.get(key)
        if on_loop is not None and self._loop is not None:
            if message.why == "cancel":
                on_loop[0].running.ask_to_cancel()
            _note_stack(on_loop[1], self._stacks)
            self._loop.call_soon_threadsafe(on_loop[1].cancel, message.why)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _note_stack(body: asyncio.Task[Any], stacks: int) -> None:
    """Write down where an async body waits, before what kills the child can only see its loop.

    Later notes replace it, and so it counts only if the child is killed soon.
    """
    frames = []
    # The task itself knows only its outermost frame while it waits; the rest is a chain.
    waiting: Any = body.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        waiting = waiting.cr_await
    lines = traceback.StackSummary.extract(iter(frames)).format()
    text = f"{body!r}, waiting (most recent call last):\n{''.join(lines)}"
    with contextlib.suppress(OSError):  # a body has closed the file; it is evidence, no duty
        os.ftruncate(stacks, 0)
        os.lseek(stacks, 0, os.SEEK_SET)
        os.write(stacks, text.encode(errors="replace"))


async def _caught(attempt: Attempt) -> tuple[Any, BaseException | None]:
    """What the body returned or raised. SystemExit, let out of a task, would end the loop."""
    try:
        return await attempt.arun(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


def _is(attempt: Attempt, message: Interrupt) -> bool:
    return attempt.handout.id == message.id and attempt.handout.fence == message.fence


def _translated(error: asyncio.CancelledError) -> BaseException:
    """The supervisor's reason for a cancellation; a body's own stays what it is."""
    kind = EXCEPTIONS.get(str(error.args[0])) if error.args else None
    return error if kind is None else kind().with_traceback(error.__traceback__)


def _cancellation(body: asyncio.Future[Any]) -> BaseException:
    try:
        body.result()
    except asyncio.CancelledError as error:
        return _translated(error)
    raise AssertionError("a cancelled future has no result")
