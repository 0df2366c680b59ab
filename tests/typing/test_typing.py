"""The public names: typed as users see them, documented, and nothing missing or beside them."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import failbetter

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def wanted() -> set[tuple[int, str]]:
    """(line, code) of each error that use.py says mypy must find."""
    found = set()
    for number, line in enumerate((HERE / "use.py").read_text().splitlines(), 1):
        mark = re.search(r"# error: ([\w, -]+)$", line)
        found |= {(number, code) for code in (mark[1].split(", ") if mark else ())}
    return found


@pytest.mark.slow
def test_a_users_code_is_typed(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--no-pretty",
            "--config-file=",
            f"--cache-dir={tmp_path}",
            str(HERE / "use.py"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert done.stderr == ""
    found = re.findall(r"use\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert {(int(line), code) for line, code in found} == wanted(), done.stdout
    assert len(wanted()) >= 10


def test_it_says_that_it_is_typed() -> None:
    assert (files("failbetter") / "py.typed").is_file()


# -- every public name


def test_all_is_sorted_and_complete() -> None:
    names = failbetter.__all__
    # As ruff has it: names in capitals, then classes, then functions.
    order = sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert names == order
    public = {
        name
        for name, value in vars(failbetter).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(names)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """What a class of ours defines for its users."""
    for base in kind.__mro__:
        if base.__module__.startswith("failbetter"):
            for name, value in vars(base).items():
                if not name.startswith("_"):
                    yield f"{kind.__name__}.{name}", value


def public() -> Iterator[tuple[str, Any]]:
    """Every public name and everything within it: (dotted name, object)."""
    for name in failbetter.__all__:
        value = getattr(failbetter, name)
        yield name, value
        if inspect.isclass(value):
            yield from members(value)


def plain(value: Any) -> Any:
    """The function behind a property, a static or a class method."""
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


NAMES = [
    pytest.param(name, plain(value), id=name)
    for name, value in public()
    if callable(plain(value)) or inspect.isclass(value)
]


@pytest.mark.parametrize(("name", "value"), NAMES)
def test_it_has_a_docstring(name: str, value: Any) -> None:
    doc = inspect.getdoc(value) if not inspect.isclass(value) else value.__doc__
    assert doc, f"{name} says nothing of itself"
    assert doc.strip()[-1] in ".`)…:", f"{name}: its docstring is no sentence"
    assert len(doc.split()) >= 2


@pytest.mark.parametrize(("name", "value"), NAMES)
def test_it_has_type_hints(name: str, value: Any) -> None:
    function = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(function) or "failbetter" not in function.__module__:
        return  # made by a base class or by msgspec, from annotations
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            assert parameter.annotation is not parameter.empty, f"{name}({parameter.name})"
    assert signature.return_annotation is not signature.empty, name


def test_what_can_be_raised_is_documented_where_it_is() -> None:
    for verb, errors in {
        failbetter.Task.enqueue: ("TypeError", "PayloadTooLarge", "LedgerError"),
        failbetter.Job.result: ("JobFailed", "TimeoutError"),
        failbetter.Job.cancel: ("Refused",),
        failbetter.Job.retry: ("Refused",),
        failbetter.App.job: ("JobNotFound", "ValueError"),
        failbetter.App: ("ConfigurationError",),
        failbetter.RunningJob.once: ("AttemptLost", "EffectUncertain", "TypeError"),
        failbetter.current_job: ("NotInJob",),
        failbetter.Jobs.where: ("ValueError",),
    }.items():
        for error in errors:
            assert error in (verb.__doc__ or ""), f"{verb.__qualname__}: {error}"


def test_every_error_is_an_exception_one_can_name() -> None:
    for name in failbetter.__all__:
        value = getattr(failbetter, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            assert value.__name__ == name


_AT_WORK = ("__main__", "demo.tasks", "drill.loaded", "drill.struck")
"""These do their work when they are imported."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(failbetter.__path__, "failbetter.")
    return sorted(
        module.name
        for module in found
        if not module.name.endswith(_AT_WORK) and ".migrations" not in module.name
    )


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is(name: str) -> None:
    doc = importlib.import_module(name).__doc__
    assert doc
    assert doc.strip()[-1] in ".`)…:\"'" or "──" in doc


def test_no_enum_of_ours_is_public_by_mistake() -> None:
    """States, reasons and causes are text to users: no import is needed to compare them."""
    assert not [
        name
        for name in failbetter.__all__
        if inspect.isclass(getattr(failbetter, name))
        and issubclass(getattr(failbetter, name), enum.Enum)
    ]
