"""Jobs that refer to records (A12): found by key, previewed by whether the records exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import String, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from tests.conformance.kit import Ledger
from tests.conformance.test_preview import verdicts

from failbetter import App, Task, ids


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str | None] = mapped_column(String(50), default=None)


class Seat(Base):
    __tablename__ = "seats"
    show: Mapped[str] = mapped_column(String(50), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(app: App) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(app.url)
    Base.metadata.create_all(made)
    app.records(sessionmaker(made))
    yield made
    made.dispose()


@pytest.fixture
def session(engine: sqlalchemy.Engine) -> Iterator[Session]:
    with Session(engine) as opened:
        yield opened


@pytest.fixture
def greet(app: App) -> Task[[User, str], None]:
    @app.task
    def greet(user: User, word: str = "") -> None: ...

    return greet


def user_payload(key: int) -> str:
    return f'{{"user":{{"$record":"User","$key":{key}}}}}'


def test_enqueued_with_its_record_in_one_transaction(
    app: App, greet: Any, session: Session
) -> None:
    user = User()
    session.add(user)
    with pytest.raises(TypeError, match="flush"):
        greet.using(connection=session).enqueue(user)
    session.flush()
    job = greet.using(connection=session).enqueue(user)
    session.commit()
    assert job.refresh().args == {"user": {"$record": "User", "$key": user.id}}


def test_nothing_is_stored_of_what_nobody_could_find(
    app: App, greet: Any, session: Session
) -> None:
    with pytest.raises(TypeError, match="no primary key"):
        greet.enqueue(User())
    with pytest.raises(TypeError, match="no primary key"):
        greet.enqueue_many([(User(),)])
    assert app.jobs.count() == 0


def test_keys_of_a_job_are_made_of_the_record(app: App, session: Session) -> None:
    session.add_all([User(id=1), User(id=2)])
    session.commit()

    @app.task(
        unique=lambda user: user.id,
        exclusive=lambda user: user.id,
        subject=lambda user: f"user:{user.id}",
        version=lambda user: user.id,
    )
    def once(user: User) -> None: ...

    app.mirror("users", key="id", from_arg="user", status="state", tasks=[once])
    first = once.enqueue(session.get_one(User, 1))
    again = once.enqueue(session.get_one(User, 1))
    other = once.enqueue(session.get_one(User, 2))
    assert (again.created, again.id, other.created) == (False, first.id, True)
    assert (first.row.unique_key, first.row.subject) == ("once:1", "user:1")
    session.rollback()  # a new transaction, which sees what is there by now
    assert session.get_one(User, 1).state == "pending"


def test_found_by_the_key(app: App, greet: Any, session: Session) -> None:
    users = [User(id=number) for number in (1, 2, 12)]
    session.add_all([*users, Seat(show="Lear", number=3)])
    session.commit()
    jobs = [greet.enqueue(user) for user in users]

    @app.task
    def sit(seat: Seat) -> None: ...

    sit.enqueue(session.get_one(Seat, ("Lear", 3)))

    def found(value: object, name: str = "user") -> set[str]:
        return {job.id for job in app.jobs.where(args={name: value})}

    assert found(1) == {jobs[0].id}
    assert found("1*") == {jobs[0].id, jobs[2].id}
    assert found(3) == set()
    assert len(found(["Lear", 3], "seat")) == 1
    assert app.jobs.exclude(args={"user": 1}).count() == 3


def test_what_refers_to_a_record_that_is_gone(
    app: App, worked: Ledger, greet: Any, engine: sqlalchemy.Engine, session: Session
) -> None:
    """Issue 5, item 3: one query for each model, whatever the number of jobs."""
    session.add_all([User(id=number) for number in range(1, 21)])
    session.add(Seat(show="Lear", number=3))
    session.commit()

    @app.task
    def sit(seats: list[Seat], user: User | None = None) -> None: ...

    there = [worked.fail(task="greet", payload=user_payload(n)) for n in range(1, 21)]
    gone = worked.fail(task="greet", payload=user_payload(99))
    seat = '{"seats":[{"$record":"Seat","$key":["Lear",3]},{"$record":"Seat","$key":["Lear",4]}]}'
    seats = worked.fail(task="sit", payload=seat)
    none = worked.fail(task="sit", payload='{"seats":[],"user":null}')
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: queries.append(given[2]))
    found = verdicts(app.failed.preview())
    assert len(queries) == 2
    assert {found[number] for number in [*there, none]} == {("ready", None)}
    assert found[gone] == ("missing_record", "there is no User 99")
    assert found[seats] == ("missing_record", "there is no Seat Lear, 4")
    operation = app.failed.retry(all=True, confirm=True)
    assert operation.moved == 21
    assert app.job(ids.to_text(gone)).state == "failed"


def test_a_redacted_key_is_not_told(app: App, worked: Ledger, session: Session) -> None:
    from failbetter.lifecycle.policy import Policy

    @app.task(redact=("user",))
    def hide(user: User) -> None: ...

    policy = Policy(redact=("user",))
    number = worked.fail(task="hide", payload=user_payload(123456), policy=policy)
    assert verdicts(app.failed.preview())[number] == ("missing_record", "there is no User ***")
    assert app.failed.where(args={"user": 123456}).count() == 0


def test_where_records_cannot_be_asked_for_the_job_is_ready(
    app: App, worked: Ledger, greet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.records(sessionmaker(sqlalchemy.create_engine("sqlite:////nowhere/at/all.db")))
    number = worked.fail(task="greet", payload=user_payload(1))
    assert verdicts(app.failed.preview())[number] == ("ready", None)
    assert "cannot be asked" in caplog.text


def test_how_a_session_is_opened_is_called(app: App) -> None:
    with pytest.raises(TypeError, match="sessionmaker"):
        app.records("sqlite://")  # type: ignore[arg-type]
