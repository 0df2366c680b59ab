"""The figures as Prometheus reads them. What is not known is absent, never zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failbetter.health.findings import age

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from failbetter.health.figures import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def families(figures: Figures | None) -> Iterator[Metric]:
    """The metrics. `figures` None: the ledger could not be asked, and that alone is known.

    Raises ImportError without the extra `metrics`.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def gauge(name: str, text: str, value: float | None) -> Metric:
        return GaugeMetricFamily(f"failbetter_{name}", text, value=value)

    yield gauge("ledger_up", "1 when the ledger could be asked.", float(figures is not None))
    if figures is None:
        return
    most = figures.most
    jobs = GaugeMetricFamily(
        "failbetter_jobs",
        f"Jobs by state; {most + 1} means more than {most}.",
        labels=["state"],
    )
    for state, number in figures.counts.items():
        jobs.add_metric([state], number)
    yield jobs
    yield gauge(
        "oldest_waiting_seconds",
        "For how long the job that waits longest has been due; 0 when none is.",
        age(figures, figures.oldest) or 0.0,
    )
    yield gauge(
        "jobs_needing_recovery",
        f"Jobs whose worker is gone; {most + 1} means more than {most}.",
        figures.stranded,
    )
    yield gauge("workers", "Workers that are alive.", len(figures.alive))
    yield gauge("workers_lease_expired", "Workers not heard of.", len(figures.silent))
    yield gauge(
        "workers_old_code",
        "Living workers with other code than was loaded last, or is on their disk.",
        len(figures.outdated),
    )
    if figures.recovery.swept_at is not None:
        yield gauge(
            "last_sweep_timestamp_seconds",
            "When somebody last looked for interrupted jobs and could.",
            figures.recovery.swept_at.timestamp(),
        )
    swept = CounterMetricFamily(
        "failbetter_swept_jobs",
        "What sweeps have done with jobs that were interrupted or waited too long.",
        labels=["outcome"],
    )
    for outcome in ("handed_back", "ended", "refused"):
        swept.add_metric([outcome], getattr(figures.recovery.swept, outcome))
    yield swept
    if figures.pruned is not None:
        pruned = CounterMetricFamily(
            "failbetter_pruned_jobs",
            "Jobs deleted because they were past their time, by the state in which they ended.",
            labels=["state"],
        )
        for state in ("succeeded", "discarded", "failed"):
            pruned.add_metric([state], getattr(figures.pruned, state))
        yield pruned
        yield gauge(
            "retention_behind_seconds",
            "How long past its time the oldest job is that should be deleted; 0 when none is.",
            max(figures.pruned.behind.values(), default=0.0),
        )
    yield gauge(
        "mirror_waiting",
        f"Mirrored rows still to be written; {most + 1} means more than {most}.",
        figures.mirrored.count,
    )
    yield gauge(
        "mirror_oldest_waiting_seconds",
        "For how long the oldest of them has been waiting; 0 when none is.",
        age(figures, figures.mirrored.since) or 0.0,
    )


class _Families:
    """What prometheus_client collects from."""

    def __init__(self, figures: Figures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        return families(self._figures)


def text(figures: Figures | None) -> bytes:
    """The metrics in Prometheus's text format, of CONTENT_TYPE. Raises ImportError as above."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Families(figures))
    return generate_latest(registry)
