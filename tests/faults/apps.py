"""The tasks that these tests run in real workers, and the record that each body keeps of itself.

A body writes one line when it begins and one when it ends, with a single append to a file that no
failbetter code touches: what really happened, against which the ledger is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import failbetter
import failbetter.alerts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from failbetter.engine import Engine

LOG = "FAILBETTER_TEST_BODIES"
"""Names the variable that says where bodies keep their record."""

_tasks: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def task(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Note a function as a task of the app that `make_app` builds."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        _tasks.append((function, options))
        return function

    return note


def make_app(url: str | None = None, engine: Engine | None = None) -> failbetter.App:
    """An app of all tasks here on the ledger of that URL (else `$FAILBETTER_URL`)."""
    app = failbetter.App(url, engine=engine, allow_edit=True)
    app.records(_session)
    gone = os.environ.get("FAILBETTER_TEST_GONE", "").split()
    for function, options in _tasks:
        if function.__name__ not in gone:
            app.task(**options)(function)
    if os.environ.get("FAILBETTER_TEST_HOOKS"):
        app.on_failed(max_attempts=2, backoff=0.05)(heard)
        app.on_group_opened(opened)
    if "FAILBETTER_TEST_ALERT" in os.environ:
        rule = failbetter.alerts.NewGroup()
        app.alert("causes", when=rule, to=os.environ["FAILBETTER_TEST_ALERT"].split(), quiet=0)
    return app


def record(what: str) -> None:
    """Append `what` to the record, with the job, the attempt, the process and the time."""
    job = failbetter.current_job()
    line = f"{time.monotonic_ns()} {job.id} {job.attempt} {os.getpid()} {what}\n"
    handle = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Record that the body begins, and how it ends."""
    record("start")
    try:
        yield
    except BaseException as error:
        record(f"raise {type(error).__name__}")
        raise
    record("end")


# -- the well-behaved


@task(max_crashes=1_000, max_losses=1_000)
def work(n: int, seconds: float = 0.0) -> int:
    with told():
        time.sleep(seconds)
        return n + 1


@task(max_crashes=1_000, max_losses=1_000)
def compute(n: int, seconds: float) -> int:
    with told():
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            n += 1
        return n


@task(max_crashes=1_000, max_losses=1_000)
async def awork(n: int, seconds: float = 0.0) -> int:
    with told():
        await asyncio.sleep(seconds)
        return n + 1


@task()
def plain(n: int, seconds: float = 0.0) -> int:
    """As `work`, with the budgets that a task has by default."""
    with told():
        time.sleep(seconds)
        return n + 1


@task(max_crashes=1_000, max_losses=1_000)
def pay(n: int, seconds: float = 0.0) -> int:
    """Two effects, with time before, between and after them in which to be killed."""
    with told():
        job = failbetter.current_job()
        time.sleep(seconds)
        first = job.once("charge", lambda: _effect("charge", n))
        time.sleep(seconds)
        second = job.once("receipt", lambda: _effect("receipt", n + 1))
        assert (first, second) == (n, n + 1)
        return n


@task(max_crashes=1_000, max_losses=1_000)
def pay_slowly(n: int, seconds: float) -> int:
    """An effect that takes its time: a death during it leaves it in doubt."""
    with told():

        def charge() -> int:
            time.sleep(seconds)
            return _effect("charge", n)

        return failbetter.current_job().once("charge", charge)


@task()
def pay_by_gate(folder: str) -> int:
    """An effect once the file `gate-N` is there: each attempt waits for its own."""
    with told():
        job = failbetter.current_job()
        while not os.path.exists(f"{folder}/gate-{job.attempt}"):
            time.sleep(0.005)
        record("asks")
        return job.once("charge", lambda: _effect("charge", job.attempt))


@task()
def pay_late(n: int, seconds: float) -> int:
    """An effect after a while: what a thawed zombie tries."""
    with told():
        time.sleep(seconds)
        return failbetter.current_job().once("charge", lambda: _effect("charge", n))


@task()
def pay_again(gate: str) -> int:
    """An effect that fails without saying how far it got, and is asked for again by the gate."""
    with told():
        job = failbetter.current_job()

        def charge() -> int:
            _effect("charge", 1)
            raise ConnectionError("no answer")

        with contextlib.suppress(ConnectionError):
            job.once("charge", charge)
        record("doubts")
        while not os.path.exists(gate):
            time.sleep(0.005)
        record("asks")
        return job.once("charge", lambda: _effect("charge", 2))


