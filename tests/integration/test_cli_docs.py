"""docs/commands.md names each command and option there is, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from failbetter.cli import problems, settings
from failbetter.cli.program import program

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
COMMON = {"--app", "-A", "--url", "--json", "--help", "-h"}
WITHOUT_LEDGER = {"demo"}


def sections() -> dict[str, str]:
    """The page's text by heading."""
    parts = re.split(r"^##+ (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options_in(section: str) -> set[str]:
    """The options that a section's tables describe."""
    first_cells = re.findall(r"^\| (`-[^|]*) \|", section, flags=re.MULTILINE)
    return {
        name for cell in first_cells for name in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", cell)
    }


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its path."""
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")


ROOT = typer.main.get_command(program)
COMMANDS = dict(commands(ROOT))
FILTERS = options_in(sections()["Filters"])


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name[0] == "-"}


def described(path: str) -> set[str]:
    text = sections()[path]
    found = options_in(text) | (COMMON if path not in WITHOUT_LEDGER else {"--json"})
    if "Takes the filters" in text:
        found |= FILTERS
    return found - {"--help", "-h"}


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_the_options_of_its_section(path: str) -> None:
    assert options_of(COMMANDS[path]) == described(path)


def test_every_command_of_the_page_exists() -> None:
    others = {"Which ledger", "Settings", "Output", "Exit codes", "Filters"}
    assert set(sections()) == set(COMMANDS) | others
    named = set(re.findall(r"^\| \[`(\w+)`\]\(#\1\)", PAGE, flags=re.MULTILINE))
    assert named == set(ROOT.commands)


def test_the_options_before_a_command_are_described() -> None:
    assert options_of(ROOT) | {"--help", "-h"} == options_in(sections()["Which ledger"])


def test_every_setting_is_described() -> None:
    text = sections()["Settings"]
    assert {f"FAILBETTER_{name.upper()}" for name in settings.NAMES} == set(
        re.findall(r"FAILBETTER_\w+", text)
    )
    assert set(re.findall(r"`(\w+) = ", text)) == settings.NAMES


def test_every_exit_code_is_described() -> None:
    codes = {value for name, value in vars(problems).items() if name.isupper() and name[0] != "_"}
    found = {int(code) for code in re.findall(r"\b\d+\b", sections()["Exit codes"])}
    assert codes <= found
