"""Records as arguments (A12): what is stored for them, and what cannot be. Models of SQLAlchemy."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from failbetter import ConfigurationError, records
from failbetter.payload import Arguments
from failbetter.records.loading import comparable
from failbetter.worker.verdict import secret_texts


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="user")
    name: Mapped[str | None] = mapped_column(default=None)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user"}  # noqa: RUF012


class Admin(User):
    __mapper_args__ = {"polymorphic_identity": "admin"}  # noqa: RUF012


class Seat(Base):
    __tablename__ = "seats"
    show: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    row: Mapped[dt.date] = mapped_column(primary_key=True)


SHOW = uuid.UUID(int=5)
DAY = dt.date(2026, 1, 31)


@pytest.fixture
def session() -> Iterator[Session]:
    engine = sqlalchemy.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        opened.add_all([User(id=1), Admin(id=2), Seat(show=SHOW, row=DAY)])
        opened.commit()
        yield opened
    engine.dispose()


def mail(
    user: User, *copies: User, seat: Seat | None = None, seats: list[Seat] | None = None, n: int = 0
) -> None: ...


def codec(function: Any = mail) -> Arguments:
    return Arguments(function, "mail", 10_000)


def test_a_key_is_stored(session: Session) -> None:
    user, seat = session.get_one(User, 1), session.get_one(Seat, (SHOW, DAY))
    stored = codec().encode((user, user), {"seat": seat})
    assert stored == (
        '{"user":{"$record":"User","$key":1},"copies":[{"$record":"User","$key":1}],'
        f'"seat":{{"$record":"Seat","$key":["{SHOW}","2026-01-31"]}}}}'
    )


def test_a_reference_comes_back_with_a_key_of_the_columns_types(session: Session) -> None:
    seat = session.get_one(Seat, (SHOW, DAY))
    stored = codec().encode((session.get_one(User, 1),), {"seats": [seat], "n": 3})
    args, kwargs = codec().decode(stored)
    assert args == (records.Reference(User, (1,)),)
    assert kwargs == {"seats": [records.Reference(Seat, (SHOW, DAY))], "n": 3}
    # What was restored can be stored again.
    assert codec().encode(args, kwargs) == stored


def test_none_is_none_and_a_default_is_left_to_the_code(session: Session) -> None:
    stored = codec().encode((session.get_one(User, 1),), {"seat": None})
    assert codec().decode(stored) == ((records.Reference(User, (1,)),), {"seat": None})


def test_a_derived_model_is_found_again(session: Session) -> None:
    stored = codec().encode((session.get_one(User, 2),), {})
    assert codec().decode(stored)[0] == (records.Reference(Admin, (2,)),)


@pytest.mark.parametrize("is_pending", [False, True])
def test_without_a_key_it_is_refused(session: Session, is_pending: bool) -> None:
    user = User()
    if is_pending:
        session.add(user)
    with pytest.raises(TypeError, match=r"'user': this User has no primary key yet.*flush"):
        codec().encode((user,), {})
    if is_pending:
        session.flush()
        codec().encode((user,), {})


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (7, "argument 'user': expected `User`, got `int`"),
        (None, "argument 'user': expected `User`, got `null`"),
        ("seat", "argument 'user': expected `User`, got `Seat`"),
    ],
)
def test_what_is_no_such_record(session: Session, user: Any, says: str) -> None:
    given = session.get_one(Seat, (SHOW, DAY)) if user == "seat" else user
    with pytest.raises(TypeError, match=says):
        codec().encode((given,), {})


def test_a_record_needs_an_annotation(session: Session) -> None:
    with pytest.raises(TypeError, match="argument 'x'"):
        codec(lambda x: None).encode((session.get_one(User, 1),), {})


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ('{"user":{"$record":"Order","$key":1}}', "refers to a Order, and a User is wanted"),
        ('{"user":{"$record":"User","$key":[1,2]}}', "a key of User has 1 parts"),
        ('{"user":{"$record":"User","$key":"x"}}', "no key of users"),
        ('{"user":1}', "object"),
    ],
)
def test_what_fits_no_more_is_not_run(stored: str, says: str) -> None:
    """It ends unloadable, as all arguments that do not fit; never another model's record."""
    with pytest.raises(ValueError, match=says):
        codec().decode(stored)