def _effect(name: str, value: int) -> int:
    record(f"effect {name}")
    return value


@task(max_attempts=4, backoff=0.05, max_crashes=1_000, max_losses=1_000)
def flaky(n: int, failures: int) -> int:
    with told():
        if failbetter.current_job().attempt <= failures:
            raise ConnectionError(f"no luck with {n}")
        return n


@task(max_attempts=3, backoff=0.05, max_crashes=1_000, max_losses=1_000)
def hopeless(n: int) -> None:
    with told():
        raise ValueError(f"{n} cannot be done")


@task(expires_after=0.5)
def perishable(n: int) -> int:
    with told():
        return n


@task(expires_after=0.5, backoff=0.2, max_attempts=100)
def perishable_and_hopeless(n: int) -> None:
    with told():
        raise ValueError(f"{n} cannot be done")


@task(release_within=1.0, max_attempts=1)
def busy_signal(n: int) -> None:
    with told():
        raise failbetter.Release(after=0.1)


@task(max_attempts=1)
def released_at_first(n: int, times: int) -> int:
    with told():
        if failbetter.current_job().attempt <= times:
            raise failbetter.Release(after=0.05)
        return n


@task(exclusive=lambda key, seconds: key, max_crashes=1_000, max_losses=1_000)
def alone(key: str, seconds: float) -> None:
    with told():
        time.sleep(seconds)


@task(unique=lambda key: key)
def only(key: str) -> str:
    with told():
        return key


@task(on_lost="fail")
def not_twice(n: int, seconds: float) -> int:
    with told():
        time.sleep(seconds)
        return n


@task()
def hold(gate: str) -> None:
    """Runs until somebody makes the file `gate`."""
    with told():
        while not os.path.exists(gate):
            time.sleep(0.005)


@task(
    subject=lambda key, version, gate: key,
    version=lambda key, version, gate: version,
)
def save(key: str, version: int, gate: str) -> None:
    """Of that version of `key`; runs until somebody makes the file `gate`."""
    hold(gate)


class _Records(DeclarativeBase):
    pass


class Parcel(_Records):
    """A record that jobs are given."""

    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str]


def _session() -> Session:
    return Session(sqlalchemy.create_engine(os.environ["FAILBETTER_URL"]))


@task()
def carry(parcel: Parcel, gate: str) -> None:
    """Says where the parcel is; runs until somebody makes the file `gate`."""
    with told():
        record(f"from {parcel.place}")
        while not os.path.exists(gate):
            time.sleep(0.005)


@task(on_lost="fail")
def hold_once(gate: str) -> None:
    """As `hold`, and must never run twice."""
    with told():
        while not os.path.exists(gate):
            time.sleep(0.005)


@task(
    max_attempts=2,
    backoff=failbetter.fixed(0.1),
    breaker=failbetter.Breaker(on=ConnectionError, failures=4, probe_every=0.5, rate=200),
)
def call(service: str) -> None:
    """Needs a service, which is up while there is a file of this name."""
    with told():
        if not os.path.exists(service):
            raise ConnectionError("the service is down")


MAILER = failbetter.RateLimit(10, per=1, name="mailer")


@task(rate_limit=MAILER)
def mail(n: int, seconds: float = 0.0) -> None:
    with told():
        time.sleep(seconds)


@task(rate_limit=MAILER)
async def amail(n: int, seconds: float = 0.0) -> None:
    with told():
        await asyncio.sleep(seconds)


@task(max_attempts=1)
def deliver(url: str, n: int, address: str | None) -> None:
    """Needs a service, and has a bug."""
    with told():
        deliver_to(url, n, address)


@task(
    max_attempts=1,
    breaker=failbetter.Breaker(on=OSError, failures=5, probe_every=0.5, rate=400),
)
def deliver_guarded(url: str, n: int, address: str | None) -> None:
    """As `deliver`, by one who knows of breakers."""
    with told():
        deliver_to(url, n, address)


def deliver_to(url: str, n: int, address: str | None) -> None:
    """Ask the service at that URL, unless it is one of the few with a bug."""
    if address is None:
        raise ValueError(f"order {n} has no address")
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.read()


@task(max_attempts=1)
def bad(n: int) -> None:
    with told():
        raise ValueError(f"{n} cannot be done")


