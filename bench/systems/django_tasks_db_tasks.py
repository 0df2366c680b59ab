"""django-tasks-db's tasks and producer; imported by its workers, too."""

from __future__ import annotations

import os
from collections.abc import Callable

import django  # type: ignore[import-not-found,unused-ignore]
from django.apps import apps  # type: ignore[import-not-found,unused-ignore]

from bench import bodies
from bench.eye import Eye

if not apps.ready:
    django.setup()

from django_tasks import task  # type: ignore[import-not-found,unused-ignore]


@task  # type: ignore[untyped-decorator,unused-ignore]
def noop(n: int) -> int:
    """Its worker finds a task by its module and name, so each is written out."""
    return bodies.noop(n)


@task  # type: ignore[untyped-decorator,unused-ignore]
def touch(n: int) -> int:
    """See `noop`."""
    return bodies.touch(n)


_tasks = {"noop": noop, "touch": touch}


class _Producer:
    def __init__(self) -> None:
        live = "django_tasks_database_dbtaskresult WHERE status IN ('READY', 'RUNNING')"
        self._eye = Eye(os.environ["BENCH_POSTGRES"], live)

    def one(self, body: str) -> Callable[[int], object]:
        call: Callable[[int], object] = _tasks[body].enqueue
        return call

    def ended(self, total: int) -> bool:
        return self._eye.sees_none()


producer = _Producer()
