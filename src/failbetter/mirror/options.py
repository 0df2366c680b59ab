"""What `App.mirror` is given, checked, and what of it goes onto each job's row."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from failbetter import ledger, records
from failbetter.errors import ConfigurationError
from failbetter.lifecycle.states import REASONS, Reason, State
from failbetter.limits import bounded_key

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_NAME = re.compile(r"[^\W\d][\w$]{0,62}")
_STATE = re.compile(r"(\w+)(?:\((\w+)\))?")
_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")
_KEYED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """Whose rows follow which jobs. `tasks` None: of every task with the parameter `from_arg`.

    `url` None: in the ledger's own database.
    """

    table: str
    key: str
    from_arg: str
    status: str | None
    error: str | None
    ended_at: str | None
    values: dict[str, Any]
    tasks: frozenset[str] | None
    url: str | None

    def applies_to(self, task: str, signature: inspect.Signature) -> bool:
        """Whether the task's jobs are mirrored. Raises ConfigurationError if they cannot be."""
        found = signature.parameters.get(self.from_arg)
        fits = found is not None and found.kind in _KEYED
        if self.tasks is None:
            return fits
        if task in self.tasks and not fits:
            raise ConfigurationError(
                f"mirror of {self.table}: task {task} has no parameter {self.from_arg!r}"
            )
        return task in self.tasks

    @property
    def database(self) -> str | None:
        """What jobs' rows call the other database: its URL, without the password, hashed."""
        if self.url is None:
            return None
        return hashlib.sha256(_PASSWORD.sub(r"\1@", self.url).encode()).hexdigest()[:12]

    def of(
        self, task: str, signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[str, str] | tuple[None, None]:
        """The spec and the mirror key of a job with these arguments; none if the row's key is None.

        Raises TypeError for an argument that cannot be a key.
        """
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # Of a record, its key.
        value = msgspec.to_builtins(records.as_keys(bound.arguments[self.from_arg]))
        if value is None:
            return None, None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise TypeError(
                f"{task}(): argument {self.from_arg!r} is the key of a row in {self.table}:"
                f" a text or a whole number, not a {type(value).__name__}"
            )
        spec = ledger.mirrors.Spec(
            self.table,
            self.key,
            value,
            self.status,
            self.error,
            self.ended_at,
            self.values,
            self.database,
        )
        # A number and its text are one row. The first column is part of it: a row may have one
        # status for each of several tasks.
        where = f"{self.database or ''}|{self.table}.{self.key}|{spec.columns[0]}"
        return spec.to_json(), bounded_key(f"{where}|{msgspec.json.encode(str(value)).decode()}")


def checked_mirror(
    table: object,
    *,
    key: object,
    from_arg: object,
    status: object,
    error: object,
    ended_at: object,
    values: object,
    tasks: Collection[str] | None,
    url: str | None,
) -> Mirror:
    """A Mirror of what a user has given. Raises TypeError, ValueError, ConfigurationError."""
    name = _text("table", table)
    parts = name.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"table is the name of one, or schema.table, not {table!r}")
    columns = {
        what: _column(what, given)
        for what, given in (("status", status), ("error", error), ("ended_at", ended_at))
        if given is not None
    }
    if not columns:
        raise ConfigurationError(
            f"mirror of {name}: name at least one column to write: status=, error= or ended_at="
        )
    written = [*columns.values(), _column("key", key)]
    if len(set(written)) < len(written):
        raise ConfigurationError(f"mirror of {name}: a column is named twice: {written}")
    if url is not None:
        ledger.elsewhere.check_url(url)
    return Mirror(
        table=name,
        key=_column("key", key),
        from_arg=_text("from_arg", from_arg),
        status=columns.get("status"),
        error=columns.get("error"),
        ended_at=columns.get("ended_at"),
        values=_values(values, "status" in columns),
        tasks=None if tasks is None else frozenset(tasks),
        url=url,
    )


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {value!r}")
    return value


def _column(what: str, value: object) -> str:
    name = _text(what, value)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} is the name of a column, not {value!r}")
    return name


def _values(given: object, has_status: bool) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"values is a dict from states to what the column holds, not {given!r}")
    if not has_status:
        raise ConfigurationError("values are those of the status column: name it with status=")
    found = {}
    for state, value in given.items():
        _check_state(_text("a key of values", state))
        if value is not None and not isinstance(value, (str, int)):
            raise TypeError(
                f"values[{state!r}] is a text, a whole number, a boolean or None, not {value!r}"
            )
        found[str(state)] = value
    return found


def _check_state(text: str) -> None:
    match = _STATE.fullmatch(text)
    state, reason = match.groups() if match else (text, None)
    if state not in list(State):
        raise ValueError(
            f"values: {text!r} is no state; write one of {', '.join(State)}, or one with its"
            " reason, such as failed(timeout)"
        )
    known = sorted(REASONS[State(state)])
    if reason is not None and (reason not in list(Reason) or Reason(reason) not in known):
        reasons = ", ".join(known) or "it has none"
        raise ValueError(f"values: {reason!r} is no reason for {state}; there are: {reasons}")
