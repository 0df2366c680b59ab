import asyncio
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from press.faults import PressError


class Step:
    def __init__(self, name, call):
        self.name, self.call = name, call

    def __call__(self, *args):
        return self.call(*args)


def guarded(call):
    def wrapped(*args):
        try:
            return call(*args)
        except Exception as error:
            raise PressError(f"step failed: {error!r}") from error

    return wrapped


def words_per_page(words, pages):
    return words / pages


def pick(pages, number):
    return pages[number]


def publish(page, targets):
    for target in targets:
        data = page["body"].encode(page["charset"])
        target.send(data)


safe_pick = guarded(pick)
safe_words = guarded(words_per_page)


def chain(steps, *args):
    for step in steps:
        args = (step(*args),)
    return args[0]


async def proof(page):
    await asyncio.sleep(0)
    return page["proof"]


async def print_run(page):
    raise PressError("the press is out of paper")


async def together(pages):
    async with asyncio.TaskGroup() as group:
        for page in pages:
            group.create_task(proof(page))


async def gathered(pages):
    return await asyncio.gather(*(proof(page) for page in pages))


async def printed(pages):
    return await asyncio.gather(*(print_run(page) for page in pages))


async def within(seconds, call):
    async with asyncio.timeout(seconds):
        await call


async def idle():
    await asyncio.sleep(9)


async def stuck():
    await asyncio.Event().wait()


def take(seconds):
    return queue.Queue().get(timeout=seconds)


def barrier(seconds):
    threading.Barrier(2).wait(seconds)


def wait_for_printer(seconds):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(threading.Event().wait, seconds * 3).result(seconds)


def setting(name):
    return os.environ[name]


def plan(pages):
    assert pages, "nothing to print"
    sizes = {page["id"]: int(page["size"]) for page in pages}
    return sorted(sizes.items(), key=lambda item: 100 // item[1])


def layout(depth, tree):
    return [layout(depth + 1, child) for child in tree]
