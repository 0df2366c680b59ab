"""examples/mirror, run as its README says, and killed at random while it mirrors 40 repositories.

Everything is real: git, the web server, its worker, the entrypoint. The seed of the kills is
printed, and FAILBETTER_TEST_SEED replays the same choices.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.docs.pages import agrees, blocks, commands
from tests.faults.harness import PATIENCE, wait_until
from tests.faults.mirror_example import EXAMPLE, OWNERS, Example, Murderer, Visitor

AT_ONCE = 4  # repositories of a job
# Of the two runs: when the mirrors are made, and when they are updated.
KILLS = {
    "sqlite": (["child", "child", "supervisor", "all", "all"], ["child", "supervisor", "all"]),
    "postgresql": (["child", "all"], ["supervisor"]),
}

# What a visitor may be answered: on a busy machine the ledger's word may come too late.
CODES = {"/": {200}, "/livez": {200}, "/health": {200, 503}, "/readyz": {200, 503}}


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 repositories, made once."""
    folder = tmp_path_factory.mktemp("forty")
    maker = Example(folder)
    said = maker.make("--kilobytes", "40")
    maker.close()
    assert said.startswith("made 40 repositories in ")
    return maker.home / "sources"


@pytest.fixture
def start(tmp_path: Path, forty: Path) -> Iterator[Callable[..., Example]]:
    """Starts the example on copies of so many of the repositories."""
    made = []

    def begin(count: int, url: str | None = None, pause: float = 0.0) -> Example:
        example = Example(tmp_path, url, pause)
        made.append(example)
        for owner in OWNERS:
            for source in sorted((forty / owner).iterdir())[: count // len(OWNERS)]:
                shutil.copytree(source, example.home / "sources" / owner / source.name)
        return example

    yield begin
    for each in made:
        each.close()


@pytest.mark.timeout(240)
def test_it_is_killed_at_random_and_every_repository_is_mirrored(
    new_ledger: Callable[[Path], str], tmp_path: Path, start: Callable[..., Example]
) -> None:
    seed = int(os.environ.get("FAILBETTER_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"FAILBETTER_TEST_SEED={seed}")
    rng = random.Random(seed)
    example = start(40, new_ledger(tmp_path), pause=0.1)
    example.start()
    visitor = Visitor(example)
    visitor.start()
    murderer = Murderer(example, rng)
    for whom in KILLS[example.url.partition(":")[0].partition("+")[0]]:
        if murderer.done:  # the mirrors are made; now they are updated
            assert example.make("--change").startswith("changed 40 repositories")
        example.mirror_all()
        for one in rng.sample(whom, len(whom)):
            murderer.strike(one)
        wait_until(lambda: not example.live(), "the jobs to end", 60)
        example.check_mirrors()
    page = example.get("/").text
    wait_until(lambda: example.get("/health").json()["status"] == "pass", "all to be well")
    visitor.end()
    print(f"{dict(murderer.done)}; visits {dict(visitor.answers)}; {visitor.steps} steps")
    check_jobs(example, visitor, page)
    assert example.stop() in (0, -signal.SIGTERM)  # uvicorn has its ways of ending
    wait_until(lambda: not example.leftovers(), "its last process to end")


def check_jobs(example: Example, visitor: Visitor, page: str) -> None:
    """What must be so after any kills."""
    jobs = list(example.app.jobs)
    assert [(job.state, job.reason) for job in jobs] == [("succeeded", None)] * len(jobs)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    causes = Counter(attempt.cause for attempt in attempts)
    print(f"{len(jobs)} jobs, attempts {dict(causes)}, {example.begun()} gits")
    # The example's own lock was never found taken, nor the witness's.
    assert set(causes) <= {"returned", "crashed", "lost", "interrupted"}
    assert "twice" not in example.git_log.read_text()
    # What was interrupted went on where it was: a death costs what was under way, and no more.
    deaths = len(attempts) - causes["returned"]
    assert deaths >= 2
    assert 20 * len(jobs) <= example.begun() <= 20 * len(jobs) + AT_ONCE * deaths
    # What a visitor saw meanwhile.
    assert visitor.wrong == []
    assert visitor.steps > 10
    for path, codes in CODES.items():
        assert {code for seen, code in visitor.answers if seen == path} <= codes
        assert visitor.answers[path, 200] > 5
    # And at the end.
    assert sorted(Visitor.progress(page)) == sorted((job.id, 20, 20) for job in jobs[:20])


def test_one_bad_repository_is_named_and_the_others_are_mirrored(
    start: Callable[..., Example],
) -> None:
    example = start(6)
    example.start()
    bad = example.sources()[1]
    bad.joinpath("HEAD").rename(bad / "aside")
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    (job,) = example.app.failed
    assert (job.reason, job.args) == ("partial", {"owner": "ada"})
    page = example.get("/").text
    assert sorted(done for _, done, _ in Visitor.progress(page)) == [2, 3]
    assert f"2 of 3, 1 failed<small>{bad.name}: fatal: " in page
    bad.joinpath("aside").rename(bad / "HEAD")
    assert f'action="/retry/{job.id}"' in page
    before = example.begun()
    assert example.press(f"/retry/{job.id}") == 200
    assert job.result(PATIENCE) == 3
    assert example.begun() == before + 1  # the one that had failed
    example.check_mirrors()


def test_what_a_killed_git_left_behind_is_cleared_away(start: Callable[..., Example]) -> None:
    example = start(4)
    example.start()
    whole, half, *_ = example.sources()
    partial = example.mirror_of(half).with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "HEAD").write_text("nonsense")
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    example.make("--change")
    for name in ("packed-refs.lock", "refs/heads/main.lock", "HEAD.lock", "config.lock"):
        (example.mirror_of(whole) / name).parent.mkdir(parents=True, exist_ok=True)
        (example.mirror_of(whole) / name).touch()
    example.mirror_all()
    wait_until(lambda: not example.live(), "the jobs to end")
    assert example.app.failed.count() == 0
    example.check_mirrors()


def test_a_mirror_that_is_in_use_is_left_alone(start: Callable[..., Example]) -> None:
    example = start(2)
    source, _ = example.sources()
    mirror = example.mirror_of(source)
    mirror.parent.mkdir(parents=True)
    example.start()
    with mirror.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        example.press("/mirror/ada")
        (job,) = example.app.jobs
        wait_until(lambda: job.attempts, "an attempt")
        assert [attempt.cause for attempt in job.attempts] == ["released"]
        assert "another git works on" in (job.refresh().error_message or "")
        assert "ada" not in example.git_log.read_text()


def test_what_is_asked_for_in_vain_is_said(start: Callable[..., Example]) -> None:
    example = start(2)
    example.start()
    assert example.press("/mirror/eve") == 404
    assert example.press("/retry/nonsense") == 404
    assert example.press(f"/retry/{'0' * 13}") == 404
    example.press("/mirror/ada")
    (job,) = example.app.jobs
    assert job.result(PATIENCE) == 1
    assert example.press(f"/retry/{job.id}") == 409
    unknown = example.app.job(_enqueue(example, "../../etc"))
    wait_until(lambda: unknown.refresh().over, "its end")
    assert (unknown.state, unknown.reason) == ("failed", "by_task")
    assert "no owner &#x27;../../etc&#x27;" in example.get("/").text


def _enqueue(example: Example, owner: str) -> str:
    return example.run("failbetter", "-A", "tasks", "enqueue", "mirror_owner", owner).strip()


def test_its_readme_is_true(tmp_path: Path) -> None:
    """Its commands as they stand there, but for the port, and where all of it is kept."""
    example = Example(tmp_path)
    programs = f"{Path(sys.executable).parent}/"
    text = (EXAMPLE / "README.md").read_text("utf-8")
    found = [
        command
        for block in blocks(text)
        if block.language == "console" and not block.skipped
        for command in commands(block)
    ]
    exported = ""
    try:
        for command in found:
            typed = command.text.replace(".venv/bin/", programs)
            if typed == "examples/mirror/run.sh":
                example.start()
                wait_until(lambda: example.get("/readyz").status_code == 200, "the site")
                printed = example.output.read_text()
            elif typed.startswith("export "):
                exported = f"{typed} && "
                continue
            else:
                printed = example.run("bash", "-c", exported + typed)
            assert agrees(command.output, printed), (command.text, printed)
    finally:
        example.close()
    assert len(found) == 7
    for name in ("tasks.py", "web.py", "run.sh", "make_repositories.py"):
        assert f"`{name}`" in text
        assert (EXAMPLE / name).is_file()
