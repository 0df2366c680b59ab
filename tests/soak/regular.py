"""That what is asked of a ledger regularly is found by a seek, however many jobs have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from failbetter import retention
from failbetter.ledger import claims, pruning, registry, supersession
from failbetter.ledger.supersession import About
from failbetter.retention import Keep, Pruner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.servers.plans import Plan
    from tests.soak.churn import Churn

    from failbetter import App

LARGEST: Final = 2_000
"""Pages that a statement may look at: of what a busy worker does, one is about many jobs."""
_PRUNED: Final = 5.0
"""Seconds of the past whose jobs are deleted."""
_TABLES: Final = ("failbetter_jobs", "failbetter_attempts")


def regular(app: App, churn: Churn) -> None:
    """What workers and health do, and a look at one job; by connections that are opened for it."""
    app.database.close()
    churn.round(100)
    (job,) = app.tasks["kept"].enqueue_many([(1,)])
    with app.database.write() as tx:
        claimed, _ = claims.claim(tx, churn.worker.id, [], 1, tx.now())
        claims.mark_begun(tx, [(tx.now(), one.id, one.fence, churn.worker.id) for one in claimed])
        claims.give_back(tx, [(one.id, one.fence, churn.worker.id) for one in claimed], tx.now())
    with app.database.look() as tx:
        claims.any_live(tx, [])
        registry.someone_idles(tx, "elsewhere")
        registry.held(tx, churn.worker.id, 0, 1_000)
    _prune_a_little(app)
    with app.database.write() as tx:
        about = About("nothing", "of many", tx.now())
        supersession.record(tx, [(churn.worker.id, about)], tx.now())
        assert not supersession.is_outdated(tx, churn.worker.id)
        tx.rows(supersession.OUTDATED_OF_WORKER, churn.worker.id)
    job.cancel()
    assert app.job(job.id).attempts == []
    app.database.close()


def _prune_a_little(app: App) -> None:
    """Delete the first that ended, as if only they were past their time."""
    with app.database.look() as tx:
        first = pruning.oldest(tx, "succeeded")
        assert first is not None
        age = (tx.now() - first) / 1e6
        keep = Keep(succeeded=max(age - _PRUNED, 0), discarded=None, failed=age)
        retention.is_due(tx, keep, 1)
    assert Pruner(app.database, keep, 1).step()


def unbounded(plans: Iterable[Plan], pages: int = LARGEST) -> Iterator[str]:
    """Those plans whose cost would grow with the number of ended jobs, or that were compiled."""
    for plan in plans:
        if any(plan.reads_whole(table) for table in _TABLES):
            yield f"reads the whole table: {plan.outline()}"
        elif max(plan.pages, plan.discarded) > pages:
            yield f"reads much: {plan.outline()}"
        elif plan.compiled and _TABLES[0] in plan.text:
            yield f"compiled just in time: {plan.outline()}"
