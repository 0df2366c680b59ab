"""References: what stands in a payload for a record, and the ways from one to the other."""

from __future__ import annotations

import functools
import operator
import types
import typing
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter.records.models import Key, library_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Models = tuple[type, ...]


class Stored(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A reference as the payload has it. `key`: a list if the primary key has several columns."""

    record: str = msgspec.field(name="$record")
    key: Any = msgspec.field(name="$key")
    database: str | None = msgspec.field(name="$database", default=None)


class Reference(msgspec.Struct, frozen=True):
    """A record by its model and key, which may not be there any more.

    `database`: of several of Django's, the one that is not the default.
    """

    model: type
    key: Key
    database: str | None = None

    def __str__(self) -> str:
        return self.shown(", ".join(map(str, self.key)))

    def shown(self, key: str) -> str:
        """What messages call it; with `key` in the place of the key."""
        return f"{_name(self.model)} {key}"


def models_in(hint: Any) -> Models:
    """The models that a parameter's annotation names."""
    if library_of(hint) is not None:
        return (hint,)
    found = [model for part in typing.get_args(hint) for model in models_in(part)]
    return tuple(dict.fromkeys(found))


def with_stored(hint: Any) -> Any:
    """The annotation with `Stored` in the place of models."""
    if library_of(hint) is not None:
        return Stored
    if not models_in(hint):
        return hint
    parts = tuple(with_stored(part) for part in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, parts)
    if origin is typing.Annotated:
        return parts[0]
    return origin[parts]


def as_stored(value: Any, models: Models) -> Any:
    """The argument with `Stored` in the place of records and references.

    Raises TypeError for a record of another model, and for one that has no key yet.
    """

    def change(part: Any) -> Any:
        if isinstance(part, Reference):
            key = list(part.key) if len(part.key) > 1 else part.key[0]
            return Stored(_name(part.model), key, part.database)
        library = library_of(type(part))
        if library is None:
            return part
        if not isinstance(part, models):
            wanted = " or ".join(f"`{model.__name__}`" for model in models)
            raise TypeError(f"expected {wanted}, got `{type(part).__name__}`")
        return change(Reference(type(part), *library.identify(part)))

    return _changed(value, change)


def located(value: Any, models: Models) -> Any:
    """The argument with references in the place of what was stored.

    Raises ValueError for one to a model that the parameter does not take, or for no key of it.
    """

    def change(part: Any) -> Any:
        if not isinstance(part, Stored):
            return part
        for model in _with_derived(models):
            if _name(model) == part.record:
                return _reference(model, part.key, part.database)
        wanted = " or ".join(map(_name, models))
        raise ValueError(f"it refers to a {part.record}, and a {wanted} is wanted")

    return _changed(value, change)


def as_references(value: Any, hint: Any) -> Any:
    """The argument with references in the place of bare keys, for want of records.

    For those parameters that take a record of one model, or a list of such. Raises ValueError.
    """
    if typing.get_origin(hint) is list and type(value) in (list, tuple):
        (inner,) = typing.get_args(hint)
        return [as_references(each, inner) for each in value]
    models = models_in(hint)
    alternatives = {hint, *typing.get_args(hint)} - {types.NoneType}
    if len(models) != 1 or alternatives - {hint} - {*models} or typing.get_origin(hint) is tuple:
        return value
    if value is None or isinstance(value, (dict, Stored, Reference)):
        return value
    return value if library_of(type(value)) is not None else _reference(models[0], value, None)


def references_in(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Reference]:
    """The references among a job's arguments."""
    todo = [*args, *kwargs.values()]
    while todo:
        part = todo.pop()
        if isinstance(part, Reference):
            yield part
        elif type(part) in (list, tuple):
            todo += part
        elif type(part) is dict:
            todo += part.values()


def as_keys(value: Any) -> Any:
    """The argument with keys in the place of records and references: what may be shown of it."""

    def change(part: Any) -> Any:
        found = key_of(part)
        return part if found is None else found

    return _changed(value, change)


def key_of(value: Any) -> Any:
    """A record's key, a list if it has several columns; None for what is no record."""
    if isinstance(value, Reference):
        key = value.key
    else:
        library = library_of(type(value))
        if library is None:
            return None
        key, _ = library.identify(value)
    return list(key) if len(key) > 1 else key[0]


def replaced(value: Any, record_of: Callable[[Reference], Any]) -> Any:
    """The argument with records in the place of references."""
    return _changed(value, lambda part: record_of(part) if isinstance(part, Reference) else part)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    found = change(value)
    if found is not value:
        return found
    if type(value) in (list, tuple):
        return type(value)(_changed(part, change) for part in value)
    if type(value) is dict:
        return {name: _changed(part, change) for name, part in value.items()}
    return value


def _name(model: type) -> str:
    library = library_of(model)
    return model.__name__ if library is None else library.name(model)


def _with_derived(models: Models) -> Iterator[type]:
    todo = list(models)
    while todo:
        model = todo.pop(0)
        if library_of(model) is not None:
            yield model
        todo += model.__subclasses__()


def _reference(model: type, key: Any, database: str | None) -> Reference:
    library = library_of(model)
    assert library is not None
    parts = key if isinstance(key, (list, tuple)) else [key]
    return Reference(model, library.read(model, parts), database)
