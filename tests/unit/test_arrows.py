"""The imports inside failbetter point one way, and the pure rooms stay pure.

The source is read, never imported. A *room* is a top-level module or package of failbetter; the
root package itself is the room `__init__`. To allow something new, change a table below and say
why; a room that no table knows fails the test.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "failbetter"
ROOT = "failbetter"

# From the innermost to the outermost. A room may import the rooms of the rows above its own;
# two rooms of one row may not import each other, unless the row is a GROUP.
LEAVES = frozenset(
    {
        "errors",
        "durations",
        "ids",
        "faultpoints",
        "payload",
        "logs",
        "notify",
        "twins",
        "board",
        "limits",
        "doubt",
        "engine",
        "records",
    }
)
FRONT = frozenset({"app", "hooks", "options", "task"})
ROWS: tuple[frozenset[str], ...] = (
    LEAVES,
    frozenset({"lifecycle", "fleet"}),
    frozenset({"ledger"}),
    frozenset({"resume"}),  # lists that a body works through
    frozenset({"running"}),  # the handle in a body; the worker's child sets it
    frozenset({"job"}),  # the handle from outside
    frozenset(
        {
            "alerts",
            "breaker",
            "holds",
            "mirror",
            "rate_limit",
            "recovery",
            "restarts",
            "retention",
            "triage",
        }
    ),
    frozenset({"engines"}),  # clients of RQ and Celery: the App has one, whatever it is
    frozenset({"health"}),  # also of recovery's own
    FRONT,
    frozenset({"__init__"}),
    frozenset({"worker"}),  # what runs an App's bodies knows it; the App knows no runner
    frozenset({"celery", "rq"}),  # what runs in their workers, and what watches them
    frozenset({"cli", "demo", "drill", "integrations", "testing", "web"}),
    frozenset({"__main__"}),
)
GROUPS = (LEAVES, FRONT)

# Arrows beside the rows: (from, to), each with its reason.
SIDE_ARROWS: dict[tuple[str, str], str] = {
    ("cli", "worker"): "`failbetter worker` starts it",
    ("cli", "demo"): "`failbetter demo` starts it",
    ("cli", "drill"): "`failbetter drill` starts it, and writes what it shows",
}

# Outermost rooms that see of failbetter what a user sees: `import failbetter`, SIDE_ARROWS.
PUBLIC_NAMES_ONLY = frozenset({"cli", "demo", "web"})

# Imports inside functions, (module, target): only for what an extra brings, or an option.
LATE_IMPORTS: dict[tuple[str, str], str] = {
    ("failbetter.ledger.kinds", "failbetter.ledger.kinds.sqlite"): "loads its driver",
    ("failbetter.ledger.kinds", "failbetter.ledger.kinds.postgres"): "its driver is optional",
    ("failbetter.ledger.kinds", "failbetter.ledger.kinds.mysql"): "its driver is optional",
    ("failbetter.worker.status", "failbetter.worker.endpoint"): "brings an HTTP server along",
}

# Only the ledger speaks SQL. Elsewhere these modules may import these types, to annotate with.
SQL_LIBRARIES = frozenset({"sqlalchemy", "alembic", "sqlite3", "aiosqlite", "psycopg", "pymysql"})
SQL_TYPES_ROOMS = frozenset({"app", "task", "triage"})
SQL_TYPES = frozenset(
    {"URL", "AsyncConnection", "AsyncEngine", "AsyncSession", "Connection", "Engine", "Session"}
)

# What the lifecycle, and all that it imports of failbetter, may import from elsewhere: nothing
# here reads a clock, draws a number or touches the world (`datetime` can: see CLOCKS).
PURE_ROOMS = frozenset({"lifecycle"})
PURE_LIBRARIES = frozenset(
    {
        "__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses",
        "datetime", "decimal", "email.utils", "enum", "fnmatch", "fractions", "functools",
        "hashlib", "heapq", "itertools", "json", "keyword", "math", "msgspec", "numbers",
        "operator", "re", "reprlib", "statistics", "string", "textwrap", "types", "typing",
        "unicodedata",
    }
)  # fmt: skip
WORLD = frozenset({"open", "print", "input", "exec", "eval", "breakpoint", "__import__"})
CLOCKS = frozenset({"now", "utcnow", "today"})

When = Literal["load", "call", "typing"]


@dataclass(frozen=True)
class Import:
    """One name that one module imports: `target` is dotted, `name` what `from` takes of it."""

    target: str
    name: str | None
    line: int
    when: When  # at import time, when a function runs, or under TYPE_CHECKING only


@dataclass
class Module:
    """One file, as far as this test cares."""

    name: str
    is_package: bool
    path: str
    imports: list[Import] = field(default_factory=list)
    impure_calls: list[tuple[int, str]] = field(default_factory=list)

    @property
    def room(self) -> str:
        return room_of(self.name)

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def inside(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


class Reader(ast.NodeVisitor):
    """Collects a file's imports and the calls that reach the world."""

    def __init__(self, module: Module, known: set[str]) -> None:
        self.module = module
        self.known = known
        self.when: When = "load"

    def _within(self, when: When, nodes: list[ast.stmt] | list[ast.expr]) -> None:
        before = self.when
        if before != "typing":
            self.when = when
        for node in nodes:
            self.visit(node)
        self.when = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # Decorators and defaults run when the module loads, the body later.
        self._within(self.when, node.decorator_list)
        self.visit(node.args)
        self._within("call", node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._within("call", [node.body])

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self._within("typing", node.body)
            self._within(self.when, node.orelse)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, None, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = node.module or ""
        if node.level:
            # One dot is the module's own package, each further dot the one around it.
            package = self.module.name.split(".")
            up = node.level - 1 if self.module.is_package else node.level
            package = package[: len(package) - up]
            source = ".".join([*package, source] if source else package)
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            if submodule in self.known:
                self._add(submodule, None, node.lineno)
            else:
                self._add(source, alias.name, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if last in {"import_module", "__import__"} and node.args:
            match node.args[0]:
                case ast.Constant(value=str(target)):
                    self._add(target, None, node.lineno)
        if called in WORLD or ("." in called and last in CLOCKS and not inside(called)):
            self.module.impure_calls.append((node.lineno, f"{called}()"))
        self.generic_visit(node)

    def _add(self, target: str, name: str | None, line: int) -> None:
        self.module.imports.append(Import(target, name, line, self.when))


def read(source: Path) -> dict[str, Module]:
    """Every module below the folder `source`, by dotted name."""
    modules: dict[str, tuple[Module, Path]] = {}
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source).with_suffix("")
        is_package = relative.name == "__init__"
        parts = relative.parts[:-1] if is_package else relative.parts
        name = ".".join([ROOT, *parts])
        modules[name] = (Module(name, is_package, str(path.relative_to(source.parent))), path)
    for module, path in modules.values():
        Reader(module, set(modules)).visit(ast.parse(path.read_text("utf-8"), str(path)))
    return {name: module for name, (module, _) in modules.items()}


def own_imports(module: Module, *when: When) -> Iterator[Import]:
    return (i for i in module.imports if inside(i.target) and i.when in when)


# -- the rules: each gives one line per violation ------------------------------------------------


def unknown_rooms(modules: dict[str, Module]) -> list[str]:
    known = frozenset().union(*ROWS)
    rooms = {m.room: m for m in reversed(modules.values())}
    return [
        f"{module.path}: the room {room!r} stands in no row of ROWS; give it its place"
        for room, module in sorted(rooms.items())
        if room not in known
    ]


def wrong_arrows(modules: dict[str, Module]) -> list[str]:
    row_of = {room: number for number, row in enumerate(ROWS) for room in row}
    found = []
    for module in modules.values():
        here = module.room
        for imported in own_imports(module, "load", "call"):
            there = room_of(imported.target)
            if here not in row_of or there not in row_of or here == there:
                continue
            if (here, there) in SIDE_ARROWS:
                continue
            if here in PUBLIC_NAMES_ONLY:
                allowed = there == "__init__"
            else:
                together = any(here in group and there in group for group in GROUPS)
                allowed = together or row_of[there] < row_of[here]
            if not allowed:
                found.append(f"{module.at(imported.line)}: {here} may not import {imported.target}")
    return found


def cycles(modules: dict[str, Module]) -> list[str]:
    """The first cycle of imports that run when a module loads, if there is one."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for module in modules.values():
        for imported in own_imports(module, "load"):
            target = imported.target
            while target not in modules and "." in target:
                target = target.rpartition(".")[0]
            # The packages around the target load first. Those around the importer are loading
            # already, and count only where it takes a name out of them.
            while target not in {module.name, ""}:
                named = target == imported.target
                if target in modules and (named or not f"{module.name}.".startswith(f"{target}.")):
                    graph[module.name].add(target)
                target = target.rpartition(".")[0]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # graphlib names a cycle from the imported to the importer.
        return ["import cycle: " + " -> ".join(reversed(error.args[1]))]
    return []


def late_imports(modules: dict[str, Module]) -> list[str]:
    return [
        f"{module.at(imported.line)}: {imported.target} is imported inside a function"
        for module in modules.values()
        for imported in own_imports(module, "call")
        if (module.name, imported.target) not in LATE_IMPORTS
    ]


def sql_outside_the_ledger(modules: dict[str, Module]) -> list[str]:
    found = []
    for module in modules.values():
        for imported in module.imports:
            if module.room == "ledger" or imported.target.split(".")[0] not in SQL_LIBRARIES:
                continue
            if module.room in SQL_TYPES_ROOMS and imported.name in SQL_TYPES:
                continue
            what = f"{imported.target}.{imported.name}" if imported.name else imported.target
            found.append(f"{module.at(imported.line)}: {module.room} imports {what}")
    return found


def impurities(modules: dict[str, Module]) -> list[str]:
    """What the lifecycle, or a module of failbetter that it loads, does beside computing."""
    found = []
    reached = {name for name, module in modules.items() if module.room in PURE_ROOMS}
    todo = sorted(reached)
    while todo:
        module = modules[todo.pop()]
        for imported in module.imports:
            if imported.when == "typing":
                continue
            if imported.target in modules and imported.target not in reached:
                reached.add(imported.target)
                todo.append(imported.target)
            prefixes = imported.target.split(".")
            dotted = {".".join(prefixes[: n + 1]) for n in range(len(prefixes))}
            if imported.name:
                dotted.add(f"{imported.target}.{imported.name}")
            if not inside(imported.target) and not dotted & PURE_LIBRARIES:
                found.append(f"{module.at(imported.line)}: imports {imported.target}")
        found += [f"{module.at(line)}: calls {call}" for line, call in module.impure_calls]
    return sorted(found)


RULES = (
    unknown_rooms,
    wrong_arrows,
    cycles,
    late_imports,
    sql_outside_the_ledger,
    impurities,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_failbetter_keeps_the_rule(rule) -> None:
    assert rule(read(SOURCE)) == []


# -- the rules can fail --------------------------------------------------------------------------


def tree(folder: Path, **files: str) -> dict[str, Module]:
    """A made-up failbetter: `ledger__schema="import x"` writes ledger/schema.py."""
    source = folder / ROOT
    source.mkdir()
    for name, text in files.items():
        # A double underscore parts folder and file, but `__init__` has two of its own.
        parts = re.split(r"(?<=[a-z])__(?=[a-z_])", name)
        path = source.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return read(source)


GOOD = {
    "__init__": "from failbetter.app import App",
    "errors": "",
    "durations": "import re\nfrom failbetter.errors import E",
    "ids": "import os, time",
    "lifecycle____init__": "from failbetter.lifecycle.decide import decide",
    "lifecycle__decide": (
        "import math\nfrom email import utils\nfrom datetime import datetime\n"
        "from typing import TYPE_CHECKING\nfrom failbetter import durations\n"
        "from . import states\nfrom .states import S\n"
        "if TYPE_CHECKING:\n    import random\n    from failbetter.ledger import L"
    ),
    "lifecycle__states": "",
    "ledger____init__": "from .schema import jobs\nimport sqlalchemy as sa",
    "ledger__schema": "import sqlalchemy\nfrom failbetter import ids, lifecycle",
    "worker____init__": "",
    "worker__child": "import os\nimport failbetter.ledger.schema",
    "app": "from sqlalchemy import Connection\nfrom failbetter.task import Task",
    "task": "from failbetter.ledger import jobs",
    "cli____init__": "import failbetter\nfrom failbetter.worker import child\nfrom . import jobs",
    "cli__jobs": "import failbetter",
}


def test_a_good_tree_keeps_every_rule(tmp_path: Path) -> None:
    modules = tree(tmp_path, **GOOD)
    assert set(modules) >= {"failbetter", "failbetter.cli", "failbetter.cli.jobs"}
    assert {rule.__name__: rule(modules) for rule in RULES} == {r.__name__: [] for r in RULES}


def test_an_empty_package_keeps_every_rule(tmp_path: Path) -> None:
    modules = tree(tmp_path)
    assert [rule(modules) for rule in RULES] == [[]] * len(RULES)


@pytest.mark.parametrize(
    ("rule", "files", "says"),
    [
        (unknown_rooms, {"attic": ""}, "'attic' stands in no row"),
        (wrong_arrows, {"errors": "import failbetter.ledger"}, "errors may not import"),
        (wrong_arrows, {"lifecycle__decide": "from ..app import App"}, "lifecycle may not import"),
        (wrong_arrows, {"ledger__schema": "from failbetter import worker"}, "failbetter.worker"),
        (wrong_arrows, {"recovery": "from failbetter.worker import x"}, "recovery may not"),
        (wrong_arrows, {"app": "import failbetter"}, "app may not import failbetter"),
        (wrong_arrows, {"task": "def f():\n    from failbetter import cli"}, "task may not"),
        (wrong_arrows, {"task": "import importlib as i\ni.import_module('failbetter.cli')"}, ":2:"),
        (wrong_arrows, {"cli__jobs": "from failbetter.errors import E"}, "cli may not import"),
        (wrong_arrows, {"demo": "from failbetter import ledger"}, "demo may not import"),
        (cycles, {"errors": "from .durations import D"}, "failbetter.errors"),
        (cycles, {"ledger__schema": "from failbetter.ledger import jobs"}, "failbetter.ledger"),
        (cycles, {"lifecycle__states": "class A:\n    from . import decide"}, "lifecycle.states"),
        (cycles, {"cli__jobs": "from failbetter.cli import main"}, "failbetter.cli.jobs"),
        (cycles, {"errors": "import failbetter.ledger.schema"}, "failbetter.errors"),
        (late_imports, {"app": "def f():\n    from failbetter.task import T"}, "app.py:2:"),
        (late_imports, {"app": "async def f():\n    import failbetter.task"}, "app.py:2:"),
        (late_imports, {"app": "f = lambda: __import__('failbetter.task')"}, "app.py:1:"),
        (sql_outside_the_ledger, {"task": "import sqlalchemy"}, "task imports sqlalchemy"),
        (sql_outside_the_ledger, {"app": "from sqlalchemy import select"}, "sqlalchemy.select"),
        (sql_outside_the_ledger, {"worker__child": "import sqlite3"}, "worker imports sqlite3"),
        (sql_outside_the_ledger, {"ids": "from sqlalchemy import Engine"}, "ids imports"),
        (impurities, {"lifecycle__states": "import time"}, "imports time"),
        (impurities, {"lifecycle__states": "from random import Random"}, "imports random"),
        (impurities, {"lifecycle__states": "from os import path"}, "imports os"),
        (impurities, {"lifecycle__states": "import email"}, "imports email"),
        (impurities, {"lifecycle__states": "def f():\n    import socket"}, "imports socket"),
        (impurities, {"lifecycle__states": "import sqlalchemy.sql"}, "imports sqlalchemy.sql"),
        (impurities, {"lifecycle__states": "from datetime import date\ndate.today()"}, "today()"),
        (impurities, {"lifecycle__states": "def f(x):\n    return open(x)"}, "calls open()"),
        (impurities, {"lifecycle__states": "from failbetter import ids"}, "ids.py:1: imports os"),
    ],
)
def test_a_bad_tree_breaks_the_rule(tmp_path: Path, rule, files, says) -> None:
    found = rule(tree(tmp_path, **(GOOD | files)))
    assert len(found) >= 1
    assert any(says in line for line in found), found
