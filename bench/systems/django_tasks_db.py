"""django-tasks-db on PostgreSQL: Django's tasks with its database backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.systems.base import Counts
from bench.systems.on_postgres import OnPostgres


class DjangoTasksDb(OnPostgres):
    """One worker is one process; two processes are two of them."""

    key = "django-tasks-db"
    title = "django-tasks-db"
    family = "peer"
    tasks = "bench.systems.django_tasks_db_tasks"
    counts = Counts(one=1_500, bulk=0, drain=600, spin=0, latency=80)
    measures = frozenset({"enqueue", "drain", "latency", "memory"})
    drains = ("drain.1", "drain.two-workers")

    def reach(self, url: str) -> Mapping[str, str]:
        settings = "bench.systems.django_tasks_db_settings"
        return {**super().reach(url), "DJANGO_SETTINGS_MODULE": settings}

    def installer(self) -> Sequence[str]:
        return [str(self.python.with_name("django-admin")), "migrate", "--verbosity", "0"]

    def worker_command(self, processes: int) -> Sequence[str]:
        # It polls; its default of a second would only measure the setting.
        return [str(self.python.with_name("django-admin")), "db_worker", "--interval", "0.01",
                "--no-startup-delay", "--verbosity", "0"]  # fmt: skip
