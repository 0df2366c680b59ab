"""Over real failures of real libraries: one cause, one fingerprint; two causes, two.

The rule was made with the shop's failures; the press's and the lab's were held out (see
docs/decisions/fingerprint.md for what they showed at first).
"""

from __future__ import annotations

import pytest
from tests.corpus.measure import (
    Labelled,
    Rule,
    by_type,
    by_type_and_function,
    load,
    mistakes,
    quality,
    thinned,
)

from failbetter import Failure, fingerprint

HALVES = {"made with": ["shop.jsonl"], "held out": ["press.jsonl", "lab.jsonl"]}
PARTS = {**HALVES, "all": [name for names in HALVES.values() for name in names]}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> tuple[str, list[Labelled]]:
    return request.param, load(*PARTS[request.param])


def told(name: str, corpus: list[Labelled], rule: Rule, rule_name: str) -> str:
    labels = len({one.label for one in corpus})
    measured = quality(corpus, rule)
    return f"{name:<10} {len(corpus)} failures, {labels} causes  {rule_name:<18} {measured}"


def test_quality(part: tuple[str, list[Labelled]], capsys: pytest.CaptureFixture[str]) -> None:
    name, corpus = part
    merged, split = mistakes(corpus, fingerprint)
    with capsys.disabled():
        print()
        print(told(name, corpus, by_type, "type"))
        print(told(name, corpus, by_type_and_function, "type and function"))
        print(told(name, corpus, fingerprint, "fingerprint"))
        print("  merged:", merged, " split:", split)
    found = quality(corpus, fingerprint)
    assert found.precision >= 0.95
    assert found.f1 >= 0.85
    for anchor in (by_type, by_type_and_function):
        assert found.f1 > quality(corpus, anchor).f1 + 0.2


@pytest.mark.parametrize("without", ["code", "module", "own frames", "frames"])
def test_quality_of_poorer_failures(without: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of other origins: no source lines, no names of modules, no frame of the user's own."""
    corpus = load(*PARTS["all"])

    def rule(failure: Failure) -> str:
        return fingerprint(thinned(failure, without))

    with capsys.disabled():
        print()
        print(told(f"no {without}", corpus, rule, "fingerprint"))
    found = quality(corpus, rule)
    assert found.precision >= 0.92
    assert found.f1 >= 0.85


def test_the_corpus_is_large_and_of_real_libraries() -> None:
    corpus = load(*PARTS["all"])
    text = " ".join(frame.file for one in corpus for frame in one.failure.frames)
    assert len({one.label for one in corpus}) >= 150
    for library in ("requests", "httpx", "urllib3", "sqlalchemy", "psycopg", "redis", "botocore",
        "aiohttp", "django", "rq"):  # fmt: skip
        assert f"site-packages/{library}/" in text
    assert "/tmp/" not in text
    assert "/root/.pyenv" not in text
