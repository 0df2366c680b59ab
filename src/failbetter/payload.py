"""Arguments as JSON: checked against the task's signature when enqueued, restored by annotation.

What is stored is an object with a member for each argument given, named as the parameter; of a
`*args` a list, of a `**kwargs` an object. Encoding decodes what it has made, so that what cannot
be restored is refused while the caller can still mend it.
"""

from __future__ import annotations

import inspect
import math
import typing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

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
    def _types(self) -> dict[str, Any]:
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
        try:
            encoded = _encode(given)
            self._decoder.decode(encoded)
        except msgspec.ValidationError as error:
            raise TypeError(f"{self._task}(): {_name_argument(str(error))}") from None
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
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._task}(): {error}") from None
        return self._struct(**bound.arguments)

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

        Raises ValueError (msgspec's) when the text does not fit the signature any more.
        """
        given = self._decoder.decode(raw)
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
