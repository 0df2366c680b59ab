"""A body that works on a record is killed in its middle: the next attempt looks it up afresh.

A12, promise 4.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.faults.apps import Parcel
from tests.faults.harness import Site


def test_killed_in_the_middle_it_is_loaded_again(site: Site, tmp_path: Path) -> None:
    engine = create_engine(site.url)
    Parcel.metadata.create_all(engine)
    gate = tmp_path / "gate"
    with Session(engine) as session:
        parcel = Parcel(id=7, place="here")
        session.add(parcel)
        session.commit()
        job = site.enqueue("carry", parcel, str(gate))
        worker = site.worker(processes=1)
        site.log.wait_for("from here", job)
        (child,) = worker.children()
        child.kill()
        site.log.wait_for("from here", job, times=2)
        parcel.place = "there"
        session.commit()
        (child,) = worker.children()
        child.kill()
        site.log.wait_for("from there", job)
        gate.touch()
        site.wait_over([job])
        assert (job.refresh().state, job.row.crashes) == ("succeeded", 2)
    engine.dispose()