# -- hooks, of an app whose environment asks for them


def heard(event: failbetter.Event) -> None:
    record(f"heard {event.id}")
    if os.environ["FAILBETTER_TEST_HOOKS"] == "raise":
        raise ConnectionError("nobody listens")


def opened(event: failbetter.Event) -> None:
    record(f"opened {event.fingerprint}")


# -- those that die


@task()
def poison(seconds: float = 0.0) -> None:
    with told():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


@task()
def die_at_first(number: int, times: int) -> str:
    """Its process dies by that signal in the first `times` attempts."""
    with told():
        if failbetter.current_job().attempt <= times:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return "lived"


@task(max_crashes=2)
def segfault() -> None:
    with told():
        ctypes.string_at(0)


@task(max_crashes=2)
def leave(code: int) -> None:
    with told():
        os._exit(code)


@task(max_attempts=2, backoff=0.05)
def system_exit(code: int) -> None:
    with told():
        sys.exit(code)


@task(max_attempts=2, backoff=0.05)
def keyboard_interrupt() -> None:
    with told():
        raise KeyboardInterrupt


@task(max_attempts=2, backoff=0.05)
async def async_system_exit(code: int) -> None:
    with told():
        sys.exit(code)


@task(max_attempts=2, backoff=0.05)
async def async_cancelled() -> None:
    with told():
        raise asyncio.CancelledError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class Vicious(Exception):
    """Whatever one asks of it ends the process, or tries to."""

    def __str__(self) -> str:
        sys.exit("str")

    __repr__ = __str__


@task(max_attempts=2, backoff=0.05)
def unspeakable() -> None:
    with told():
        raise Unspeakable


@task(max_attempts=2, backoff=0.05)
def vicious() -> None:
    with told():
        raise Vicious


@task(max_attempts=2, backoff=0.05)
def unpicklable() -> None:
    with told():
        raise Unpicklable("a fine message")


@task(max_attempts=2, backoff=0.05)
def endless_recursion(depth: int = 0) -> None:
    if not depth:
        record("start")
    endless_recursion(depth + 1)


@task(max_attempts=1)
def huge_message() -> None:
    with told():
        raise ValueError("é\0\ud800" * 1_000_000)


@task()
def unstorable() -> object:
    with told():
        return object()


@task()
def endless_result() -> object:
    with told():
        ring: list[Any] = []
        ring.append(ring)
        return ring


@task()
def too_large() -> str:
    with told():
        return "x" * 3_000_000


@task(max_attempts=2, backoff=0.05)
def out_of_memory() -> None:
    """Exhausts its address space; the limit goes with the body."""
    with told():
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = _address_space()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
        try:
            bytearray(1 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


_hoard: list[bytearray] = []


@task(max_attempts=2, max_crashes=2, backoff=0.05)
def out_of_memory_for_good() -> None:
    """Exhausts its address space and keeps all of it: its child has next to nothing left."""
    with told():
        used = _address_space()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        size = 1 << 20
        while size >= 64:
            try:
                while True:
                    _hoard.append(bytearray(size))
            except MemoryError:
                size //= 2
        raise MemoryError


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@task(max_crashes=2)
def close_everything() -> None:
    record("start")
    os.closerange(3, 4096)
    time.sleep(0.05)


@task()
def fork_without_exit() -> int:
    """The copy goes on as if it were the body."""
    with told():
        return os.fork()


@task(max_attempts=1)
def fork_and_raise() -> int:
    with told():
        if os.fork() == 0:
            raise RuntimeError("in the copy")
        return 1


@task()
def fork_and_exit() -> int:
    with told():
        copy = os.fork()
        if copy == 0:
            os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


@task()
def fork_and_leave_behind() -> int:
    """The copy outlives its body."""
    with told():
        copy = os.fork()
        if copy == 0:
            time.sleep(120)
            os._exit(0)
        return copy


@task()
def fork_then_die(die: bool) -> int:
    """Its first attempt leaves a copy that goes on, holding the lines to the supervisor."""
    with told():
        if failbetter.current_job().attempt == 1:
            if os.fork() == 0:
                for _ in range(2_000):
                    record("copy lives")
                    time.sleep(0.01)
                os._exit(0)
            time.sleep(0.2)
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return 1


# -- those that hang; each is stopped 1 s after it began


@task(timeout=1, max_attempts=1)
def hang_asleep() -> None:
    with told():
        while True:
            time.sleep(0.2)


@task(timeout=1, max_attempts=1)
def hang_in_c() -> None:
    """One call, in C, that never lets the interpreter's lock go."""
    with told():
        re.match(r"(a+)+$", "a" * 60 + "b")


@task(timeout=1, max_attempts=1)
def hang_swallowing() -> None:
    with told():
        while True:
            try:
                time.sleep(0.05)
            except BaseException:
                pass


@task(timeout=1, max_attempts=1)
def hang_swallowing_exceptions() -> None:
    """What most code does: it swallows all that derives from Exception."""
    with told():
        while True:
            try:
                time.sleep(0.05)
            except Exception:
                pass


@task(timeout=1, max_attempts=1)
def hang_busy() -> None:
    with told():
        while True:
            pass


@task(timeout=1, max_attempts=1)
async def ahang_asleep() -> None:
    with told():
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


@task(timeout=1, max_attempts=1)
async def ahang_swallowing() -> None:
    with told():
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.05)


