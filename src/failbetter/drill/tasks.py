"""The tasks of a drill: each works on as its earlier attempts left off, and says what it does.

Until the drill says go, bodies are held in their middle, so that whatever strikes finds them there.
"""

from __future__ import annotations

from typing import Any

import failbetter
from failbetter.drill.book import Book
from failbetter.limits import DRILL

STRETCHES = 5
"""Attempt n of a list is held after n fifths of it."""

HELD_EFFECT = 1
"""The item in whose effect a job is held, where it is to be held in one."""


def drill_app(app: failbetter.App) -> failbetter.App:
    """The app, with the tasks of a drill."""
    patient: dict[str, Any] = {"max_attempts": 3, "backoff": 0.1, "timeout": "10m"}
    app.task(name=f"{DRILL}list", **patient)(through_a_list)
    app.task(name=f"{DRILL}pages", **patient)(through_pages)
    app.task(name=f"{DRILL}effects", verify=has_happened, **patient)(with_effects)
    app.task(name=f"{DRILL}sleep", **patient)(asleep)
    app.task(name=f"{DRILL}fragile", on_lost="fail", **patient)(fragile)
    return app


def held_at(attempt: int, items: int) -> int:
    """The item at which that attempt of a list, or of pages, is held."""
    return min(attempt * items // STRETCHES, items - 1)


def through_a_list(items: int) -> int:
    """Work through a list, of which each finished item is kept."""
    job, book = failbetter.current_job(), Book.of_environment()
    for item in job.remaining(range(items)):
        book.begin(job.id, job.attempt, item)
        if item >= held_at(job.attempt, items):
            book.hold()
        book.done(job.id, job.attempt, item)
    return items


def through_pages(items: int) -> int:
    """Work through pages, with a cursor and a count of its own."""
    job, book = failbetter.current_job(), Book.of_environment()
    for page in range(job.cursor or 0, items):
        book.begin(job.id, job.attempt, page)
        if page >= held_at(job.attempt, items):
            book.hold()
        book.done(job.id, job.attempt, page)
        job.save_cursor(page + 1)
        job.progress(page + 1, items)
    return items


def with_effects(items: int, held: str | None = None) -> int:
    """Work through a list, with an effect for each item.

    `held`: "before" or "after" one of them happens, in the first attempt: where a death leaves it
    in doubt.
    """
    job, book = failbetter.current_job(), Book.of_environment()

    def happen(item: int) -> int:
        here = held if job.attempt == 1 and item == HELD_EFFECT else None
        if here == "before":
            book.hold()
        book.effect(job.effect_key(effect_name(item)))
        if here == "after":
            book.hold()
        return item

    for item in job.remaining(range(items)):
        book.begin(job.id, job.attempt, item)
        job.once(effect_name(item), lambda item=item: happen(item))  # type: ignore[misc]
        book.done(job.id, job.attempt, item)
    return items


def effect_name(item: int) -> str:
    """The name of an item's effect."""
    return f"effect-{item}"


def has_happened(doubt: failbetter.Doubt, items: int, held: str | None = None) -> bool:
    """Whether the effect is among those that happened."""
    return doubt.key in Book.of_environment().effects()


def asleep() -> None:
    """Do nothing, for as long as it takes."""
    job, book = failbetter.current_job(), Book.of_environment()
    book.begin(job.id, job.attempt, 0)
    book.hold()
    book.done(job.id, job.attempt, 0)


def fragile() -> None:
    """What must not run a second time when its first run is lost."""
    asleep()
