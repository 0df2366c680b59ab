"""Accepted means durable: producers are killed, too, at random moments (promise 1)."""

from __future__ import annotations

import random

from tests.faults.harness import Site, accepted_by_others, wait_until

PRODUCE = """
n = 0
while True:
    record_accepted(app.tasks["plain"].enqueue(n))
    for job in app.tasks["work"].enqueue_many([(k,) for k in range(n % 50)]):
        record_accepted(job)
    n += 1
"""


def test_producers_killed(site: Site) -> None:
    """Every job whose `enqueue` had returned is in the ledger, and a batch is whole or absent."""
    rng = random.Random(site.seed)
    worker = site.worker(processes=1)
    for _ in range(8):
        before = len(accepted_by_others(site))
        producers = [site.python(PRODUCE) for _ in range(2)]
        more = rng.randrange(1, 400)
        wait_until(lambda enough=before + more: len(accepted_by_others(site)) >= enough, "jobs")
        for producer in producers:
            producer.kill()
            producer.wait()
    site.accepted = accepted_by_others(site)
    site.wait_all_over(60)
    worker.kill()
    site.check()
    batches: dict[object, int] = {}
    for job in site.app.jobs.where(task="work"):
        batches[job.row.created_at] = batches.get(job.row.created_at, 0) + 1
    assert site.app.jobs.count() <= len(site.accepted) + 16 * 50
