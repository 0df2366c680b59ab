"""Pruning under kills: a job is there whole, or not at all, and then it is in the file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from tests.faults.harness import APP, Site, wait_until

from failbetter import ids
from failbetter.ledger.schema import attempts, jobs

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 1_200
DAY = 86_400_000_000
_PRUNE = """
import sys
app.prune("1h", export=sys.argv[1])
"""


def old_jobs(site: Site, days: int = 8) -> set[str]:
    """Jobs that were done, and so many days ago."""
    made = site.enqueue_many("work", [(n,) for n in range(COUNT)])
    site.drain()
    with site.app.database.engine.begin() as connection:
        for column in (jobs.c.ended_at, jobs.c.begun_at):
            connection.execute(
                sqlalchemy.update(jobs)
                .values({column: column - days * DAY})
                .where(jobs.c.live.is_(None))
            )
    return {job.id for job in made}


def left(site: Site) -> set[str]:
    """The jobs that are there; none of them, and no attempt, is a half."""
    found = {row[0] for row in site.app.database.query(sqlalchemy.select(jobs.c.id))}
    told = {row[0] for row in site.app.database.query(sqlalchemy.select(attempts.c.job_id))}
    assert told == found
    return {ids.to_text(number) for number in found}


@pytest.mark.parametrize("fault", ["before_pruning:2", "in_pruning:2"])
def test_killed_in_the_middle_nothing_is_gone_that_is_not_in_the_file(
    site: Site, tmp_path: Path, fault: str
) -> None:
    made = old_jobs(site)
    path = tmp_path / "old.jsonl"
    process = site.python(_PRUNE, path, FAILBETTER_FAULT=fault)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    there = left(site)
    assert len(there) == COUNT - 500, "the first batch is gone, the second is not"
    written = {json.loads(line)["id"] for line in path.read_text().splitlines()}
    assert made - there <= written
    again = site.python(_PRUNE, tmp_path / "rest.jsonl")
    site.output_of(again)
    assert left(site) == set()


def test_maintain_prunes_for_an_app_and_for_none_does_not(site: Site) -> None:
    old_jobs(site)
    for settings, expected in (({"url": site.url}, COUNT), ({"app": APP}, 0)):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "failbetter.worker.maintain",
                json.dumps({**settings, "once": True}),
            ],
            env=site.environment(),
            cwd=site.folder,
            timeout=60,
        )
        assert done.returncode == 0
        assert len(left(site)) == expected


def test_a_worker_killed_while_it_prunes_leaves_no_half_and_another_goes_on(site: Site) -> None:
    old_jobs(site)
    first = site.worker(fault="in_pruning:2", ready=False)
    assert first.wait() == -signal.SIGKILL
    assert 0 < len(left(site)) < COUNT
    site.worker()
    # The turn of the dead one runs out first.
    wait_until(lambda: site.app.jobs.count() == 0, "the rest to be pruned", 90.0)
    assert left(site) == set()
