"""Looking records up: for a body that is about to run, and for a preview of many jobs."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from failbetter.records.models import Library, library_of
from failbetter.records.references import Reference, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

Call = tuple[tuple[Any, ...], dict[str, Any]]

_logger = logging.getLogger("failbetter.records")

_CHUNK = 500
"""Keys that are asked about in one query."""


class Missing(Exception):
    """A record that a job refers to is not there."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(f"there is no {reference}")
        self.reference = reference


class Loading:
    """Records of one job, and the sessions that they live in."""

    def __init__(self, factory: Callable[[], Any] | None) -> None:
        self._factory = factory
        self._sessions: dict[Library, Any] = {}

    def load(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
        """The arguments with records in the place of references. Raises Missing."""
        return (
            tuple(replaced(value, self._record) for value in args),
            {name: replaced(value, self._record) for name, value in kwargs.items()},
        )

    def load_elsewhere(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
        """`load` in a thread other than the one that the records are used in."""
        found = self.load(args, kwargs)
        for library, session in self._sessions.items():
            library.leave_thread(session)
        return found

    def _record(self, reference: Reference) -> Any:
        library, session = self._session(reference)
        found = library.load(session, reference.model, reference.key, reference.database)
        if found is None:
            raise Missing(reference)
        return found

    def existing(
        self, model: type, keys: Collection[tuple[Any, ...]], database: str | None
    ) -> set[tuple[str, ...]]:
        """Those of the keys that have a record, each as `comparable` has it."""
        wanted = list(keys)
        found = set()
        library, session = self._session(Reference(model, wanted[0], database))
        for at in range(0, len(wanted), _CHUNK):
            chunk = wanted[at : at + _CHUNK]
            rows = library.existing(session, model, chunk, database)
            found |= {comparable(key) for key in rows}
        return found

    def _session(self, reference: Reference) -> tuple[Library, Any]:
        library = library_of(reference.model)
        assert library is not None
        if library not in self._sessions:
            self._sessions[library] = library.open(self._factory)
        return library, self._sessions[library]

    def close(self) -> None:
        """Close the sessions. What that raises is logged: it changes nothing that was done."""
        while self._sessions:
            library, session = self._sessions.popitem()
            try:
                library.close(session)
            except Exception:
                _logger.warning("a session with records could not be closed", exc_info=True)


class Records:
    """How the records of an app are found."""

    def __init__(self) -> None:
        self.factory: Callable[[], Any] | None = None
        """What opens a session of SQLAlchemy; None: nobody has said."""

    def loading(self) -> Loading:
        """Something to look records up with; to be closed."""
        return Loading(self.factory)

    @contextlib.contextmanager
    def loaded(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Call]:
        """The arguments with records in the place of references, while the block lasts.

        Raises Missing, and whatever the library raises that looks them up.
        """
        loading = self.loading()
        try:
            yield loading.load(args, kwargs)
        finally:
            loading.close()

    def missing(self, references: Collection[Reference]) -> set[Reference]:
        """Those that refer to nothing; one query for each model and so many keys.

        Where it cannot be asked, nothing is said to be missing: that is logged, and found out when
        the job runs.
        """
        by_model: dict[tuple[type, str | None], set[tuple[Any, ...]]] = defaultdict(set)
        for one in references:
            by_model[one.model, one.database].add(one.key)
        gone = set()
        loading = self.loading()
        try:
            for (model, database), keys in by_model.items():
                existing = loading.existing(model, keys, database)
                gone |= {
                    Reference(model, key, database)
                    for key in keys
                    if comparable(key) not in existing
                }
        except Exception as error:  # the library's own, or a session that cannot be opened
            _logger.warning("whether records are there cannot be asked: %s", error)
        finally:
            loading.close()
        return gone


def comparable(key: tuple[Any, ...]) -> tuple[str, ...]:
    """A key such that two which the database may hold to be the same are the same."""
    return tuple(map(_comparable, key))


def _comparable(part: Any) -> str:
    if isinstance(part, Decimal):
        part = part.normalize()
    elif isinstance(part, datetime) and part.tzinfo is not None:
        part = part.astimezone(UTC)
    return str(part).rstrip().casefold()
