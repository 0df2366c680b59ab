"""The pages are whole: every name and option is there, every link leads somewhere."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest
from tests.docs.pages import DOCS, ROOT, pages, prose

import failbetter
from failbetter.lifecycle.policy import Policy
from failbetter.lifecycle.public import _SENTENCES

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]+`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(r"^\| `(\w+)` \| (.+?) \|", re.MULTILINE)

# Hosts of package registries, and places on somebody's own machine.
_NOT_IN_A_PAGE = re.compile(
    r"pypi\.(org|python)|pythonhosted|npmjs|crates\.io|ghcr\.io|docker\.io|quay\.io|anaconda\.org"
    r"|files\.pyth|proxy\.golang|/root\b|/home/|/Users/|/tmp\b|/work\b|/opt/|[A-Z]:\\",
    re.IGNORECASE,
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The headings of a page as they stand in a link."""
    found = set()
    for heading in _HEADING.findall(prose(page.read_text("utf-8"))):
        plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower()
        found.add(plain.replace(" ", "-"))
    return found


def dead_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    dead = []
    for link in _LINK.findall(_CODE.sub("", prose(page.read_text("utf-8")))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        known = target.exists() and (not anchor or anchor in anchors(target))
        if not known:
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_no_page_names_a_registry_or_a_place_on_a_machine(page: Path) -> None:
    assert [found[0] for found in _NOT_IN_A_PAGE.finditer(page.read_text("utf-8"))] == []


@pytest.mark.parametrize("image", sorted((DOCS / "images").glob("*.svg")), ids=name)
def test_no_image_does_either(image: Path) -> None:
    # What fonts and namespaces the picture names is no page's doing; its text is.
    text = re.sub(r"<[^>]*>", "\n", image.read_text("utf-8"))
    assert [found[0] for found in _NOT_IN_A_PAGE.finditer(text)] == []


def test_every_public_name_is_explained() -> None:
    text = (DOCS / "index.md").read_text("utf-8")
    assert [each for each in failbetter.__all__ if f"`{each}`" not in text] == []


def test_no_name_is_explained_that_is_none() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE)
    names = {each for row in rows for each in re.findall(r"`(\w+)`", row)}
    assert names - set(failbetter.__all__) == set()


def options() -> dict[str, object]:
    """What `@app.task` takes, with its defaults."""
    decorating = typing.get_overloads(failbetter.App.task)[-1]
    parameters = inspect.signature(decorating).parameters.values()
    found = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert len(found) > 15
    return found | {"backoff": Policy().backoff}


def test_every_option_of_a_task_is_documented_with_its_default() -> None:
    known = {"exponential": failbetter.exponential, "Exception": Exception}
    table = (DOCS / "tasks.md").read_text("utf-8").partition("## All options")[2]
    rows = _OPTION.findall(table.partition("\n## ")[0])
    told = {
        option: eval(default.strip("`"), known) if default.startswith("`") else None
        for option, default in rows
    }
    assert told == options()


def test_what_users_are_told_is_on_the_page() -> None:
    text = (DOCS / "tasks.md").read_text("utf-8").partition("## Keep a row")[2]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([^.]+\.)", text, re.MULTILINE)
    assert {(state, reason): said for state, reason, said in rows} == dict(_SENTENCES)


def test_every_page_can_be_found_from_the_index() -> None:
    index = DOCS / "index.md"
    linked = set()
    for link in _LINK.findall(index.read_text("utf-8")):
        linked.add((DOCS / link.partition("#")[0]).resolve())
    top = set(DOCS.glob("*.md")) - {index}
    assert top - linked == set()


# -- the rules can fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](b.md)", ["b.md"]),
        ("[a](#none)", ["#none"]),
        ("# A `b`, c!\n[a](#a-b-c)", []),
        ("![picture](none.svg)", ["none.svg"]),
        ("[a](https://example.org/none)", []),
        ("`[a](b.md)`\n```text\n[a](b.md)\n```", []),
    ],
)
def test_a_dead_link_is_found(text: str, dead: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    assert dead_links(page) == dead


@pytest.mark.parametrize("text", ["see pypi.org", "in /root/x", "at /home/ada", "C:\\Users"])
def test_a_place_is_found(text: str) -> None:
    assert _NOT_IN_A_PAGE.search(text)