@task(timeout=1, max_attempts=1)
async def ahang_busy() -> None:
    """Blocks the loop itself."""
    with told():
        while True:
            pass


@task(timeout=1, max_attempts=1)
async def ahang_in_c() -> None:
    with told():
        re.match(r"(a+)+$", "a" * 60 + "b")


HANGS = [
    "hang_asleep",
    "hang_in_c",
    "hang_swallowing",
    "hang_swallowing_exceptions",
    "hang_busy",
    "ahang_asleep",
    "ahang_swallowing",
    "ahang_busy",
    "ahang_in_c",
]


@task()
def hold_the_interpreter(seconds: float) -> None:
    """Healthy, though nothing else in its process gets a turn meanwhile."""
    with told():
        libc = ctypes.PyDLL(None)
        libc.usleep(int(seconds * 1e6))


@task()
def deaf_for(seconds: float) -> None:
    """Deaf to every request to stop, for so long."""
    with told():
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            with contextlib.suppress(BaseException):
                time.sleep(0.05)


@task()
def run_program(command: list[str]) -> int:
    with told():
        return subprocess.run(command, check=False).returncode


# -- those that resume


@task(max_crashes=1_000, max_losses=1_000)
def mirror_all(count: int, seconds: float, every: int = 1) -> int:
    """Works through a list, one item after another."""
    with told():
        for n in failbetter.current_job().remaining(range(count), every=every):
            record(f"item {n}")
            time.sleep(seconds)
            record(f"done {n}")
        return count


@task(max_crashes=1_000, max_losses=1_000)
async def amirror_all(count: int, seconds: float) -> int:
    with told():
        async for n in failbetter.current_job().aremaining(range(count)):
            record(f"item {n}")
            await asyncio.sleep(seconds)
            record(f"done {n}")
        return count


@task(max_crashes=1_000, max_losses=1_000)
def mirror_each(count: int, seconds: float) -> int:
    """Works through a list, several items at a time."""

    def mirror(n: int) -> None:
        record(f"item {n}")
        time.sleep(seconds)
        record(f"done {n}")

    with told():
        return failbetter.current_job().each(range(count), mirror, concurrency=4).done


@task(max_crashes=1_000, max_losses=1_000)
async def amirror_each(count: int, seconds: float) -> int:
    async def mirror(n: int) -> None:
        record(f"item {n}")
        await asyncio.sleep(seconds)
        record(f"done {n}")

    with told():
        return (await failbetter.current_job().aeach(range(count), mirror, concurrency=4)).done


def _unless_bad(n: int) -> None:
    if n in BAD:
        raise ConnectionError(f"no luck with {n}")


BAD = (3, 7)


@task()
def some_fail(count: int) -> str:
    with told():
        failbetter.current_job().each(range(count), _unless_bad, errors="collect", concurrency=2)
        return "came to the end"


@task(on_partial="succeed")
def some_may_fail(numbers: list[int]) -> str:
    with told():
        failbetter.current_job().each(numbers, _unless_bad, errors="collect")
        return "came to the end"


@task(max_attempts=2, backoff=0.0)
def first_error_stops(count: int) -> None:
    with told():
        failbetter.current_job().each(range(count), _unless_bad, concurrency=2)


