"""Records as arguments in real workers (A12): models of SQLAlchemy and of Django."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.cli_ground import Ground

SQLALCHEMY = """
import os
import failbetter
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, object_session, sessionmaker

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

engine = create_engine("sqlite:///site.db")
Session = sessionmaker(engine)
app = failbetter.App("sqlite:///jobs.db", allow_edit=True)

def opened():
    if os.path.exists("down"):
        raise ConnectionError("the site's database is down")
    return Session()

app.records(opened)

def make():
    Base.metadata.create_all(engine)
    with Session() as session:
        session.add_all([User(id=n, name=f"user {n}") for n in (1, 2, 3)])
        session.commit()

def change(key, name):
    with Session() as session:
        user = session.get(User, key)
        if name is None:
            session.delete(user)
        else:
            user.name = name
        session.commit()

def get(key):
    with Session() as session:
        return session.get(User, key)

def save(user):
    object_session(user).commit()
"""

DJANGO = """
import os
import failbetter
import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"},
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": "other.db"},
    },
    INSTALLED_APPS=[],
)
django.setup()
from django.db import connections, models

class Manager(models.Manager):
    def get_queryset(self):
        if os.path.exists("down"):
            raise ConnectionError("the site's database is down")
        return super().get_queryset()

class User(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField()
    objects = Manager()

    class Meta:
        app_label = "site"

app = failbetter.App("sqlite:///jobs.db", allow_edit=True)

def make():
    for alias in ("default", "other"):
        with connections[alias].schema_editor() as editor:
            editor.create_model(User)
    for n in (1, 2, 3):
        User.objects.create(id=n, name=f"user {n}")
    User.objects.using("other").create(id=1, name="another")

def change(key, name):
    if name is None:
        User.objects.get(pk=key).delete()
    else:
        User.objects.filter(pk=key).update(name=name)

def get(key):
    return User.objects.filter(pk=key).first()

def save(user):
    user.save()
"""

TASKS = """

@app.task
def greet(user: User, word: str = "Hello") -> str:
    return f"{word}, {user.name}"

@app.task
async def agreet(user: User | None, *others: User) -> list[str | None]:
    return [user and user.name, *(other.name for other in others)]

@app.task(on_missing="discard", redact=("user",))
def drop(user: User) -> None:
    open("ran", "w").close()

@app.task
def rename(user: User, name: str, keep: bool) -> None:
    user.name = name
    if keep:
        save(user)

@app.task(max_attempts=2, backoff=0)
def stubborn(user: User) -> str:
    return user.name
"""


@pytest.fixture(params=[SQLALCHEMY, DJANGO], ids=["sqlalchemy", "django"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    made = Ground(tmp_path)
    made.write("site_of_ours.py", request.param + TASKS)
    script(made, "make()")
    return made


def script(ground: Ground, text: str) -> str:
    """Run Python in a process that has the app; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"from site_of_ours import *\n{text}"],
        cwd=ground.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def drain(ground: Ground, *options: str) -> None:
    ran = ground.run("-A", "site_of_ours:app", "worker", "--drain", "--processes", "1", *options)
    assert ran.code == 0, ran.err


def show(ground: Ground, job: str) -> tuple[str, str | None, object]:
    """Its state, reason and result."""
    found = ground.run("-A", "site_of_ours:app", "jobs", "show", job, "--json").document
    return found["state"], found["reason"], found["result"]


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_loaded_as_it_is_when_the_job_runs(ground: Ground, concurrency: str) -> None:
    plain = script(ground, "print(greet.enqueue(get(1)).id)")
    awaited = script(ground, "print(agreet.enqueue(get(1), get(2), get(3)).id)")
    none = script(ground, "print(agreet.enqueue(None).id)")
    script(ground, "change(1, 'Ada')")
    drain(ground, "--concurrency", concurrency)
    assert show(ground, plain) == ("succeeded", None, "Hello, Ada")
    assert show(ground, awaited) == ("succeeded", None, ["Ada", "user 2", "user 3"])
    assert show(ground, none) == ("succeeded", None, [None])


