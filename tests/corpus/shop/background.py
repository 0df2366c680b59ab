import asyncio
import concurrent.futures
import signal
import time

from shop.errors import ShopError


def crunch(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(number * number for number in range(500))
        max(range(200))


def index_all(seconds):
    crunch(seconds)


def wait_for_stock(seconds):
    time.sleep(seconds)


class Limit:
    """As RQ's death penalty: an alarm that raises in whatever runs."""

    def __init__(self, seconds, kind):
        self.seconds, self.kind = seconds, kind

    def handle_alarm(self, number, frame):
        raise self.kind(f"task exceeded its limit of {self.seconds} seconds")

    def __enter__(self):
        signal.signal(signal.SIGALRM, self.handle_alarm)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *exc):
        signal.setitimer(signal.ITIMER_REAL, 0)


async def poll(queue):
    return await queue.get()


async def confirm(event):
    await event.wait()


async def listen(seconds):
    return await asyncio.wait_for(poll(asyncio.Queue()), seconds)


async def confirmed(seconds):
    return await asyncio.wait_for(confirm(asyncio.Event()), seconds)


def score(number):
    return 100 // (number - number)


def rank(number):
    return [1, 2, 3][number + 3]


def score_all(numbers):
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        return list(pool.map(score, numbers))


def rank_all(numbers):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return list(pool.map(rank, numbers))


def rank_apart(numbers):
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        return list(pool.map(rank, numbers))


def fan_out(numbers):
    for number in numbers:
        try:
            score(number)
        except ZeroDivisionError as error:
            raise ShopError(f"{type(error).__name__}: {error}") from error


def recurse(depth):
    return bounce(depth + 1)


def bounce(depth):
    return recurse(depth + 1)