@task(max_crashes=1_000, max_losses=1_000)
def by_cursor(pages: int, seconds: float) -> int:
    with told():
        job = failbetter.current_job()
        page = job.cursor or 0
        record(f"from {page}")
        while page < pages:
            time.sleep(seconds)
            page += 1
            job.save_cursor(page)
            job.progress(page, pages)
        return int(page)


@task(stalled_after=0.5, max_attempts=1)
def stuck(seconds: float, signs: int = 0) -> str:
    """Gives so many signs of progress, and then none."""
    with told():
        job = failbetter.current_job()
        for n in range(signs):
            time.sleep(0.2)
            job.save_cursor(n)
        time.sleep(seconds)
        return "came through"


@task(stalled_after=0.3, max_attempts=1)
def stuck_in_c() -> None:
    """Hears of nothing: its process must be killed."""
    with told():
        re.match(r"(a+)+$", "a" * 40 + "b")


def _look_up(doubt: failbetter.Doubt, folder: str) -> bool | failbetter.Happened | None:
    """Asks the one who would know: the file that the effect leaves."""
    if os.path.exists(f"{folder}/nobody-knows"):
        return None
    if os.path.exists(f"{folder}/{doubt.name}"):
        return failbetter.Happened("seen")
    return False


@task(verify=_look_up, max_crashes=1_000, max_losses=1_000)
def pay_and_see(folder: str) -> str:
    """An effect in whose midst its process dies at the first attempt, before or after it."""
    with told():

        def charge() -> str:
            first = failbetter.current_job().attempt == 1
            if first and os.path.exists(f"{folder}/die-before"):
                os.kill(os.getpid(), signal.SIGKILL)
            _effect("charge", 1)
            pathlib.Path(f"{folder}/charge").touch()
            if first:
                os.kill(os.getpid(), signal.SIGKILL)
            return "done"

        return failbetter.current_job().once("charge", charge)


# -- those that commit with their success


@task(max_crashes=1_000, max_losses=1_000)
def book(n: int) -> None:
    """Writes a row of the user's own in one commit with the job's success."""
    record("start")
    with failbetter.current_job().transaction(result=n) as connection:
        connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")
        record("end")  # a death after the commit comes too late to change anything


@task(max_crashes=1_000, max_losses=1_000)
def book_late(n: int, seconds: float) -> None:
    with told():
        time.sleep(seconds)
        with failbetter.current_job().transaction() as connection:
            connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")


@task(max_attempts=1)
def book_badly(n: int) -> None:
    with told(), failbetter.current_job().transaction() as connection:
        connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")
        raise ValueError("a change of mind")


@task(max_attempts=1)
def book_and_raise(n: int) -> None:
    with told():
        with failbetter.current_job().transaction(result=lambda: n + 1) as connection:
            connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")
        raise ValueError("too late")


@task(max_attempts=1)
def book_in_session(n: int) -> None:
    with told():
        job = failbetter.current_job()
        engine = sqlalchemy.create_engine(os.environ["FAILBETTER_URL"])
        with Session(engine) as session, job.transaction(connection=session) as given:
            assert given is session
            session.execute(sqlalchemy.text("INSERT INTO books VALUES (:n)"), {"n": n})


@task(max_attempts=1)
def book_too_slowly(n: int) -> None:
    with told(), failbetter.current_job().transaction(timeout=0.2) as connection:
        connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")
        time.sleep(0.4)


@task(max_attempts=1)
def book_and_ask(n: int, what: str) -> None:
    """What cannot be had inside the transaction says so at once."""
    with told():
        job = failbetter.current_job()
        app = make_app()
        with job.transaction() as connection:
            connection.exec_driver_sql(f"INSERT INTO books VALUES ({n})")
            if what == "effect":
                job.once("charge", lambda: 1)
            elif what == "cursor":
                job.save_cursor(1)
            else:
                app.tasks["work"].using(connection=connection).enqueue(n)


# -- for what is known of a death


@task(max_crashes=1)
def devour() -> None:
    """Takes memory until the kernel has had enough."""
    with told():
        kept = []
        while True:
            kept.append(b"x" * (8 << 20))


@task()
def counted(done: int, total: int) -> int:
    """Says how far it is and waits; at the second attempt it returns."""
    with told():
        job = failbetter.current_job()
        if job.attempt == 1:
            job.progress(done, total)
            record("counted")
            time.sleep(60)
        return done
