"""Arguments as JSON: checked against the task's signature when enqueued, restored by annotation.

What is stored is an object with a member for each argument given, named as the parameter; of a
`*args` a list, of a `**kwargs` an object. Encoding decodes what it has made, so that what cannot
be restored is refused while the caller can still mend it. For a record a reference is stored.
"""

from __future__ import annotations

import inspect
import math
import typing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import records
from failbetter.errors import ConfigurationError, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_encode = msgspec.json.Encoder().encode
_PLAIN = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


class Arguments:
    """The codec of one function's arguments. The annotations are resolved at the first use."""

    def __init__(self, function: Callable[..., Any], task: str, limit: int) -> None:
        self._function = function
        self._task = task
        self._limit = limit
        self.signature = inspect.signature(function)
        self._parameters = list(self.signature.parameters.values())
        self._simple = all(parameter.kind in _PLAIN for parameter in self._parameters)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """What each parameter holds by its annotation, models and all."""
        try:
            hints = typing.get_type_hints(self._function, include_extras=True)
        except NameError as error:
            raise ConfigurationError(
                f"task {self._task}: an annotation cannot be resolved: {error}. Arguments are"
                " restored by annotation, so import the name at run time"
            ) from error
        types = {}
        for parameter in self._parameters:
            hint = hints.get(parameter.name, Any)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                hint = list[hint]  # type: ignore[valid-type]
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                hint = dict[str, hint]  # type: ignore[valid-type]
            types[parameter.name] = hint
        return types

    @cached_property
    def _models(self) -> dict[str, tuple[type, ...]]:
        """The models of which records are taken, by parameter."""
        found = {name: records.models_in(hint) for name, hint in self._hints.items()}
        return {name: models for name, models in found.items() if models}

    @property
    def has_records(self) -> bool:
        """Whether a parameter takes records: then `decode` gives references in their place."""
        return bool(self._models)

    @cached_property
    def _types(self) -> dict[str, Any]:
        """What is stored of each parameter."""
        if not self._models:
            return self._hints
        return {name: records.with_stored(hint) for name, hint in self._hints.items()}

    @cached_property
    def _open(self) -> list[str]:
        """Parameters whose annotation says nothing about (part of) the value."""
        return [name for name, hint in self._types.items() if _is_open(hint)]

    @cached_property
    def _struct(self) -> type[msgspec.Struct]:
        fields: list[tuple[str, Any, Any]] = []
        for name, hint in self._types.items():
            # Everything may be unset: the defaults of the code that runs the job apply.
            fields.append((name, hint | msgspec.UnsetType, msgspec.UNSET))
        # An argument that the code no longer takes must not be dropped in silence.
        return msgspec.defstruct(f"{self._task}_arguments", fields, forbid_unknown_fields=True)

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        try:
            return msgspec.json.Decoder(self._struct)
        except TypeError as error:
            raise ConfigurationError(
                f"task {self._task}: a parameter's type cannot be kept as JSON: {error}"
            ) from error

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The arguments as JSON text.

        Raises TypeError naming the argument that does not fit, PayloadTooLarge beyond the limit.
        """
        given = self._given(args, kwargs)
        self._refer(given)
        try:
            encoded = _encode(given)
            self._decoder.decode(encoded)
        except msgspec.ValidationError as error:
            raise TypeError(f"{self._task}(): {self._misfit(error)}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{self._task}(): {self._culprit(given)}: {error}") from None
        for name in self._open:
            _require_plain(getattr(given, name), f"{self._task}(): argument '{name}'")
        if b"null" in encoded:
            # So are NaN and infinity written, and for `float | None` that would be another value.
            for name in self._types:
                if (value := getattr(given, name)) is not msgspec.UNSET:
                    plain = msgspec.to_builtins(value, str_keys=True)
                    _require_plain(plain, f"{self._task}(): argument '{name}'")
        if len(encoded) > self._limit:
            raise PayloadTooLarge(
                f"{self._task}(): the arguments take {len(encoded)} bytes as JSON, the limit is"
                f" {self._limit}; store the data elsewhere and pass a reference"
            )
        return encoded.decode()

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        if self._simple and not kwargs and len(args) == len(self._parameters):
            return self._struct(*args)
        return self._struct(**self._bound(args, kwargs).arguments)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._task}(): {error}") from None

    def _refer(self, given: msgspec.Struct) -> None:
        """Put what is stored of records in their place. Raises TypeError, naming the argument."""
        for name, models in self._models.items():
            try:
                setattr(given, name, records.as_stored(getattr(given, name), models))
            except TypeError as error:
                raise TypeError(f"{self._task}(): argument '{name}': {error}") from None

    def _misfit(self, error: msgspec.ValidationError) -> str:
        """What does not fit, naming the argument and, where one is wanted, the model."""
        text = _name_argument(str(error))
        for name, models in self._models.items():
            if text.startswith(f"argument '{name}':"):
                # A reference is stored as an object.
                text = text.replace("`object", "`" + " | ".join(m.__name__ for m in models), 1)
        return text

    def read(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The (args, kwargs) that a caller in Python would give, of JSON values.

        For a record its key is taken, and a reference given. Raises as `encode`.
        """
        if self._models:
            call = self._bound(args, kwargs)
            for name in self._models.keys() & call.arguments.keys():
                call.arguments[name] = self._by_key(name, call.arguments[name])
            args, kwargs = call.args, call.kwargs
        return self.decode(self.encode(args, kwargs))

    def _by_key(self, name: str, value: Any) -> Any:
        try:
            return records.as_references(value, self._hints[name])
        except ValueError as error:
            raise TypeError(f"{self._task}(): argument '{name}': {error}") from None

    def edited(
        self, raw: str, changes: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The (args, kwargs) of a stored payload with other values for some of the parameters.

        `...` for a value takes the argument away. For a record its key is taken, too. Raises
        TypeError, naming what does not fit.
        """
        stored = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        for name, value in changes.items():
            if value is ... and name in stored:
                del stored[name]
            elif name not in self._types:
                raise TypeError(f"{self._task}(): there is no argument '{name}'")
            elif value is not ...:
                stored[name] = msgspec.Raw(self._encoded(name, value))
        try:
            return self.decode(_encode(stored))
        except msgspec.ValidationError as error:
            raise TypeError(f"{self._task}(): {self._misfit(error)}") from None
        except ValueError as error:
            raise TypeError(f"{self._task}(): {error}") from None

    def _encoded(self, name: str, value: Any) -> bytes:
        where = f"{self._task}(): argument '{name}'"
        value = self._by_key(name, value)
        try:
            if name in self._models:
                value = records.as_stored(value, self._models[name])
            encoded = _encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{where}: {error}") from None
        plain = value if name in self._open else msgspec.to_builtins(value, str_keys=True)
        _require_plain(plain, where)
        return encoded

    def _culprit(self, given: msgspec.Struct) -> str:
        for name in self._types:
            value = getattr(given, name)
            try:
                _encode(None if value is msgspec.UNSET else value)
            except (TypeError, ValueError, OverflowError):
                return f"argument '{name}'"
        return "arguments"

    def decode(self, raw: bytes | str | msgspec.Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The (args, kwargs) to call the function with.

        In the place of records are references. Raises ValueError (msgspec's) when the text does
        not fit the signature any more.
        """
        given = self._decoder.decode(raw)
        for name, models in self._models.items():
            try:
                setattr(given, name, records.located(getattr(given, name), models))
            except ValueError as error:
                raise msgspec.ValidationError(f"argument '{name}': {error}") from None
        if self._simple:
            values = msgspec.structs.astuple(given)
            if msgspec.UNSET not in values:
                return values, {}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self._parameters:
            value = getattr(given, parameter.name)
            if value is msgspec.UNSET:
                if parameter.default is parameter.empty and parameter.kind not in (
                    inspect.Parameter.VAR_POSITIONAL,
                    inspect.Parameter.VAR_KEYWORD,
                ):
                    raise msgspec.ValidationError(f"argument '{parameter.name}' is missing")
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                args.append(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY or len(args) < self._place(
                parameter.name
            ):
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def _place(self, name: str) -> int:
        return [parameter.name for parameter in self._parameters].index(name)


def _name_argument(message: str) -> str:
    """msgspec says `… - at `$.path``; say which argument that is."""
    what, at, path = message.partition(" - at `$.")
    if not at:
        return message
    path = path.rstrip("`")
    name = path.split("[")[0].split(".")[0]
    inside = "" if name == path else f" (at {path})"
    return f"argument '{name}': {what[:1].lower()}{what[1:]}{inside}"


def _is_open(hint: Any) -> bool:
    if hint is Any or hint is object or hint in (list, dict, tuple, set, frozenset):
        return True
    return any(_is_open(part) for part in typing.get_args(hint) if part is not Ellipsis)


def _require_plain(value: Any, where: str) -> None:
    """Without an annotation a value comes back as JSON has it, so it must be JSON already."""
    if value is None or value is msgspec.UNSET or isinstance(value, (bool, str)):
        return
    if isinstance(value, int) and type(value) is int:
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value!r} has no form in JSON")
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            _require_plain(item, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} would come back as text")
            _require_plain(item, where)
    else:
        raise TypeError(
            f"{where}: a {type(value).__name__} would come back as plain JSON;"
            " annotate the parameter with its type"
        )
