"""Whoever edits a failed job is killed in the middle: both jobs are as they should be, or neither.

Issue 5, item 5.
"""

from __future__ import annotations

import sqlalchemy
from tests.faults.harness import Site

from failbetter.ledger.schema import jobs

SCRIPT = "next(iter(app.failed)).edit_and_retry({'n': 5}, note='killed')"


def test_killed_in_the_transaction_nothing_is_done(site: Site) -> None:
    job = site.enqueue("plain", 1)
    values = {"state": "failed", "reason": "error", "rank": None, "live": None}
    with site.app.database.engine.begin() as connection:
        connection.execute(sqlalchemy.update(jobs).values(ended_at=jobs.c.created_at, **values))
    assert site.python(SCRIPT, FAILBETTER_FAULT="in_edit").wait(60) == -9
    assert (job.refresh().state, job.edited_as, site.app.jobs.count()) == ("failed", None, 1)
    assert site.python(SCRIPT).wait(60) == 0
    edit = job.refresh().edited_as
    assert edit is not None
    assert (job.state, job.reason) == ("discarded", "by_operator")
    site.drain()
    assert site.app.job(edit.made).result(timeout=30) == 6
    assert site.log.starts(job) == []
