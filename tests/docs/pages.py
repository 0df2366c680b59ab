"""The user documentation as data: pages, and the blocks that are run.

A page is run from top to bottom, in one folder and one namespace. In it

- a `python` block is executed; what it prints must be what its `# -> …` comments say. A block
  whose first line is a comment that names a file (`# tasks.py`) is saved as that file instead.
- a `console` block is a terminal: lines after `$ ` are run, what stands below one is what it
  prints (`…` stands for anything). A worker without `--drain` stays until `^C` or the page's end.
- a block below a line that says `*Not run by our tests: …*` is left alone, for the reason given.

Blocks of other languages show something and are not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# What this folder answers for. Other pages of docs/ are generated, or have tests of their own.
RUN = (
    "README.md",
    "docs/index.md",
    "docs/start.md",
    "docs/tasks.md",
    "docs/fingerprints.md",
    "docs/operate.md",
    "docs/deploy.md",
    "docs/holds.md",
    "docs/hooks.md",
    "docs/triage.md",
    "docs/serve.md",
    "docs/databases.md",
    "docs/rq.md",
    "docs/adopt.md",
    "docs/celery.md",
    "docs/engines.md",
    "docs/move.md",
)
# The page whose app finds its ledger on a server, by the environment.
ON_A_SERVER = "docs/databases.md"

_FENCE = re.compile(r"^(`{3,})(\w*)\s*$")
_NOT_RUN = re.compile(r"^\*Not run by our tests: (.+)\*$")
_FILE = re.compile(r"^# ([\w/]+\.\w+)$")
_PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block: `line` is that of its first line of text; `skipped` the reason, if any."""

    language: str
    text: str
    line: int
    skipped: str | None = None

    @property
    def file(self) -> str | None:
        """The file that a block of Python is to be saved as."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found[1] if found and self.language == "python" else None


@dataclass(frozen=True)
class Command:
    """A line typed into a terminal, and the lines that it prints."""

    text: str
    line: int
    output: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether it is a worker that runs until it is stopped."""
        return bool(re.search(r"failbetter\b.*\bworker\b(?!.*--drain|.*--help)", self.text))


def pages() -> list[Path]:
    """Every page of the documentation that a user reads."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text, in order."""
    found = []
    lines = page.splitlines()
    number = 0
    said = ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            said = lines[number].strip() or said
            number += 1
            continue
        end = lines.index(fence[1], number + 1)
        skipped = _NOT_RUN.match(said)
        text = "\n".join(lines[number + 1 : end]) + "\n"
        found.append(Block(fence[2], text, number + 2, skipped[1] if skipped else None))
        said = ""
        number = end + 1
    return found


def commands(block: Block) -> list[Command]:
    """What a `console` block types and shows."""
    found: list[Command] = []
    for offset, line in enumerate(block.text.splitlines()):
        if line.startswith(_PROMPT):
            found.append(Command(line.removeprefix(_PROMPT), block.line + offset, ()))
        elif not found:
            raise ValueError(f"line {block.line + offset}: output without a command: {line!r}")
        else:
            last = found[-1]
            found[-1] = Command(last.text, last.line, (*last.output, line))
    return found


def prose(page: str) -> str:
    """A page's text without its fenced blocks."""
    kept = []
    fence = None
    for line in page.splitlines():
        found = _FENCE.match(line)
        if fence is None and found:
            fence = found[1]
        elif fence is None:
            kept.append(line)
        elif line == fence:
            fence = None
    return "\n".join(kept)


# -- output: what changes from run to run is no difference --------------------------------------

ID = re.compile(r"\b0[0-9a-hjkmnp-tv-z]{12}\b")
_VARIES = (
    (ID, "ID"),
    (re.compile(r"\b2-[0-9a-f]{16}\b"), "FINGERPRINT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?\b"), "TIME"),
    (re.compile(r"\b[\w.-]+:\d{1,7}\b"), "HOST:PID"),
    (re.compile(r"\bcode [0-9a-f]{12}\b"), "code VERSION"),
    (re.compile(r"\b[\d.]+ (ms|s|m) ago\b"), "AGO"),
    (re.compile(r"\b(after|passed in) [\d.]+ ?(ms|s)\b"), r"\1 SPAN"),
    (re.compile(r"\s+"), " "),
)


def normal(line: str) -> str:
    """The line with its ids, times and columns made alike."""
    for pattern, word in _VARIES:
        line = pattern.sub(word, line)
    return line.strip()


def pattern(shown: tuple[str, ...]) -> re.Pattern[str]:
    """What the normalised output must match: line by line, `…` for anything."""
    parts = []
    for line in shown:
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            inside = ".*?".join(re.escape(normal(part)) for part in line.split("…"))
            # A space beside `…` may be part of what it stands for.
            parts.append(inside.replace(r"\ .*?", r"\ ?.*?").replace(r".*?\ ", r".*?\ ?") + r"\n")
    return re.compile("".join(parts))


def agrees(shown: tuple[str, ...], printed: str) -> bool:
    """Whether the output that a page shows is what was printed. Blank lines do not count."""
    wanted = tuple(line for line in shown if line.strip())
    lines = [normal(line) for line in printed.splitlines()]
    text = "".join(f"{line}\n" for line in lines if line)
    return pattern(wanted).fullmatch(text) is not None
