"""What the two libraries call a record, its key, and how they find it again.

Neither is imported here: a class of theirs is only met where the user's code has loaded them, and
brings along what is needed.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Key = tuple[Any, ...]
"""A record's primary key, column by column."""


class Library(ABC):
    """One library's models. A model is a class, a record an instance of it."""

    @abstractmethod
    def owns(self, kind: type) -> bool:
        """Whether the class is a model of this library that has a table."""

    @abstractmethod
    def name(self, model: Any) -> str:
        """What a payload calls the model."""

    @abstractmethod
    def identify(self, record: Any) -> tuple[Key, str | None]:
        """The record's key, and its database unless that is the usual one.

        Raises TypeError for a record that nobody else could find.
        """

    @abstractmethod
    def read(self, model: Any, parts: Sequence[Any]) -> Key:
        """The key, whose parts came out of JSON, as the library takes it. Raises ValueError."""

    @abstractmethod
    def open(self, factory: Callable[[], Any] | None) -> Any:
        """Begin to look records up: a session, if the library has such a thing."""

    @abstractmethod
    def close(self, session: Any) -> None:
        """End that; what was not committed is undone."""

    @abstractmethod
    def leave_thread(self, session: Any) -> None:
        """Let go of what belongs to this thread alone, once the records are loaded."""

    @abstractmethod
    def load(self, session: Any, model: Any, key: Key, database: str | None) -> Any:
        """The record, or None if there is none."""

    @abstractmethod
    def existing(
        self, session: Any, model: Any, keys: Sequence[Key], database: str | None
    ) -> list[Key]:
        """Those of the keys that have a record, in one query."""


class SQLAlchemyModels(Library):
    """Mapped classes, looked up through the sessions that `App.records` was given."""

    def owns(self, kind: type) -> bool:
        orm = sys.modules.get("sqlalchemy.orm")
        return orm is not None and isinstance(getattr(kind, "__mapper__", None), orm.Mapper)

    def name(self, model: Any) -> str:
        return str(model.__name__)

    def identify(self, record: Any) -> tuple[Key, str | None]:
        state = record._sa_instance_state
        if state.identity is None:
            raise TypeError(
                f"this {type(record).__name__} has no primary key yet, so that no job could find"
                " it: add it to the session and flush or commit that first"
            )
        return tuple(state.identity), None

    def read(self, model: Any, parts: Sequence[Any]) -> Key:
        columns = model.__mapper__.primary_key
        if len(columns) != len(parts):
            raise ValueError(f"a key of {self.name(model)} has {len(columns)} parts")
        return tuple(map(_converted, columns, parts))

    def open(self, factory: Callable[[], Any] | None) -> Any:
        if factory is None:
            raise ConfigurationError(
                "a job's argument is a record of SQLAlchemy: tell the app how to open a session,"
                " app.records(sessionmaker(engine))"
            )
        session = factory()
        if hasattr(session, "run_sync"):
            raise ConfigurationError(
                "app.records was given something that opens async sessions: give it one that opens"
                " plain ones; for an async body, records are looked up in a thread"
            )
        return session

    def close(self, session: Any) -> None:
        session.close()

    def leave_thread(self, session: Any) -> None:
        pass  # the session goes along

    def load(self, session: Any, model: Any, key: Key, database: str | None) -> Any:
        return session.get(model, key if len(key) > 1 else key[0])

    def existing(
        self, session: Any, model: Any, keys: Sequence[Key], database: str | None
    ) -> list[Key]:
        mapper = model.__mapper__
        columns = [
            getattr(model, mapper.get_property_by_column(column).key)
            for column in mapper.primary_key
        ]
        query = session.query(*columns)
        if len(columns) == 1:
            return [tuple(row) for row in query.filter(columns[0].in_([key[0] for key in keys]))]
        one_of = None
        for key in keys:
            same = columns[0] == key[0]
            for column, part in zip(columns[1:], key[1:], strict=True):
                same = same & (column == part)
            one_of = same if one_of is None else one_of | same
        return [tuple(row) for row in query.filter(one_of)]


class DjangoModels(Library):
    """Django's models, looked up through their default managers."""

    def owns(self, kind: type) -> bool:
        models = sys.modules.get("django.db.models")
        if models is None or not issubclass(kind, models.Model):
            return False
        meta: Any = kind._meta  # type: ignore[attr-defined]  # Django has no types
        return not meta.abstract

    def name(self, model: Any) -> str:
        return str(model._meta.label)

    def identify(self, record: Any) -> tuple[Key, str | None]:
        if record.pk is None or record._state.adding:
            raise TypeError(
                f"this {type(record).__name__} is not in the database, so that no job could find"
                " it: save it first"
            )
        key = record.pk if isinstance(record.pk, tuple) else (record.pk,)
        return key, None if record._state.db in (None, "default") else record._state.db

    def read(self, model: Any, parts: Sequence[Any]) -> Key:
        fields = getattr(model._meta, "pk_fields", [model._meta.pk])  # several since Django 5.2
        if len(fields) != len(parts):
            raise ValueError(f"a key of {self.name(model)} has {len(fields)} parts")
        try:
            return tuple(field.to_python(part) for field, part in zip(fields, parts, strict=True))
        except Exception as error:  # Django's ValidationError is no ValueError
            raise ValueError(f"no key of {self.name(model)}: {error}") from None

    def open(self, factory: Callable[[], Any] | None) -> Any:
        # As at the beginning and end of a request: a connection that broke is made anew.
        sys.modules["django.db"].close_old_connections()

    def close(self, session: Any) -> None:
        sys.modules["django.db"].close_old_connections()

    def leave_thread(self, session: Any) -> None:
        self.close(session)

    def load(self, session: Any, model: Any, key: Key, database: str | None) -> Any:
        try:
            return model._default_manager.using(database).get(pk=_pk(key))
        except model.DoesNotExist:
            return None

    def existing(
        self, session: Any, model: Any, keys: Sequence[Key], database: str | None
    ) -> list[Key]:
        found = model._default_manager.using(database).filter(pk__in=[_pk(key) for key in keys])
        return [pk if isinstance(pk, tuple) else (pk,) for pk in found.values_list("pk", flat=True)]


LIBRARIES: tuple[Library, ...] = (SQLAlchemyModels(), DjangoModels())


def library_of(kind: object) -> Library | None:
    """The library whose model the class is; None: it is no model."""
    if not isinstance(kind, type):
        return None
    return next((library for library in LIBRARIES if library.owns(kind)), None)


def _pk(key: Key) -> Any:
    return key if len(key) > 1 else key[0]


def _converted(column: Any, part: Any) -> Any:
    """A part of a key as its column has it, where the column tells its type."""
    with contextlib.suppress(NotImplementedError):
        kind = column.type.python_type
        try:
            return msgspec.convert(part, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"no key of {column.table.name}: {error}") from None
        except TypeError:  # a type of the user's own
            return part
    return part