def test_a_record_that_is_gone_ends_the_job_as_its_task_says(ground: Ground) -> None:
    failed = script(ground, "print(greet.enqueue(get(3)).id)")
    dropped = script(ground, "print(drop.enqueue(get(3)).id)")
    script(ground, "change(3, None)")
    drain(ground)
    assert show(ground, failed) == ("failed", "missing_record", None)
    assert show(ground, dropped) == ("discarded", "missing_record", None)
    assert not (ground.folder / "ran").exists()
    for job, message in ((failed, "User 3"), (dropped, "User ***")):
        found = ground.run("-A", "site_of_ours:app", "jobs", "show", job, "--json").document
        assert found["error_type"] == "failbetter.MissingRecord"
        assert found["error_message"].endswith(message)
        (attempt,) = found["attempts"]
        assert (attempt["cause"], found["attempt"]) == ("refused", 1)
    counted = script(ground, f"print(app.job({failed!r}).row.attempts)")
    assert counted == "0"  # no budget is spent
    counts = script(ground, "print(app.failed.preview().counts())")
    assert counts == "{'ready': 0, 'missing_record': 1}"


def test_a_database_that_is_down_is_no_missing_record(ground: Ground) -> None:
    job = script(ground, "print(stubborn.enqueue(get(1)).id)")
    (ground.folder / "down").touch()
    drain(ground)
    assert show(ground, job) == ("failed", "error", None)
    assert script(ground, f"print(app.job({job!r}).error_type)") == "ConnectionError"
    assert script(ground, "print(app.failed.preview().counts())") == "{'ready': 1}"
    (ground.folder / "down").unlink()
    ground.run("-A", "site_of_ours:app", "jobs", "retry", job)
    drain(ground)
    assert show(ground, job) == ("succeeded", None, "user 1")


def test_what_the_body_does_not_commit_is_undone(ground: Ground) -> None:
    script(ground, "rename.enqueue(get(1), 'kept', True); rename.enqueue(get(2), 'lost', False)")
    drain(ground)
    assert script(ground, "print(get(1).name, get(2).name)") == "kept user 2"


def test_from_a_shell_a_record_is_given_by_its_key(ground: Ground) -> None:
    job = ground.run("-A", "site_of_ours:app", "enqueue", "greet", "2", "word=Hi").out.strip()
    drain(ground)
    assert show(ground, job) == ("succeeded", None, "Hi, user 2")
    listed = ground.run("-A", "site_of_ours:app", "jobs", "list", "--arg", "user=2", "--json")
    assert listed.document["total"] == 1
    refused = ground.run("-A", "site_of_ours:app", "enqueue", "greet", "9")
    assert refused.code == 1
    assert refused.complaint.startswith("greet(): there is no ")


def test_edited_to_another_record(ground: Ground) -> None:
    """Issue 5, items 5 and 6."""
    job = script(ground, "print(greet.enqueue(get(3)).id)")
    script(ground, "change(3, None)")
    drain(ground)
    cli = ("-A", "site_of_ours:app", "jobs", "retry", job)
    refused = ground.run(*cli, "--set", "user=9")
    assert refused.code == 1
    assert "there is no " in refused.out
    made = ground.run(*cli, "--set", "user=2", "--json").document[0]
    assert made["done"]
    drain(ground)
    assert script(ground, f"print(app.job(app.job({job!r}).edited_as.made).result())") == (
        "Hello, user 2"
    )


def test_of_several_django_databases_it_comes_from_its_own(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    ground.write("site_of_ours.py", DJANGO + TASKS)
    script(ground, "make()")
    job = script(ground, "print(greet.enqueue(User.objects.using('other').get(pk=1)).id)")
    drain(ground)
    assert show(ground, job) == ("succeeded", None, "Hello, another")
    assert "save it first" in script(
        ground,
        "try: greet.enqueue(User(id=5, name='new'))\nexcept TypeError as error: print(error)",
    )
