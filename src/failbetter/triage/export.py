"""Jobs as JSON lines: all that is kept of each, for people and programs elsewhere.

Read a page at a time, so that memory stays flat however many there are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from failbetter import ledger
from failbetter.durations import to_datetime
from failbetter.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from failbetter.ledger.database import Database
    from failbetter.ledger.filters import Filters
    from failbetter.ledger.reads import AttemptRow, EffectRow, JobRow

# Rows of jobs are read so many at a time, since each page costs a search; what is kept of them,
# with tracebacks, for fewer.
_PAGE = 2_000
_STORIES = 200
# Not a port followed by a path, in which an @ may stand.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)(?!\d+/)[^\s@]+@")


def lines(database: Database, pages: Iterable[Sequence[JobRow]]) -> Iterator[bytes]:
    """A line for each job. Arguments that the task redacts, and passwords in URLs, are masked."""
    for rows in _parted(pages):
        numbers = [row.id for row in rows]
        attempts = ledger.stories.attempts_of(database, numbers)
        effects = ledger.stories.effects_of(database, numbers)
        for row in rows:
            document = _document(
                Job(database, row.id, row=row), attempts.get(row.id, ()), effects.get(row.id, ())
            )
            yield msgspec.json.encode(document) + b"\n"


def _parted(pages: Iterable[Sequence[JobRow]]) -> Iterator[Sequence[JobRow]]:
    for page in pages:
        for first in range(0, len(page), _STORIES):
            yield page[first : first + _STORIES]


def to_file(
    database: Database,
    filters: Filters,
    limit: int | None,
    path: str | os.PathLike[str],
    *,
    force: bool,
) -> int:
    """Write the jobs, newest first, to a file that is there only once it is whole; how many.

    Raises FileExistsError unless `force`, and OSError.
    """
    target = Path(path)
    if not force:
        _refuse_existing(target)
    with _beside(target) as (sink, temporary):
        count = to_stream(database, filters, limit, sink)
        sink.flush()
        os.fsync(sink.fileno())
        if not force:
            _refuse_existing(target)
        temporary.replace(target)
    return count


def to_stream(database: Database, filters: Filters, limit: int | None, sink: IO[bytes]) -> int:
    """Write the jobs, newest first, to an open stream; how many there were."""
    count = 0
    for line in lines(database, ledger.reads.pages(database, filters, limit, _PAGE)):
        sink.write(line)
        count += 1
    return count


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(errno.EEXIST, "there is such a file already", str(path))


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file in the same folder, that is gone afterwards unless it was given another name."""
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as sink:
            yield sink, temporary
    finally:
        temporary.unlink(missing_ok=True)


class Record:
    """A file that is written before what it holds is deleted; a new one, or FileExistsError."""

    def __init__(self, database: Database, path: str | os.PathLike[str]) -> None:
        self._database = database
        _refuse_existing(Path(path))
        self._sink = open(path, "xb")  # noqa: SIM115  # for as long as the pruning lasts

    def add(self, rows: Sequence[JobRow]) -> None:
        """Write the jobs; they are on disk when this returns."""
        for line in lines(self._database, [rows]):
            self._sink.write(line)
        self._sink.flush()
        os.fsync(self._sink.fileno())

    def close(self) -> None:
        """Close the file."""
        self._sink.close()


def _document(
    job: Job, attempts: Sequence[AttemptRow], effects: Sequence[EffectRow]
) -> dict[str, Any]:
    row = job.row
    return {
        "id": job.id,
        "task": row.task,
        "queue": row.queue,
        "priority": row.priority,
        "state": row.state,
        "reason": row.reason,
        "attempt": job.attempt,
        "created_at": _stamp(row.created_at),
        "run_at": _stamp(row.run_at),
        "ended_at": _stamp(row.ended_at),
        "args": job.args,
        "tags": list(job.tags),
        "subject": row.subject,
        "error_type": row.error_type,
        "error_message": _masked(row.error_message),
        "fingerprint": row.fingerprint,
        "result": _json(row.result),
        "note": row.note,
        "attempts": [_attempt(job.id, attempt) for attempt in attempts],
        "effects": [_effect(effect) for effect in effects],
    }


def _attempt(job: str, row: AttemptRow) -> dict[str, Any]:
    return {
        "id": f"{job}.{row.fence}",
        "number": row.number,
        "cause": row.cause,
        "state": row.state,
        "reason": row.reason,
        "begun_at": _stamp(row.begun_at),
        "ended_at": _stamp(row.ended_at),
        "next_run_at": _stamp(row.run_at),
        "worker": row.worker,
        "code": row.code,
        "error_type": row.error_type,
        "error_message": _masked(row.error_message),
        "traceback": _masked(row.traceback),
        "evidence": _json(row.evidence) or {},
    }


def _effect(row: EffectRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "intended_at": _stamp(row.intended_at),
        "done_at": _stamp(row.done_at),
        "result": _json(row.result),
    }


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.Raw(text.encode())


def _stamp(moment: int | None) -> str | None:
    at = to_datetime(moment)
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _masked(text: str | None) -> str | None:
    return None if text is None else _PASSWORD.sub(r"\1***@", text)