def test_keys_are_read_where_json_is_given() -> None:
    args, kwargs = codec().read((1, 2), {"seat": [str(SHOW), "2026-01-31"], "seats": []})
    assert args == (records.Reference(User, (1,)), records.Reference(User, (2,)))
    assert kwargs == {"seat": records.Reference(Seat, (SHOW, DAY)), "seats": []}
    with pytest.raises(TypeError, match="argument 'user': no key of users"):
        codec().read(("Ada",), {})


def test_a_key_is_no_record_where_it_could_be_meant_as_it_is() -> None:
    def either(user: User | int) -> None: ...

    assert codec(either).read((7,), {}) == ((7,), {})


def test_edited_arguments() -> None:
    """Issue 5, item 5."""
    stored = '{"user":{"$record":"User","$key":1},"n":1}'
    edited = codec().edited(stored, {"user": 2, "n": ...})
    assert edited == ((records.Reference(User, (2,)),), {})
    assert codec().edited('{"user":{"$record":"User","$key":1},"old":1}', {"old": ...})[1] == {}
    for changes, says in (
        ({"m": 1}, r"mail\(\): there is no argument 'm'"),
        ({"n": "x"}, r"mail\(\): argument 'n': expected `int`, got `str`"),
        ({"n": float("nan")}, "has no form in JSON"),
        ({"n": object()}, "argument 'n'"),
        ({"user": ...}, "argument 'user' is missing"),
    ):
        with pytest.raises(TypeError, match=says):
            codec().edited(stored, changes)


def test_a_redacted_records_key_is_masked() -> None:
    hidden = secret_texts({"user": records.Reference(User, (12345,))}, ("user",))
    assert "12345" in hidden
    assert "User" not in hidden


def test_keys_that_a_database_holds_to_be_the_same() -> None:
    from decimal import Decimal

    assert comparable(("Ada ", Decimal("1.50"))) == comparable(("ADA", Decimal("1.5")))
    utc = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    there = utc.astimezone(dt.timezone(dt.timedelta(hours=2)))
    assert comparable((utc,)) == comparable((there,))


# -- looking up


def test_records_live_in_one_session_that_is_closed(session: Session) -> None:
    found = records.Records()
    found.factory = sessionmaker(session.get_bind())
    with found.loaded(
        (records.Reference(User, (1,)), 5), {"b": [records.Reference(Admin, (2,))]}
    ) as (
        args,
        kwargs,
    ):
        inside = Session.object_session(args[0])
        assert inside is Session.object_session(kwargs["b"][0])
        assert inside is not None
        assert (args[0].id, args[1], type(kwargs["b"][0])) == (1, 5, Admin)
        args[0].name = "Ada"
        inside.flush()
    session.expire_all()
    assert session.get_one(User, 1).name is None


def test_what_is_missing_is_named(session: Session) -> None:
    found = records.Records()
    found.factory = sessionmaker(session.get_bind())
    gone = records.Reference(User, (9,))
    with pytest.raises(records.Missing, match="there is no User 9"), found.loaded((gone,), {}):
        pass
    there = {records.Reference(User, (1,)), records.Reference(Seat, (SHOW, DAY))}
    both = {gone, records.Reference(Seat, (SHOW, dt.date(2026, 2, 1)))}
    assert found.missing(there | both) == both


def test_what_cannot_be_asked_is_not_said_to_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    found = records.Records()
    assert found.missing({records.Reference(User, (1,))}) == set()
    assert "cannot be asked" in caplog.text
    with (
        pytest.raises(ConfigurationError, match=r"app\.records\(sessionmaker"),
        found.loaded((records.Reference(User, (1,)),), {}),
    ):
        pass


def test_async_sessions_are_refused_in_plain_words() -> None:
    class AsyncSession:
        def run_sync(self) -> None: ...

    found = records.Records()
    found.factory = AsyncSession
    with (
        pytest.raises(ConfigurationError, match="opens plain ones"),
        found.loaded((records.Reference(User, (1,)),), {}),
    ):
        pass
